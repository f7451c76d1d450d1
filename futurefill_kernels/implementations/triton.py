"""``impl="triton"``: Triton kernels; one launch per layer and token, one per future fill.

On a CPU it runs only under ``TRITON_INTERPRET=1``, for tests.
"""

from __future__ import annotations

import importlib.util
import sys
from functools import lru_cache, partial

import torch
from torch import Tensor

from ..plan import Level, Plan
from ..planning.capabilities import CAPABILITIES
from ..planning.device import DeviceInfo
from ..state.gpu_layout import CHANNEL_UNIT, share_channels
from ..state.gpu_layout import make_layout as make_layout
from ..state.gpu_layout import make_spectra as make_spectra
from ..state.tensors import Step, StreamState
from .triton_kernels import checks
from .triton_kernels.checks import IO_DTYPES, check_state, expect
from .triton_kernels.prompt_ops import prompt_kernels as prompt_kernels

capabilities = CAPABILITIES["triton"]

SMALLEST_CAPABILITY = (8, 0)

_SCHEMAS = {
    "triton_short_range_step": "(Tensor u, Tensor? pre, Tensor? post, Tensor(a!) y, "
    "Tensor(b!) ring, Tensor taps, Tensor? skip, Tensor(c!) positions, Tensor? rows, int layer, "
    "bool advance, int groups) -> ()",
    "triton_future_fill": "(Tensor(a!) ring, Tensor(b!) kept, Tensor spectra, Tensor positions, "
    "Tensor? rows, int block, int radix, int n_spectra, int kept_offset, int spectra_offset, "
    "int channels, int groups, int late=0, int extra=0, int first=0, int? last=None) -> ()",
}


def _missing() -> str | None:
    try:
        found = sys.modules.get("triton") or importlib.util.find_spec("triton")
    except ValueError:  # blocked in sys.modules
        found = None
    if found is None:
        return "Triton is not installed; pip install 'futurefill_kernels[gpu]'"
    return None


def cannot_run(device: torch.device, dtype: torch.dtype, plan: Plan | None) -> list[str]:
    """Why the kernels cannot run: no Triton, no supported GPU, float64, or too long a stream."""
    reasons = []
    missing = _missing()
    if missing:
        reasons.append(missing)
    if device.type == "cuda":
        if torch.version.hip is not None:
            reasons.append("runs on NVIDIA GPUs, this torch is built for ROCm")
        else:
            capability = torch.cuda.get_device_capability(device)
            if capability < SMALLEST_CAPABILITY:
                got = ".".join(map(str, capability))
                reasons.append(f"needs compute capability 8.0 or newer, {device} has {got}")
    elif device.type != "cpu" or not checks.interpreted():
        reasons.append(f"runs on a CUDA device, not on {device}")
    if dtype == torch.float64:
        reasons.append("computes in float32, not in float64")
    if plan is not None and plan.length >= 1 << 31:
        reasons.append(f"holds positions in 31 bits, the plan's length is {plan.length}")
    return reasons


@lru_cache(maxsize=16)
def device_info(device: torch.device) -> DeviceInfo:
    """Record of the device; the interpreter stands in for an A100."""
    return DeviceInfo.of(device) if device.type == "cuda" else DeviceInfo.named("a100")


def _short_range_step(
    u: Tensor,
    pre: Tensor | None,
    post: Tensor | None,
    y: Tensor,
    ring: Tensor,
    taps: Tensor,
    skip: Tensor | None,
    positions: Tensor,
    rows: Tensor | None,
    layer: int,
    advance: bool,
    groups: int,
) -> None:
    check_state(positions, rows, ring=ring, taps=taps, skip=skip)
    expect(ring.ndim == 5 and ring.shape[2] == 1, "ring", "(layers, B, 1, N, C)", ring.shape)
    layers, batch, _, _, lanes = ring.shape
    expect(u.ndim == 2 and lanes - 32 < u.shape[1] <= lanes, "u", f"(R, D <= {lanes})", u.shape)
    expect(u.dtype in IO_DTYPES, "u", "of 16 or 32 bits", u.dtype)
    n_rows = batch if rows is None else len(rows)
    expect(len(u) == n_rows, "u", f"with {n_rows} rows", len(u))
    for label, x in (("u", u), ("pre", pre), ("post", post), ("y", y)):
        if x is not None:
            expect(x.shape == u.shape, label, f"(R, D) = {tuple(u.shape)}", tuple(x.shape))
            expect(x.dtype == u.dtype, label, f"of dtype {u.dtype}", x.dtype)
            expect(x.device == ring.device, label, f"on {ring.device}", x.device)
            expect(x.is_contiguous(), label, "contiguous", f"strides {x.stride()}")
    expect(groups >= 1 and u.shape[1] % groups == 0, "groups", f"to divide {u.shape[1]}", groups)
    expect(taps.ndim == 4 and taps.shape[3] >= groups, "taps", f"of {groups} rows", taps.shape)
    expect(0 <= layer < layers, "layer", f"in 0 .. {layers - 1}", layer)
    from .triton_kernels.launch import step_launch

    info = device_info(ring.device)
    step_launch(
        u, pre, post, y, ring, taps, skip, positions, rows, layer, advance, groups, info
    ).run()


def _future_fill(
    ring: Tensor,
    kept: Tensor,
    spectra: Tensor,
    positions: Tensor,
    rows: Tensor | None,
    block: int,
    radix: int,
    n_spectra: int,
    kept_offset: int,
    spectra_offset: int,
    channels: int,
    groups: int,
    late: int = 0,
    extra: int = 0,
    first: int = 0,
    last: int | None = None,
) -> None:
    check_state(positions, rows, ring=ring, kept=kept, spectra=spectra)
    expect(ring.ndim == 5 and ring.shape[2] == 1, "ring", "(layers, B, 1, N, C)", ring.shape)
    expect(0 < channels <= ring.shape[4], "channels", f"in 1 .. {ring.shape[4]}", channels)
    expect(groups >= 1 and channels % groups == 0, "groups", f"to divide {channels}", groups)
    expect(block >= 1, "block", ">= 1", block)
    most = radix - 1 + extra
    expect(1 <= n_spectra <= most, "n_spectra", f"in 1 .. {most}", n_spectra)
    expect(late >= 0 and extra >= 0, "late and extra", ">= 0", (late, extra))
    last = channels if last is None else min(last, channels)
    aligned = first % CHANNEL_UNIT == 0 and (last % CHANNEL_UNIT == 0 or last == channels)
    expect(
        0 <= first <= last and aligned, "first .. last", f"multiples of {CHANNEL_UNIT}",
        (first, last),
    )  # fmt: skip
    if first == last:
        return
    transform = 1 << (block - 1).bit_length()
    for label, x, offset, count in (
        ("kept", kept, kept_offset, n_spectra - 1), ("spectra", spectra, spectra_offset, n_spectra)
    ):  # fmt: skip
        held = x.shape[-3]
        stop = offset + count * transform
        expect(0 <= offset <= stop <= held, label, f"with at least {stop} rows", held)
    from .triton_kernels import launch
    from .triton_kernels.config import fill_config

    level = launch.FillLevel(
        ring.shape[3], block, transform, radix, n_spectra, n_spectra - 1, kept_offset,
        spectra_offset, late, extra,
    )  # fmt: skip
    config = fill_config(transform, device_info(ring.device), block < transform)
    if config is None:
        launch.fill_by_fft(
            ring, kept, spectra, positions, rows, level, groups, channels, first, last
        )
    else:
        launch.fill_launch(
            ring, kept, spectra, positions, rows, level, channels, groups, config, first, last
        ).run()


def _no_output(*args: object, **kwargs: object) -> None:
    return None


_library = torch.library.Library("futurefill_kernels", "FRAGMENT")
for _name, _function in (
    ("triton_short_range_step", _short_range_step),
    ("triton_future_fill", _future_fill),
):
    _library.define(_name + _SCHEMAS[_name])
    for _key in ("CUDA", "CPU"):
        _library.impl(_name, _function, _key)
    torch.library.register_fake(f"futurefill_kernels::{_name}", _no_output, lib=_library)


def make_step(state: StreamState) -> Step:
    """One token of one layer: one launch, no allocation, no synchronisation.

    The cache has checked the arguments, so the launch bypasses the op and its dispatch.
    """
    return partial(step, state)


def step(
    state: StreamState,
    u: Tensor,
    pre: Tensor | None,
    post: Tensor | None,
    y: Tensor,
    rows: Tensor | None,
    layer: int,
    advance: bool,
) -> None:
    """Short-range convolution of one token (docs/algorithm.md, equation 2)."""
    from .triton_kernels.launch import step_launch

    step_launch(
        u, pre, post, y, state.ring, state.taps, state.skip, state.positions, rows, layer, advance,
        state.layout.groups, device_info(state.ring.device),
    ).run()  # fmt: skip


def fill(state: StreamState, level: Level, rows: Tensor | None) -> None:
    """Future fill of one level for all layers (docs/algorithm.md, equation 3)."""
    _fill_channels(state, level, rows, 0, state.layout.channels)


def fill_share(state: StreamState, level: Level, rows: Tensor | None, begin: int, end: int) -> None:
    """Of one firing of a level with slack, the shares of steps ``begin .. end-1``: the same launch
    for a part of the channels.
    """
    _fill_channels(state, level, rows, *share_channels(state.layout, level, begin, end))


def _fill_channels(
    state: StreamState, level: Level, rows: Tensor | None, first: int, last: int
) -> None:
    torch.ops.futurefill_kernels.triton_future_fill(
        state.ring,
        state.kept,
        state.spectra,
        state.positions,
        rows,
        level.block,
        level.radix,
        level.n_spectra,
        level.kept_offset,
        level.spectra_offset,
        state.layout.channels,
        state.layout.groups,
        level.late,
        level.extra,
        first,
        last,
    )
