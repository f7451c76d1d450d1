"""The CPU ops against a direct float64 evaluation, driven token by token as a cache drives them."""

from __future__ import annotations

import dataclasses
import os
import platform
import subprocess
import sys

import pytest
import torch

from futurefill_kernels import FutureFillCache, native, ops
from futurefill_kernels.plan import Plan
from futurefill_kernels.state.spectra import filter_spectra
from futurefill_kernels.state.tensors import LEVEL_COLUMNS

pytestmark = pytest.mark.skipif(
    native.cpu_unavailable_reason() is not None,
    reason=f"no CPU kernels: {native.cpu_unavailable_reason()}",
)


def tiled(rows: torch.Tensor, lanes: int) -> torch.Tensor:
    """(..., n, C) -> (..., C / lanes, n, lanes), channels padded with zeros."""
    pad = -rows.shape[-1] % lanes
    rows = torch.nn.functional.pad(rows, (0, pad))
    return rows.unflatten(-1, (-1, lanes)).movedim(-2, -3).contiguous()


@dataclasses.dataclass
class State:
    """The tensors of a stream, laid out as the ops want them."""

    plan: Plan
    ring: torch.Tensor
    open_block: torch.Tensor
    kept: torch.Tensor
    taps: torch.Tensor
    spectra: torch.Tensor
    skip: torch.Tensor | None
    positions: torch.Tensor
    levels: torch.Tensor
    work: torch.Tensor
    token_at: torch.Tensor
    undo: torch.Tensor
    history: torch.Tensor
    filled: torch.Tensor
    images: torch.Tensor
    filters_of_channels: torch.Tensor
    channels: int
    channels_per_filter: int

    @property
    def length(self) -> int:
        return self.plan.length

    def step(self, u, y, layer=0, advance=True, **options):
        ops.step(self, u, y, layer=layer, advance=advance, **options)


def make_state(h, plan, batch, channels, dtype, direct_below=0, slots=None, skip=None) -> State:
    """h: (layers, G, L) float64 filters."""
    lanes = native.tile_lanes(dtype, channels)
    layers, groups, _ = h.shape
    channels_per_filter = channels // groups
    shared = channels_per_filter % lanes == 0
    filters = h.to(dtype)[:, :, None].expand(-1, -1, channels_per_filter, -1)
    if not shared:
        h = h.repeat_interleave(channels_per_filter, dim=1)
    filter_lanes = 1 if shared else lanes
    h = h[..., : plan.filter_length]
    h = torch.nn.functional.pad(h, (0, max(0, 2 * plan.length - h.shape[-1])))
    spectra, levels, kept_offset = [], [], 0
    offset = 0
    for level in plan.levels:
        start = level.spectra_offset
        direct = level.block < direct_below
        if direct:
            n_taps = (level.n_spectra + 1) * level.block
            n_taps += n_taps % 2
            taps = torch.nn.functional.pad(h, (0, max(0, n_taps - h.shape[-1])))[..., :n_taps]
            # (layers, G, rows, 2)
            spectra.append(taps.unflatten(-1, (-1, 2)).permute(0, 2, 3, 1))
        else:
            whole = torch.stack([filter_spectra(h[i], plan, torch.float64) for i in range(layers)])
            spectra.append(whole[:, start : start + level.n_spectra * level.transform])
        kept = 0 if direct else level.kept
        sizes = [level.block, level.radix, level.transform, level.n_spectra]
        levels.append([*sizes, kept_offset, offset, 0, 0, 0, 0, direct, 0, 0, 0])
        kept_offset += kept * level.transform
        offset += spectra[-1].shape[1]
    tiles = -(-channels // lanes)
    rows = torch.cat(spectra, 1) if spectra else torch.zeros(layers, 0, 2, h.shape[1])
    # (layers, rows, 2, G) -> (layers, tiles, rows, 2, lanes)
    packed = tiled(rows.flatten(1, 2), filter_lanes).unflatten(-2, (-1, 2))
    block = plan.block_sizes[0]
    taps = torch.nn.functional.pad(h, (0, max(0, block - h.shape[-1])))[..., :block]
    return State(
        plan,
        torch.zeros(layers, batch, tiles, slots or plan.length, lanes, dtype=dtype),
        torch.zeros(layers, batch, tiles, 0, lanes, dtype=dtype),
        torch.full((layers, batch, tiles, kept_offset, 2, lanes), float("nan"), dtype=dtype),
        tiled(taps.transpose(1, 2), filter_lanes).to(dtype),
        packed.to(dtype),
        None if skip is None else torch.nn.functional.pad(skip, (0, -channels % lanes)).to(dtype),
        torch.zeros(batch, dtype=torch.int64),
        torch.tensor(levels, dtype=torch.int64).reshape(-1, len(LEVEL_COLUMNS)),
        torch.zeros(batch, 1, 0, 2, lanes, dtype=dtype),
        torch.full((layers, batch), -1),
        torch.zeros(layers, batch, tiles, 1, lanes, dtype=dtype),
        torch.zeros(layers, 0, lanes, dtype=dtype),
        torch.zeros(batch, dtype=torch.int64),
        torch.zeros(layers, batch, tiles, 0, lanes, dtype=dtype),
        filters,
        channels,
        channels_per_filter if shared else 1,
    )


def direct(u, h):
    """u: (B, D, N), h: (D, L) -> (B, D, N) causal convolution in float64."""
    n = u.shape[-1]
    if n > 1024:  # the sum itself would take minutes
        spectrum = torch.fft.rfft(u, 2 * n) * torch.fft.rfft(h[:, :n], 2 * n)
        return torch.fft.irfft(spectrum, 2 * n)[..., :n]
    return torch.nn.functional.conv1d(
        torch.nn.functional.pad(u, (n - 1, 0)),
        torch.nn.functional.pad(h, (0, max(0, n - h.shape[-1])))[:, None, :n].flip(-1),
        groups=u.shape[1],
    )


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    assert a.shape == b.shape
    return ((a.double() - b).norm() / b.norm().clamp_min(1e-300)).item()


def run(plan, channels, batch, dtype, groups=None, layers=1, **options) -> float:
    torch.manual_seed(0)
    n = plan.length
    h = torch.randn(layers, groups or channels, plan.filter_length, dtype=torch.float64)
    state = make_state(h, plan, batch, channels, dtype, **options)
    u = torch.randn(layers, batch, channels, n, dtype=dtype)
    y = torch.full_like(u, float("nan"))
    out = torch.empty(batch, channels, dtype=dtype)
    for t in range(n):
        for layer in range(layers):
            out.fill_(float("nan"))
            state.step(u[layer, ..., t].contiguous(), out, layer, layer == layers - 1)
            y[layer, ..., t] = out
    assert state.positions.tolist() == [n] * batch
    full = h.repeat_interleave(channels // (groups or channels), dim=1)
    expected = torch.stack([direct(u[i].double(), full[i]) for i in range(layers)])
    return relative(y, expected)


TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-14}
PLANS = [
    Plan(97, (1, 2, 4, 8, 16, 32, 64)),
    Plan(97, (1,)),
    Plan(131, (4, 16, 64)),
    Plan(131, (3, 6, 24, 48)),
    Plan(131, (5, 20), filter_length=33),
    Plan(331, (16, 48, 96)),
    Plan(331, (8, 32, 256), filter_length=100),
    Plan(40, (64,)),
    Plan(1, (1,)),
    Plan(1200, (8, 16, 32, 64, 128, 256, 512)),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("plan", PLANS, ids=lambda p: f"N{p.length}-{p.block_sizes}")
@pytest.mark.parametrize("direct_below", [0, 33])
def test_stream_equals_convolution(plan, dtype, direct_below):
    assert run(plan, 13, 2, dtype, direct_below=direct_below) < TOLERANCE[dtype]


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5, 7, 13, 64, 100])
@pytest.mark.parametrize("batch", [1, 3, 11])
def test_odd_shapes(channels, batch):
    assert run(Plan(200, (4, 8, 32)), channels, batch, torch.float32) < 1e-6


@pytest.mark.parametrize(
    ("channels", "groups"), [(64, 4), (64, 1), (12, 3), (128, 2), (7, 1), (4, 1), (2, 1)]
)
@pytest.mark.parametrize("direct_below", [0, 20])
def test_grouped_filters(channels, groups, direct_below):
    plan = Plan(150, (4, 16, 32, 64))
    options = {"groups": groups, "layers": 2, "direct_below": direct_below}
    assert run(plan, channels, 3, torch.float32, **options) < 1e-6


@pytest.mark.parametrize(("dtype", "narrow"), [(torch.float32, 4), (torch.float64, 2)])
def test_few_channels_take_narrow_tiles(dtype, narrow):
    """Steps, prompts, slack, spectra that are made, and rows of their own."""
    wide = native.cpu_lanes(dtype)
    for channels in (1, 2, 3, 4, 5, wide + 1):
        lanes = narrow if channels <= narrow else wide
        assert native.tile_lanes(dtype, channels) == lanes
        for plan in (Plan(96, (4, 8, 32)), Plan(96, (4, 8, 32), slack_from=8)):
            h, u = torch.randn(channels, 96, dtype=dtype), torch.randn(2, channels, 90, dtype=dtype)
            cache = FutureFillCache(h, 2, 96, plan=plan, impl="cpu", memory="speed")
            assert cache.state.ring.shape[-1] == lanes
            y = [cache.prefill(u[..., :20])] + [
                cache.step(x)[..., None] for x in u[..., 20:].mT.unbind(1)
            ]
            expected = direct(u.double(), h.double())
            assert relative(torch.cat(y, -1), expected) < TOLERANCE[dtype]


def test_padded_slots():
    assert run(Plan(150, (4, 16, 32)), 20, 2, torch.float32, slots=177) < 1e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("state_dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("channels", [21, 3, 1])
def test_gates_skip_and_input_types(dtype, state_dtype, channels):
    torch.manual_seed(1)
    n, batch = 70, 2
    plan = Plan(n, (4, 8, 16, 32))
    h = torch.randn(1, channels, n, dtype=torch.float64)
    skip = torch.randn(1, channels, dtype=torch.float64)
    state = make_state(h, plan, batch, channels, state_dtype, skip=skip)
    # rows of a larger tensor: only the last dimension is contiguous
    u, pre, post = torch.randn(3, n, batch, channels + 5).to(dtype)[..., :channels]
    y = torch.full((n, batch, channels + 2), float("nan"), dtype=dtype)[..., :channels]
    for t in range(n):
        state.step(u[t], y[t], pre=pre[t], post=post[t])
    x = (u.double() * pre.double()).permute(1, 2, 0)
    expected = (direct(x, h[0]) + skip[0, :, None] * x) * post.double().permute(1, 2, 0)
    exact = {torch.float32: 1e-6, torch.float64: 1e-14}[state_dtype]
    rounding = {torch.float64: 0, torch.float32: 1e-7, torch.bfloat16: 4e-3, torch.float16: 4e-4}
    assert relative(y.permute(1, 2, 0), expected) < exact + rounding[dtype]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rounding_matches_torch_for_every_value(dtype):
    every = torch.arange(65536, dtype=torch.int32).to(torch.uint16).view(dtype)
    special = torch.tensor([65519.9, 65520.0, 65536.0, 1e30, 5.96e-8, 2.98e-8, 2.99e-8, 6.1e-5])
    halves = torch.cat([special, every.float()[1:] * 1.0009765625, every.float() * 0.99951171875])
    for u in (every, halves):
        n = u.numel()
        scale = torch.ones(1, n, dtype=torch.float64)
        state = make_state(scale[..., None], Plan(2, (2,)), 1, n, torch.float32)
        y = torch.empty(1, n, dtype=dtype)
        if u.dtype == dtype:
            state.step(u[None], y)
            expected = u
        else:  # through a float32 ring: y rounds the pending output to dtype
            state.ring[0, 0, :, 0] = tiled(u[None], state.ring.shape[-1])[:, 0]
            state.step(torch.zeros(1, n, dtype=dtype), y)
            expected = u.to(dtype)
        # a float32 state has no number below its smallest normal one
        expected = expected.where(~(u.float().abs() < 2.0**-126), 0)
        assert torch.equal(y[0].nan_to_num(7.0), expected.nan_to_num(7.0))


def test_rows_at_their_own_positions():
    torch.manual_seed(2)
    n, batch, channels = 100, 5, 9
    plan = Plan(n, (2, 4, 16, 32))
    h = torch.randn(1, channels, n, dtype=torch.float64)
    state = make_state(h, plan, batch, channels, torch.float32)
    u = torch.randn(n, batch, channels)
    y = torch.full_like(u, float("nan"))
    generator = torch.Generator().manual_seed(0)
    while (state.positions < n).any():
        alive = (state.positions < n).nonzero().flatten()
        chosen = alive[torch.rand(alive.shape, generator=generator) < 0.6]
        chosen = chosen[torch.randperm(len(chosen), generator=generator)]
        rows = torch.cat([chosen, torch.tensor([-1])])
        at = state.positions[chosen]
        out = torch.full((len(rows), channels), float("nan"))
        state.step(torch.cat([u[at, chosen], torch.ones(1, channels)]), out, rows=rows)
        y[at, chosen] = out[:-1]
        assert (out[-1] == 0).all()
    expected = direct(u.double().permute(1, 2, 0), h[0])
    assert relative(y.permute(1, 2, 0), expected) < 1e-6


def test_ops_of_a_step_one_by_one():
    torch.manual_seed(3)
    n, batch, channels = 90, 2, 10
    plan = Plan(n, (4, 8, 32))
    h = torch.randn(2, channels, n, dtype=torch.float64)
    fused, single = (make_state(h, plan, batch, channels, torch.float32) for _ in range(2))
    without_levels = dataclasses.replace(single, levels=single.levels[:0])
    for t in range(n):
        for layer in range(2):
            u, y, y1 = torch.randn(batch, channels), *torch.full((2, batch, channels), 9.0)
            fused.step(u, y, layer, layer == 1)
            ops.step(without_levels, u, y1, layer=layer, advance=layer == 1)
            assert torch.equal(y, y1)
        level = next(iter(plan.levels_at(t)), None)
        if level is not None:
            ops.future_fill(single, level, None)
        ops.due_fills(fused)
        assert torch.equal(fused.ring, single.ring)


def test_long_stream_in_float32():
    assert run(Plan.continuous(1 << 14, 8), 8, 1, torch.float32, direct_below=33) < 1e-6
    assert run(Plan(1 << 14, (16, 64, 512, 4096)), 8, 1, torch.float32) < 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("radix", [2, 4])
def test_longest_stream_in_float32(radix):
    length = 1 << 18
    plan = Plan(length, tuple(8 * radix**k for k in range(20) if 8 * radix**k < length))
    assert run(plan, 8, 1, torch.float32, direct_below=33) < 1e-6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"u": torch.zeros(2, 20), "y": torch.zeros(2, 20)},
            "expected u with the channels of ring",
        ),
        ({"u": torch.zeros(3, 8)}, "expected 2 rows, got 3"),
        ({"y": torch.zeros(2, 7)}, "expected y with size 8 in dimension 1, got shape"),
        ({"y": torch.zeros(2, 8, dtype=torch.float64)}, "expected y of the dtype of u"),
        ({"y": torch.zeros(8, 2).t()}, "expected y contiguous in its last dimension"),
        ({"u": torch.zeros(2, 8, dtype=torch.int32)}, "expected u of a floating point dtype"),
        ({"rows": torch.tensor([0, 2])}, "expected rows in 0 .. 1, got 2"),
        ({"rows": torch.tensor([0.0, 1.0])}, "expected rows of dtype int64"),
        ({"layer": 1}, "expected layer in 0 .. 0, got 1"),
    ],
)
def test_wrong_arguments_change_nothing(change, message):
    state = make_state(torch.ones(1, 8, 8).double(), Plan(8, (2, 4)), 2, 8, torch.float32)
    good = {"u": torch.ones(2, 8), "y": torch.zeros(2, 8)}
    state.step(**good)
    before = [t.clone() for t in (state.ring, state.kept, state.positions)]
    with pytest.raises(RuntimeError, match=message.replace("(", r"\(")):
        state.step(**(good | change))
    after = (state.ring, state.kept, state.positions)
    assert all(
        torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(before, after, strict=True)
    )


def test_past_the_end():
    state = make_state(torch.ones(1, 8, 3).double(), Plan(3, (2,)), 1, 8, torch.float32)
    for _ in range(3):
        state.step(torch.ones(1, 8), torch.empty(1, 8))
    with pytest.raises(RuntimeError, match=r"expected positions in 0 .. 2, got 3 in row 0"):
        state.step(torch.ones(1, 8), torch.empty(1, 8))


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads(threads):
    before = torch.get_num_threads()
    plan = Plan(2048, (16, 64, 1024))
    try:
        torch.set_num_threads(threads)
        assert run(plan, 200, 2, torch.float32) < 1e-6
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("FUTUREFILL_CPU_ISA", "mmx", "expected one of avx512, avx2, portable, got mmx"),
        ("FUTUREFILL_NUM_THREADS", "0", "expected a number of at least 1, got '0'"),
        ("FUTUREFILL_NUM_THREADS", "two", "expected a number of at least 1, got 'two'"),
    ],
)
def test_wrong_environment(variable, value, message):
    code = "from futurefill_kernels import native; print(native.cpu_unavailable_reason())"
    result = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {variable: value},
        capture_output=True,
        text=True,
        check=True,
    )
    if platform.machine() == "x86_64" or variable != "FUTUREFILL_CPU_ISA":
        assert message in result.stdout
