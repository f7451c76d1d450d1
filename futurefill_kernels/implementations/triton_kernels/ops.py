"""The ops of ``impl="triton"``: schemas, checks of their arguments, registration.

A level comes as the table of all levels and its index; tensors are those of the layout
``state.layout.Layout.padded``. Importing this needs no Triton, running an op does.
"""

from __future__ import annotations

import os
from functools import lru_cache

import torch
from torch import Tensor

from ...checks import HALVES, dtype_names
from ...level import Level
from ...planning.capabilities import CAPABILITIES
from ...planning.device import DeviceInfo
from ...state.layout import CHANNEL_UNIT
from ...state.tensors import LEVEL_COLUMNS

#: dtypes of a state's tensors beside float32
OTHER_DTYPES = {
    "spectra": CAPABILITIES["triton"].spectra_dtypes,
    "ring": HALVES,
    "prompt_fill": HALVES,
}
IO_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def interpreted() -> bool:
    """Whether Triton's interpreter is on, which also takes tensors on the CPU."""
    return os.environ.get("TRITON_INTERPRET", "0") not in ("", "0")


def expect(ok: bool, name: str, expected: str, got: object) -> None:
    """Raise ValueError unless ``ok``."""
    if not ok:
        raise ValueError(f"expected {name} {expected}, got {got}")


def check_state(positions: Tensor, rows: Tensor | None, **state: Tensor | None) -> None:
    """Device, dtype and strides of a state's tensors; layouts as in state.layout.Layout.padded."""
    for label, x in state.items():
        if x is None:
            continue
        expect(x.device == positions.device, label, f"on {positions.device}", x.device)
        dtypes = (torch.float32, *OTHER_DTYPES.get(label, ()))
        expect(x.dtype in dtypes, label, f"of dtype {dtype_names(dtypes)}", x.dtype)
        expect(x.is_contiguous(), label, "contiguous", f"strides {x.stride()}")
        expect(x.shape[-1] % 32 == 0, label, "with channels padded to 32", tuple(x.shape))
    check_indices(positions.device, positions=positions, rows=rows)
    check_device(positions.device)


def check_slots(ring: Tensor, open_block: Tensor) -> None:
    """Shapes of a ring and of what has the slots of its open block."""
    expect(ring.ndim == 5 and ring.shape[2] == 1, "ring", "(layers, B, 1, N, C)", ring.shape)
    front, lanes = tuple(ring.shape[:3]), ring.shape[4]
    narrow = ring.dtype != torch.float32
    fits = open_block.ndim == 5 and (*open_block.shape[:3], open_block.shape[4]) == (*front, lanes)
    shape = f"({', '.join(map(str, front))}, {'T_0' if narrow else 0}, {lanes})"
    expect(fits and (narrow or not open_block.numel()), "open_block", shape, open_block.shape)


def check_indices(device: torch.device, **indices: Tensor | None) -> None:
    """Contiguous vectors of int64."""
    for label, x in indices.items():
        if x is not None:
            expect(x.dtype == torch.int64, label, "of dtype int64", x.dtype)
            expect(x.ndim == 1 and x.is_contiguous(), label, "(R,) contiguous", tuple(x.shape))
            expect(x.device == device, label, f"on {device}", x.device)


def check_device(device: torch.device) -> None:
    """Raise RuntimeError where the kernels cannot run."""
    if device.type != "cuda" and not interpreted():
        raise RuntimeError(
            f"triton kernels run on a CUDA device, not on {device} "
            "(TRITON_INTERPRET=1 interprets them on the CPU)"
        )


def _check_sharing(channels_per_filter: int, lanes: int, **filters: Tensor) -> None:
    for label, x in filters.items():
        enough = channels_per_filter >= 1 and x.shape[-1] * channels_per_filter >= lanes
        expected = f"with a filter for every {channels_per_filter} of {lanes} channels"
        expect(enough, label, expected, tuple(x.shape))


@lru_cache(maxsize=16)
def device_info(device: torch.device) -> DeviceInfo:
    """Record of the device; the interpreter stands in for an A100."""
    return DeviceInfo.of(device) if device.type == "cuda" else DeviceInfo.named("a100")


def _check_token(
    ring: Tensor, open_block: Tensor, taps: Tensor, token_at: Tensor, history: Tensor
) -> None:
    """A state's slots and taps, and what a token's first launch leaves for its others."""
    check_slots(ring, open_block)
    opened = ring.dtype == torch.float32 or open_block.shape[3] > 0
    expect(opened, "open_block", f"of 1 slot or more with a ring of {ring.dtype}", 0)
    layers, batch, _, _, lanes = ring.shape
    expect(taps.ndim == 4 and len(taps) == layers, "taps", f"({layers}, 1, T_0, F)", taps.shape)
    for label, x, shape in (
        ("token_at", token_at, (layers, batch)),
        ("history", history, (layers, batch, lanes)),
    ):
        expect(x.shape == shape, label, str(shape), tuple(x.shape))
        expect(x.device == ring.device, label, f"on {ring.device}", x.device)
        expect(x.is_contiguous(), label, "contiguous", f"strides {x.stride()}")
    expect(token_at.dtype == torch.int64, "token_at", "of dtype int64", token_at.dtype)


def _history(
    ring: Tensor,
    open_block: Tensor,
    taps: Tensor,
    positions: Tensor,
    rows: Tensor | None,
    token_at: Tensor,
    undo: Tensor,
    history: Tensor,
    channels_per_filter: int,
) -> None:
    check_state(
        positions, rows, ring=ring, open_block=open_block, taps=taps, undo=undo, history=history
    )
    _check_token(ring, open_block, taps, token_at, history)
    front, lanes = tuple(ring.shape[:3]), ring.shape[4]
    fits = undo.ndim == 5 and (*undo.shape[:3], undo.shape[4]) == (*front, lanes)
    shape = f"({', '.join(map(str, front))}, 1 or more, {lanes})"
    expect(fits and undo.shape[3] > 0, "undo", shape, tuple(undo.shape))
    expect(len(positions) == ring.shape[1], "positions", f"of {ring.shape[1]} rows", positions)
    _check_sharing(channels_per_filter, ring.shape[4], taps=taps)
    from .launch import history_launch

    history_launch(
        ring, open_block, taps, positions, rows, token_at, undo, history, channels_per_filter,
        device_info(ring.device),
    ).run()  # fmt: skip


def _apply_step(
    u: Tensor,
    pre: Tensor | None,
    post: Tensor | None,
    y: Tensor,
    ring: Tensor,
    open_block: Tensor,
    taps: Tensor,
    skip: Tensor | None,
    history: Tensor,
    token_at: Tensor,
    positions: Tensor,
    rows: Tensor | None,
    layer: int,
    advance: bool,
    channels_per_filter: int,
) -> None:
    check_state(
        positions, rows, ring=ring, open_block=open_block, taps=taps, skip=skip, history=history
    )
    _check_token(ring, open_block, taps, token_at, history)
    layers, batch, _, _, lanes = ring.shape
    expect(len(positions) == batch, "positions", f"of {batch} rows", positions)
    expect(u.ndim == 2 and lanes - 32 < u.shape[1] <= lanes, "u", f"(R, D <= {lanes})", u.shape)
    expect(u.dtype in IO_DTYPES, "u", "of 16 or 32 bits", u.dtype)
    n_rows = batch if rows is None else len(rows)
    expect(len(u) == n_rows, "u", f"with {n_rows} rows", len(u))
    for label, x in (("u", u), ("pre", pre), ("post", post), ("y", y)):
        if x is not None:
            expect(x.shape == u.shape, label, f"(R, D) = {tuple(u.shape)}", tuple(x.shape))
            expect(x.dtype == u.dtype, label, f"of dtype {u.dtype}", x.dtype)
            expect(x.device == ring.device, label, f"on {ring.device}", x.device)
            in_a_row = x.shape[1] == 1 or x.stride(1) == 1
            expect(in_a_row, label, "contiguous in its last dimension", f"strides {x.stride()}")
    if skip is not None:
        expect(skip.shape == (layers, lanes), "skip", f"({layers}, {lanes})", tuple(skip.shape))
    _check_sharing(channels_per_filter, lanes, taps=taps)
    whole = u.shape[1] % channels_per_filter == 0
    expect(whole, "channels_per_filter", f"to divide {u.shape[1]}", channels_per_filter)
    expect(0 <= layer < layers, "layer", f"in 0 .. {layers - 1}", layer)
    from .launch import apply_launch

    apply_launch(
        u, pre, post, y, ring, open_block, taps, skip, history, token_at, positions, rows, layer,
        advance, channels_per_filter,
    ).run()  # fmt: skip


def _level(levels: Tensor, index: int) -> Level:
    """A row of the table that StreamState.levels describes."""
    expected = f"(n, {len(LEVEL_COLUMNS)}) int64 on the CPU"
    shaped = levels.ndim == 2 and levels.shape[1] == len(LEVEL_COLUMNS)
    expect(shaped and levels.dtype == torch.int64, "levels", expected, tuple(levels.shape))
    expect(levels.device.type == "cpu", "levels", expected, levels.device)
    expect(0 <= index < len(levels), "index", f"in 0 .. {len(levels) - 1}", index)
    row = dict(zip(LEVEL_COLUMNS, levels[index].tolist(), strict=True))
    expect(not row.pop("direct"), "levels", "without direct products, which are the CPU's", index)
    for name in ("work_offset", "images_offset", "images"):
        del row[name]
    level = Level(index, kept=row["n_spectra"] - 1, **row)
    block, most = level.block, level.radix - 1 + level.extra
    expect(block >= 1, "block", ">= 1", block)
    expect(level.transform == 1 << (block - 1).bit_length(), "transform", f"of {block}", level)
    expect(1 <= level.n_spectra <= most, "n_spectra", f"in 1 .. {most}", level.n_spectra)
    expect(level.late >= 0 and level.extra >= 0, "late and extra", ">= 0", level)
    return level


def _future_fill(
    ring: Tensor,
    open_block: Tensor,
    kept: Tensor,
    spectra: Tensor,
    positions: Tensor,
    rows: Tensor | None,
    levels: Tensor,
    length: int,
    index: int,
    first_channel: int,
    last_channel: int,
    channels_per_filter: int,
) -> None:
    check_state(positions, rows, ring=ring, open_block=open_block, kept=kept, spectra=spectra)
    check_slots(ring, open_block)
    slots, lanes = ring.shape[3:]
    expect(length == slots, "length", f"{slots} like ring", length)
    level = _level(levels, index)
    _check_sharing(channels_per_filter, lanes, spectra=spectra)
    expect(
        0 <= first_channel <= last_channel <= lanes
        and first_channel % CHANNEL_UNIT == 0
        and (last_channel % CHANNEL_UNIT == 0 or last_channel > lanes - CHANNEL_UNIT),
        "first_channel .. last_channel", f"in 0 .. {lanes}, multiples of {CHANNEL_UNIT}",
        (first_channel, last_channel),
    )  # fmt: skip
    for label, x, offset, count in (
        ("kept", kept, level.kept_offset, level.kept),
        ("spectra", spectra, level.spectra_offset, level.n_spectra),
    ):
        held = x.shape[-3]
        stop = offset + count * level.transform
        expect(0 <= offset <= stop <= held, label, f"with at least {stop} rows", held)
    if first_channel == last_channel:
        return
    from . import launch
    from .config import fill_config, long_config
    from .long_launch import long_fill

    fill = launch.Fill(ring, open_block, kept, spectra, positions, rows, level, channels_per_filter)
    info, keeps = device_info(ring.device), level.kept > 0
    config = fill_config(level.transform, info, keeps)
    long = long_config(level.transform, info, keeps)
    own = CAPABILITIES["triton"]
    # the kernels' offsets inside a block have 32 bits
    short = own.has_kernels(level.transform, max(lanes, spectra.shape[4]))
    sizes = f"of at most {own.largest_passes} points, with the channels less than {own.index_limit}"
    expect(short and (config is not None or long is not None), "level", sizes, level)
    if config is not None:
        launch.fill_launch(fill, config, first_channel, last_channel).run()
    elif long is not None:
        long_fill(fill, long, first_channel, last_channel)


def _check_tokens(u: Tensor, **others: Tensor | None) -> None:
    """u and tensors of its shape and dtype: (R, C, P) of any strides of rows and channels."""
    expect(u.ndim == 3 and u.numel() > 0, "u", "(R, C, P)", tuple(u.shape))
    expect(u.dtype in IO_DTYPES, "u", f"of dtype {dtype_names(IO_DTYPES)}", u.dtype)
    for label, x in {"u": u, **others}.items():
        if x is not None:
            expect(x.shape == u.shape, label, f"(R, C, P) = {tuple(u.shape)}", tuple(x.shape))
            expect(x.dtype == u.dtype, label, f"of dtype {u.dtype}", x.dtype)
            _check_time(u.device, label, x)


def _check_time(device: torch.device, label: str, x: Tensor) -> None:
    contiguous = x.stride(2) == 1 or x.shape[2] == 1
    expect(contiguous, label, "with a stride of 1 in time", f"strides {x.stride()}")
    expect(x.device == device, label, f"on {device}", x.device)


def _prefill_inputs(
    u: Tensor, pre: Tensor | None, lengths: Tensor | None, x: Tensor, held: Tensor | None
) -> None:
    _check_tokens(u, pre=pre)
    rows, channels, positions = u.shape
    shape = f"({rows}, {channels}, {positions} or more)"
    wide = x.ndim == 3 and x.shape[:2] == u.shape[:2] and x.shape[2] >= positions
    expect(wide, "x", shape, tuple(x.shape))
    if held is not None:
        expect(held.shape == u.shape, "held", f"(R, C, P) = {tuple(u.shape)}", tuple(held.shape))
    for label, result in (("x", x), ("held", held)):
        if result is not None:
            expect(result.dtype == torch.float32, label, "of dtype float32", result.dtype)
            _check_time(u.device, label, result)
    check_indices(u.device, lengths=lengths)
    expect(lengths is None or len(lengths) == rows, "lengths", f"of {rows} rows", lengths)
    check_device(u.device)
    from .launch import prefill_inputs_launch

    prefill_inputs_launch(u, pre, lengths, x, held).run()


def _prefill_outputs(
    z: Tensor,
    u: Tensor,
    pre: Tensor | None,
    post: Tensor | None,
    skip: Tensor | None,
    y: Tensor,
    prompt_fill: Tensor | None,
    ring: Tensor,
    rows: Tensor,
    starts: Tensor | None,
    ends: Tensor,
    layer: int,
    first_channel: int,
) -> None:
    _check_tokens(u, pre=pre, post=post, y=y)
    n_rows, channels, positions = u.shape
    for label, x in (("prompt_fill", prompt_fill), ("ring", ring)):
        shaped = x is None or (x.ndim == 5 and x.shape[2] == 1)
        expect(shaped, label, "(layers, B, 1, N, C)", None if x is None else tuple(x.shape))
    layers, _, _, length, lanes = ring.shape
    if prompt_fill is not None:
        length = prompt_fill.shape[3]
        same = prompt_fill.shape[:3] == ring.shape[:3] and prompt_fill.shape[4] == lanes
        sizes = f"of the sizes of prompt_fill {tuple(prompt_fill.shape)}"
        expect(same and ring.shape[3] >= length, "ring", sizes, ring.shape)
    for label, state in (("z", z), ("prompt_fill", prompt_fill), ("ring", ring), ("skip", skip)):
        if state is not None:
            dtypes = (torch.float32, *OTHER_DTYPES.get(label, ()))
            expect(state.dtype in dtypes, label, f"of dtype {dtype_names(dtypes)}", state.dtype)
            expect(state.device == u.device, label, f"on {u.device}", state.device)
            expect(
                label == "z" or state.is_contiguous(), label, "contiguous",
                f"strides {state.stride()}",
            )  # fmt: skip
    n = positions + length
    wide = z.ndim == 3 and z.shape[:2] == u.shape[:2] and z.shape[2] >= n
    expect(wide, "z", f"({n_rows}, {channels}, {n} or more)", tuple(z.shape))
    _check_time(u.device, "z", z)
    if skip is not None:
        expect(skip.shape == (layers, lanes), "skip", f"({layers}, {lanes})", tuple(skip.shape))
    check_indices(u.device, rows=rows, starts=starts, ends=ends)
    for label, index in (("rows", rows), ("starts", starts), ("ends", ends)):
        expect(index is None or len(index) == n_rows, label, f"of {n_rows} rows", index)
    expect(0 <= layer < layers, "layer", f"in 0 .. {layers - 1}", layer)
    most = lanes - channels
    expect(0 <= first_channel <= most, "first_channel", f"in 0 .. {most}", first_channel)
    check_device(u.device)
    from .launch import prefill_outputs_launch

    prefill_outputs_launch(
        z, u, pre, post, skip, y, prompt_fill, ring, rows, starts, ends, layer, first_channel
    ).run()


#: Those of the compiled ops without the prefix; see csrc/bindings/schemas.cpp.
_OPS = {
    "triton_history": (
        _history,
        "(Tensor ring, Tensor open_block, Tensor taps, Tensor positions, Tensor? rows, "
        "Tensor(a!) token_at, Tensor(b!) undo, Tensor(c!) history, int channels_per_filter) -> ()",
    ),
    "triton_apply_step": (
        _apply_step,
        "(Tensor u, Tensor? pre, Tensor? post, Tensor(a!) y, Tensor(b!) ring, "
        "Tensor(o!) open_block, Tensor taps, Tensor? skip, Tensor history, Tensor token_at, "
        "Tensor(c!) positions, Tensor? rows, int layer, bool advance, "
        "int channels_per_filter) -> ()",
    ),
    "triton_future_fill": (
        _future_fill,
        "(Tensor(a!) ring, Tensor(o!) open_block, Tensor(b!) kept, Tensor spectra, "
        "Tensor positions, Tensor? rows, Tensor levels, int length, int index, "
        "int first_channel, int last_channel, int channels_per_filter) -> ()",
    ),
    "triton_prefill_inputs": (
        _prefill_inputs,
        "(Tensor u, Tensor? pre, Tensor? lengths, Tensor(a!) x, Tensor(b!)? held) -> ()",
    ),
    "triton_prefill_outputs": (
        _prefill_outputs,
        "(Tensor z, Tensor u, Tensor? pre, Tensor? post, Tensor? skip, Tensor(a!) y, "
        "Tensor(b!)? prompt_fill, Tensor(c!) ring, Tensor rows, Tensor? starts, Tensor ends, "
        "int layer, int first_channel) -> ()",
    ),
}


def _no_output(*args: object, **kwargs: object) -> None:
    return None


_library = torch.library.Library("futurefill_kernels", "FRAGMENT")
for _name, (_function, _schema) in _OPS.items():
    _library.define(_name + _schema)
    for _key in ("CUDA", "CPU"):
        _library.impl(_name, _function, _key)
    torch.library.register_fake(f"futurefill_kernels::{_name}", _no_output, lib=_library)
