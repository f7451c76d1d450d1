"""Calls that a cache refuses, at any moment."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

import futurefill_kernels as ff

from .values import Filters


def between_tokens(cache: ff.FutureFillCache, first: Filters) -> list[Callable[[], Any]]:
    """Between tokens. first: the filters that the cache was made with."""
    shape = (cache.batch_size, cache.channels)
    u = torch.zeros(shape, dtype=cache.dtype)
    many, other = u[..., None], torch.complex64
    recorded = u.clone().requires_grad_()
    everyone = list(range(cache.batch_size))
    calls: list[Callable[[], Any]] = [
        lambda: cache.step(u[:, :-1]),
        lambda: cache.step(u, 1 + cache.layers),
        lambda: cache.step(u.to(other)),
        lambda: cache.step(recorded),
        lambda: cache.step(u, pre=u[:-1]),
        lambda: cache.step(u, out=u.double() if cache.dtype != torch.float64 else u.float()),
        lambda: cache.step(u, rows=[cache.batch_size]),
        lambda: cache.step(u, rows=[*everyone[1:], -2]),
        lambda: cache.prefill(u),
        lambda: cache.prefill(many[:, :-1]),
        lambda: cache.prefill(many.to(other)),
        lambda: cache.prefill(recorded[..., None]),
        lambda: cache.prefill(many, post=many.expand(-1, -1, 2)),
        lambda: cache.prefill(many, lengths=[2] * cache.batch_size),
        lambda: cache.prefill(many[:1], rows=[0, 0]),
        lambda: cache.prefill(many, rows=[*everyone[1:], cache.batch_size]),
        lambda: cache.crop([0] * (cache.batch_size + 1)),
        lambda: cache.crop(-1),
        lambda: cache.crop([0] * (cache.batch_size - 1) + [-1]),
        lambda: cache.reorder([0] * (cache.batch_size + 1)),
        lambda: cache.reorder([*everyone[1:], cache.batch_size]),
        lambda: cache.reset([cache.batch_size]),
        lambda: cache.reset([0, 0]),
        lambda: cache.load_state_dict({}),
        lambda: cache.run(u),
        lambda: cache.run(many[:, :-1]),
        lambda: cache.run(many[:, :, :0]),
        lambda: cache.run(many.to(other)),
        lambda: cache.run(recorded[..., None]),
        lambda: cache.run(many, pre=u),
        lambda: cache.run(many, 1 + cache.layers),
        lambda: cache.generate(u, 0),
        lambda: cache.generate(u[:, :-1], 1),
        lambda: cache.generate(u.to(other), 1),
        lambda: cache.generate(recorded, 1),
        lambda: cache.set_filters([h[:, :0] for h in first.taps]),
        lambda: cache.set_filters([first.taps[0]] * (cache.layers + 1)),
        lambda: cache.set_filters([h.long() for h in first.taps]),
        lambda: cache.set_filters(first.taps, u[0, :-1]),
    ]
    if cache.max_new_tokens is not None:
        more = cache.max_new_tokens + 1
        calls += [
            lambda: cache.run(many.expand(-1, -1, more)),
            lambda: cache.generate(u, more),
        ]
    return calls


def at_layer(cache: ff.FutureFillCache, layer: int, first: Filters) -> list[Callable[[], Any]]:
    """Where a layer after the first one comes next."""
    u = torch.zeros(cache.batch_size, cache.channels, dtype=cache.dtype)
    calls: list[Callable[[], Any]] = [
        lambda: cache.reset([0]),
        lambda: cache.reorder([0] * cache.batch_size),
        lambda: cache.crop(0),
        cache.state_dict,
        cache.clone,
        cache.launch_fills,
        cache.sum_history,
        lambda: cache.set_filters(first.taps),
        lambda: cache.load_state_dict({}),
        lambda: cache.step(u, cache.layers),
        lambda: cache.step(u[:, 1:], layer),
        lambda: cache.step(u.to(torch.complex64), layer),
        lambda: cache.step(u, layer, rows=[cache.batch_size]),
        lambda: cache.step(u[:1].requires_grad_(), layer, rows=[0]),
        lambda: cache.prefill(u[:, 1:, None], layer),
        lambda: cache.prefill(u[..., None].expand(-1, -1, 4096), layer),
        lambda: cache.prefill(u[..., None], layer, lengths=[2] * cache.batch_size),
        lambda: cache.run(u[..., None].expand(-1, -1, 4096), layer),
        lambda: cache.run(u[..., None], layer, pre=u),
    ]
    return calls
