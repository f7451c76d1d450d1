"""What the kernels around a prompt's transforms must compute, for any implementation of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

import futurefill_kernels as ff
from tests.oracles import TOLERANCE, relative_error

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
#: shape (R, C, P), width of x, whether gated, some rows shorter, not contiguous
INPUTS = [
    ((1, 1, 1), 32, False, False, False),
    ((2, 3, 31), 64, True, True, True),
    ((3, 2, 1024), 2048, True, False, False),
    ((2, 5, 1025), 2560, False, True, True),
]
#: rows, channels, positions, length, slots more than that, lanes, first channel
OUTPUTS = [
    (1, 1, 1, 1, 0, 32, 0),
    (2, 7, 33, 20, 3, 32, 8),
    (3, 40, 64, 65, 0, 96, 32),
    (2, 32, 100, 7, 1, 32, 0),
    (1, 33, 127, 64, 0, 64, 0),
    (2, 32, 64, 128, 0, 32, 0),
]


def signal(*shape: int, dtype: torch.dtype = torch.float32, padded: bool = False) -> torch.Tensor:
    """Random (R, C, P), with rows and channels that are not neighbours if padded."""
    rows, channels, positions = shape
    x = torch.randn(rows, channels + padded, positions + 3 * padded).to(dtype)
    return x[:, :channels, :positions]


def check_inputs(run: Callable[..., Any], case: tuple, dtype: torch.dtype) -> None:
    """run: the op prefill_inputs."""
    shape, width, gated, some, padded = case
    torch.manual_seed(0)
    u = signal(*shape, dtype=dtype, padded=padded)
    pre = signal(*shape, dtype=dtype, padded=padded) if gated else None
    rows, channels, positions = shape
    lengths = torch.randint(1, positions + 1, (rows,)) if some else None
    x = torch.full((rows, channels, width), float("nan"))
    held = torch.full((rows, channels, positions + 5), float("nan"))
    part = held[..., 2 : positions + 2]
    run(u, pre, lengths, x, part if gated else None)
    expected = u.float() * (1 if pre is None else pre.float())
    if lengths is not None:
        expected *= torch.arange(positions) < lengths[:, None, None]
    assert torch.equal(x[..., :positions], expected)
    assert not x[..., positions:].any()
    if gated:
        assert torch.equal(part, expected)
        part[:] = float("nan")
    assert held.isnan().all(), "wrote where nothing was asked for"


def check_outputs(
    run: Callable[..., Any],
    case: tuple,
    continued: bool,
    dtype: torch.dtype,
    ring_dtype: torch.dtype = torch.float32,
) -> None:
    """run: the op prefill_outputs. continued: rows have starts of their own."""
    torch.manual_seed(0)
    n_rows, channels, positions, length, more, lanes, first = case
    gated = channels != 32
    layers, batch, layer = 2, 4, 1
    u, pre, post = (signal(n_rows, channels, positions, dtype=dtype, padded=gated) for _ in "upq")
    starts = torch.randint(0, 70, (n_rows,)) if continued else None
    start = torch.zeros(n_rows, dtype=torch.int64) if starts is None else starts
    ends = start + torch.randint(1, positions + 1, (n_rows,))
    z = signal(n_rows, channels, int(start.max()) + positions + length + 5)
    skip = torch.randn(layers, lanes) if gated else None
    y = torch.full((n_rows, channels, positions), float("nan"), dtype=dtype)
    front, nan = (layers, batch, 1), float("nan")
    prompt_fill = torch.full((*front, length, lanes), nan, dtype=ring_dtype)
    ring = torch.full((*front, length + more, lanes), nan, dtype=ring_dtype)
    rows = torch.randperm(batch)[:n_rows]
    gates = (pre, post) if gated else (None, None)
    given = prompt_fill if more else None  # without it the ring has as many slots
    run(z, u, *gates, skip, y, given, ring, rows, starts, ends, layer, first)
    own = range(first, first + channels)
    rounding = 2.0 ** {torch.float32: -20, torch.float16: -10, torch.bfloat16: -7}[dtype]
    for r, (b, s, e) in enumerate(zip(rows.tolist(), start.tolist(), ends.tolist(), strict=True)):
        expected = z[r, :, s : s + positions].double()
        if gated:
            x = u[r].double() * pre[r].double() * (torch.arange(positions) < e - s)
            expected = (expected + skip[layer, own, None].double() * x) * post[r].double()
        torch.testing.assert_close(y[r].double(), expected, atol=4e-6, rtol=rounding)
        pending = z[r, :, e : e + length].T.to(ring_dtype)
        if more:
            assert torch.equal(prompt_fill[layer, b, 0][:, own], pending)
        assert torch.equal(ring[layer, b, 0][:length][:, own], pending)
        prompt_fill[layer, b, 0, :, own] = float("nan")
        ring[layer, b, 0, :length, own] = float("nan")
    assert prompt_fill.isnan().all(), "wrote where nothing was asked for"
    assert ring.isnan().all(), "wrote where nothing was asked for"


def check_prompts(
    impl: str,
    dtype: torch.dtype,
    channels: int,
    groups: int,
    state_dtype: torch.dtype = torch.float32,
) -> None:
    """Prompts in several calls, of some rows, right-padded and gated, equal those of reference."""
    most = max(TOLERANCE[dtype], TOLERANCE[state_dtype])
    torch.manual_seed(channels)
    plan = ff.Plan(20, (4, 8))
    filters = [torch.randn(groups, taps) for taps in (20, 60)]
    caches = [
        ff.FutureFillCache(
            filters, 3, 20, channels=channels, plan=plan, impl=name, dtype=dtype,
            skip=torch.randn(2, channels, generator=torch.Generator().manual_seed(1)),
            rollback=None if channels % 2 else 0, state_dtype=state_dtype,
        )
        for name in (impl, "reference")
    ]  # fmt: skip

    def compare(rows: list[int] | None, lengths: list[int], positions: int, gated: bool) -> None:
        count = len(lengths)
        for layer in range(2):
            u, pre, post = (
                signal(count, channels, positions, dtype=dtype, padded=gated) for _ in "upq"
            )
            gates = {"pre": pre, "post": post} if gated else {}
            given = {"lengths": lengths} if min(lengths) < positions else {}
            got, expected = (
                cache.prefill(u, layer, rows=rows, **gates, **given) for cache in caches
            )
            assert got.dtype == dtype
            for r, length in enumerate(lengths):
                error = relative_error(got[r, :, :length], expected[r, :, :length])
                assert error < most

    compare([0, 2], [9, 4], 9, True)
    compare(None, [5, 5, 2], 5, False)
    compare([1], [33], 33, True)
    compare([2, 0], [1, 1], 1, False)
    outputs = []
    for t in range(17):
        for layer in range(2):
            u = torch.randn(3, channels).to(dtype)
            outputs.append([cache.step(u, layer) for cache in caches])
        if t == 10:
            compare([0, 1], [3, 3], 3, True)
            compare([2], [3], 3, False)
    got, expected = (torch.stack(y) for y in zip(*outputs, strict=True))
    assert relative_error(got, expected) < most
    name = "prompt_fill" if channels % 2 else "pending"
    got, expected = (cache.state_dict()[name] for cache in caches)
    assert relative_error(got, expected) < most
