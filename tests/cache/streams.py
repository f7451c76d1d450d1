"""Plans, and random streams with the parallel convolution that they must reproduce."""

from __future__ import annotations

import torch

import futurefill_kernels as ff
from futurefill_kernels import FutureFillCache, Plan
from tests.oracles import PRECISE, relative_error

PLANS = [
    (1,),
    (4,),
    (1, 2, 4, 8),
    (2, 6, 12),
    (3, 12, 24),
    (8, 24, 96),
    (16, 32, 64),
    (5, 35),
    (200,),
    ((2, 6, 12), 6),
    ((1, 2, 4, 8, 16), 2),
    ((4, 8, 32), 8),
    ((3, 15), 15),
]


def plan_of(length, sizes):
    """A plan from a row of PLANS: block sizes, or (block sizes, slack_from)."""
    if isinstance(sizes[0], tuple):
        return Plan(length, sizes[0], slack_from=sizes[1])
    return Plan(length, sizes)


class Stream:
    """Random filters, inputs and gates, and the parallel convolution they must reproduce."""

    def __init__(self, seed, *, batch, channels, groups, layers, taps, total, dtype=PRECISE):
        g = torch.Generator().manual_seed(seed)

        def randn(*shape):
            return torch.randn(*shape, generator=g, dtype=torch.float64).to(dtype)

        self.h = [randn(groups, taps) / taps**0.5 for _ in range(layers)]
        self.skip = randn(layers, channels)
        self.u, self.pre, self.post = (randn(layers, batch, channels, total) for _ in range(3))
        self.layers, self.dtype = layers, dtype
        self.expected = torch.stack(
            [
                self.post[i].double()
                * ff.causal_conv(
                    self.pre[i].double() * self.u[i], self.h[i].double(), self.skip[i].double()
                )
                for i in range(layers)
            ]
        )
        self.got = torch.zeros_like(self.expected)

    def cache(self, length, sizes, impl, rollback=0):
        _, batch, channels, _ = self.u.shape
        return FutureFillCache(
            self.h,
            batch,
            length,
            channels=channels,
            skip=self.skip.to(self.dtype),
            plan=None if sizes is None else plan_of(length, sizes),
            impl=impl,
            rollback=rollback,
        )

    def prefill(self, cache, start, stop):
        for i in range(self.layers):
            at = (i, slice(None), slice(None), slice(start, stop))
            self.got[at] = cache.prefill(
                self.u[at], i, pre=self.pre[at], post=self.post[at]
            ).double()

    def step(self, cache, t):
        for i in range(self.layers):
            at = (i, ..., t)
            self.got[at] = cache.step(self.u[at], i, pre=self.pre[at], post=self.post[at]).double()

    def error(self, start=0, stop=None):
        return relative_error(self.got[..., start:stop], self.expected[..., start:stop])
