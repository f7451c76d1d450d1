"""Inputs that every bench shares: decaying random filters, and what a stream of a plan costs."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import torch
from torch import Tensor

import futurefill_kernels as ff
from futurefill_kernels.plan import Plan

from . import machine


def randn(
    *shape: int,
    seed: int,
    dtype: torch.dtype = torch.float32,
    device: torch.device = machine.CPU,
) -> Tensor:
    """Normal numbers that are the same on every device."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(device, dtype)


def filters(
    channels: int,
    length: int,
    dtype: torch.dtype = torch.float32,
    device: torch.device = machine.CPU,
) -> Tensor:
    """Random filters (D, L) of decay lengths from short to longer than L, ``sum |h| = 1``.

    The sum keeps ``u_{t+1} = y_t`` bounded.
    """
    generator = torch.Generator().manual_seed(0)
    h = torch.randn(channels, length, generator=generator)
    h *= torch.rand(channels, 1, generator=generator) ** torch.linspace(0, 9, length)
    h /= h.abs().sum(1, keepdim=True)
    return h.to(device, dtype)


def make_rows(
    batch: int,
    channels: int,
    length: int,
    dtype: torch.dtype,
    device: torch.device = machine.CPU,
) -> Tensor:
    """(N + 1, B, D), a stream's inputs and next outputs; row 0 is random."""
    rows = torch.zeros(length + 1, batch, channels, dtype=dtype, device=device)
    rows[0] = randn(batch, channels, seed=1, device=device)
    return rows


def generate(cache: ff.FutureFillCache, rows: Iterable[Tensor]) -> None:
    """A generation with ``u_{t+1} = y_t``: rows[0] is the first input, the rest is written.

    rows: a tensor, whose rows are made on the way, or tensors that are there already: of few
    channels making them takes longer than the steps.
    """
    step = cache.step
    for u_t, y_t in itertools.pairwise(rows):
        step(u_t, out=y_t)


def generation_error(rows: Tensor, h: Tensor, channels_at_a_time: int = 32) -> float:
    """Relative L2 error of outputs ``rows[1:]`` of inputs ``rows[:-1]`` against float64.

    rows: (N + 1, B, D). h: (D, L).
    """
    squared, norm = 0.0, 0.0
    for c in range(0, h.shape[0], channels_at_a_time):
        part = slice(c, c + channels_at_a_time)
        u = rows[:-1, :, part].permute(1, 2, 0).double()
        expected = ff.causal_conv(u, h[part].double())
        squared += (rows[1:, :, part].permute(1, 2, 0).double() - expected).square().sum().item()
        norm += expected.square().sum().item()
    return float((squared / max(norm, 1e-300)) ** 0.5)


def tolerance(dtype: torch.dtype) -> float:
    """Relative L2 error that a stream of this dtype may have."""
    return {torch.float64: 1e-12, torch.float32: 1e-6, torch.float16: 2e-3}.get(dtype, 1.6e-2)


def stream_cost(
    plan: Plan, batch: int, channels: int, groups: int, itemsize: int
) -> dict[str, float]:
    """Operations of a whole generation, and the bytes it must move at least.

    Bytes: each token its input, output and pending entry; each firing its block, the pending
    outputs and, per product, kept inputs and filter spectra (8 bytes per complex float32 entry).
    """
    state = 8 if itemsize == 8 else 4
    moved = plan.slots * batch * channels * (2 * itemsize + 2 * state)
    for level in plan.levels:
        firings, products, outputs = plan.work(level)
        moved += products * level.transform * 2 * state * (batch * channels + groups)
        moved += (firings * level.block + 2 * outputs) * state * batch * channels
    return {"flops": plan.flops_per_token * plan.slots * batch * channels, "bytes": float(moved)}
