"""The CUDA kernels around a prompt's transforms, in the PTX emulator, against plain torch."""

from __future__ import annotations

import itertools

import pytest
import torch

from bench import cuda_prefill
from bench.cuda_harness import emulator, unavailable_reason

pytestmark = pytest.mark.skipif(
    unavailable_reason() is not None, reason=f"no CUDA emulation: {unavailable_reason()}"
)
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def signal(*shape: int, dtype: torch.dtype = torch.float32, padded: bool = False) -> torch.Tensor:
    """Random (R, C, P), with rows and channels that are not neighbours if padded."""
    rows, channels, positions = shape
    x = torch.randn(rows, channels + padded, positions + 3 * padded).to(dtype)
    return x[:, :channels, :positions]


@pytest.mark.parametrize("arch", ["sm_80", "sm_90"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("shape", "width", "gated", "some", "padded"),
    [
        ((1, 1, 1), 32, False, False, False),
        ((2, 3, 31), 64, True, True, True),
        ((3, 2, 1024), 2048, True, False, False),
        ((2, 5, 1025), 2560, False, True, True),
    ],
)
def test_inputs(arch, dtype, shape, width, gated, some, padded):
    torch.manual_seed(0)
    u = signal(*shape, dtype=dtype, padded=padded)
    pre = signal(*shape, dtype=dtype, padded=padded) if gated else None
    rows, channels, positions = shape
    lengths = torch.randint(1, positions + 1, (rows,)) if some else None
    x = torch.full((rows, channels, width), float("nan"))
    held = torch.full((rows, channels, positions + 5), float("nan"))[..., 2 : positions + 2]
    cuda_prefill.run_inputs(u, pre, lengths, x, held if gated else None, arch=arch)
    expected = u.float() * (1 if pre is None else pre.float())
    if lengths is not None:
        expected *= torch.arange(positions) < lengths[:, None, None]
    assert torch.equal(x[..., :positions], expected)
    assert not x[..., positions:].any()
    if gated:
        assert torch.equal(held, expected)


CASES = [
    # rows, channels, positions, length, slots more, lanes, first channel
    (1, 1, 1, 1, 0, 32, 0),
    (2, 7, 33, 20, 3, 32, 8),
    (3, 40, 64, 65, 0, 96, 32),
    (2, 32, 100, 7, 1, 32, 0),
    (1, 33, 127, 64, 0, 64, 0),
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("continued", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_outputs(case, continued, dtype):
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
    prompt_fill = torch.full((layers, batch, 1, length, lanes), float("nan"))
    ring = torch.full((layers, batch, 1, length + more, lanes), float("nan"))
    rows = torch.randperm(batch)[:n_rows]
    gates = (pre, post) if gated else (None, None)
    cuda_prefill.run_outputs(
        *(z, u, *gates, skip, y, prompt_fill, ring, rows, starts, ends, layer, first),
        arch="sm_90" if continued else "sm_80",
    )
    own = range(first, first + channels)
    for r, (b, s, e) in enumerate(zip(rows.tolist(), start.tolist(), ends.tolist(), strict=True)):
        expected = z[r, :, s : s + positions].double()
        if gated:
            x = u[r].double() * pre[r].double() * (torch.arange(positions) < e - s)
            expected = (expected + skip[layer, own, None].double() * x) * post[r].double()
        torch.testing.assert_close(
            y[r].double(), expected, atol=1e-6, rtol=2 ** (-21 if dtype == torch.float32 else -8)
        )
        pending = z[r, :, e : e + length].T
        assert torch.equal(prompt_fill[layer, b, 0][:, own], pending)
        assert torch.equal(ring[layer, b, 0][:length][:, own], pending)
        prompt_fill[layer, b, 0, :, own] = float("nan")
        ring[layer, b, 0, :length, own] = float("nan")
    assert prompt_fill.isnan().all(), "wrote where nothing was asked for"
    assert ring.isnan().all(), "wrote where nothing was asked for"


@pytest.mark.parametrize(
    ("text", "replacement"),
    [("  __syncthreads();\n", ""), ("t < start + positions;", "t <= start + positions;")],
)
def test_planted_faults(text, replacement):
    """A missing barrier, and one position too many."""
    u = signal(1, 32, 64)
    state = torch.zeros(1, 1, 1, 64, 32)
    one = torch.zeros(1, dtype=torch.int64)
    with pytest.raises(emulator().EmuError):
        cuda_prefill.run_outputs(
            *(signal(1, 32, 128), u, None, None, None, torch.empty_like(u), state, state.clone()),
            *(one, None, one + 64, 0, 0),
            edits=(("prefill.cu", text, replacement),),
        )


def test_counters():
    """One pass over global memory: whole sectors, nothing twice, no bank conflicts."""
    for dtype, gated in itertools.product(DTYPES[:2], (False, True)):
        u, pre, post = (signal(2, 64, 1024, dtype=dtype) for _ in "upq")
        x, held = torch.empty(2, 64, 2048), torch.empty(2, 64, 1024)
        stats = cuda_prefill.run_inputs(u, pre if gated else None, None, x, held, checks=False)
        moved = (1 + gated) * u.nbytes + x.nbytes + held.nbytes
        assert stats.bytes_read + stats.bytes_written == moved
        assert 32 * stats.sectors == moved
        z, y = signal(2, 64, 2048), torch.empty_like(u)
        state = torch.zeros(1, 2, 1, 1024, 64)
        ends = torch.full((2,), 1024)
        skip = torch.randn(1, 64) if gated else None
        gates = (pre, post) if gated else (None, None)
        stats = cuda_prefill.run_outputs(
            *(z, u, *gates, skip, y, state, state.clone(), torch.arange(2), None, ends, 0, 0),
            checks=False,
        )
        moved = z.nbytes + y.nbytes + 2 * state.nbytes + gated * 3 * u.nbytes
        assert stats.bytes_read + stats.bytes_written <= 1.01 * moved
        assert 32 * stats.sectors <= 1.06 * moved  # every warp reads where the row begins and ends
        assert stats.shared_wavefronts == stats.shared_ideal_wavefronts
