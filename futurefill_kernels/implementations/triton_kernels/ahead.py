"""The launches of a stream from its sizes alone, so that they can be compiled before there is one.

Their tensors are on ``meta``: they take no memory, and Triton, which compiles for dtypes, sizes and
alignment, makes of them the kernels that it makes of the stream's.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import torch
from torch import Tensor

from ...level import Level
from ...planning.device import DeviceInfo
from ...state.layout import Layout
from ..gpu_fill_by_fft import channels_at_once
from .config import fill_config, long_config
from .launch import Fill, Launch, apply_launch, fill_launch, history_launch, multiply_launch
from .long_launch import long_launches
from .sizes import StreamSizes

_META = torch.device("meta")


def _empty(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(shape, dtype=dtype, device=_META)


def stream_launches(sizes: StreamSizes, info: DeviceInfo) -> dict[str, list[Launch]]:
    """Of all rows of a stream: history and steps, with and without gates, and fills, by name."""
    found = {name: [launch] for name, launch in _step_launches(sizes, info).items()}
    for level in sizes.stored_levels:
        found[sizes.fill_name(level)] = list(_level_launches(sizes, level, info))
    return found


def _step_launches(sizes: StreamSizes, info: DeviceInfo) -> dict[str, Launch]:
    w, layout = sizes, Layout.padded(sizes.channels, sizes.groups, sizes.plan.slots)
    lanes, shared = layout.lanes, layout.channels_per_filter
    ring = _empty(w.layers, w.batch_size, 1, w.plan.slots, lanes)
    opened = _empty(w.layers, w.batch_size, 1, 0, lanes)
    taps = _empty(w.layers, 1, w.plan.base, layout.filter_lanes)
    positions = _empty(w.batch_size, dtype=torch.int64)
    token_at = _empty(w.layers, w.batch_size, dtype=torch.int64)
    undo = _empty(w.layers, w.batch_size, 1, 1, lanes)
    history = _empty(w.layers, w.batch_size, lanes)
    u = _empty(w.batch_size, w.channels, dtype=w.dtype)
    found = {
        sizes.HISTORY: history_launch(
            ring, opened, taps, positions, None, token_at, undo, history, shared, info
        )
    }
    for gated, last in itertools.product((False, True), repeat=2):
        gate = u if gated else None
        found[sizes.step_name(gated, last)] = apply_launch(
            u,
            gate,
            gate,
            u,
            ring,
            opened,
            taps,
            None,
            history,
            token_at,
            positions,
            None,
            0,
            last,
            shared,
        )
    return found


def _level_launches(sizes: StreamSizes, level: Level, info: DeviceInfo) -> Iterator[Launch]:
    """One, of a long block three, of a longer one the kernel between torch.fft's transforms."""
    w, layout = sizes, Layout.padded(sizes.channels, sizes.groups, sizes.plan.slots)
    front = (w.layers, w.batch_size, 1)
    fill = Fill(
        _empty(*front, w.plan.slots, layout.lanes),
        _empty(*front, 0, layout.lanes),
        _empty(*front, w.plan.kept_rows, 2, layout.lanes),
        _empty(w.layers, 1, w.plan.spectra_rows, 2, layout.filter_lanes, dtype=w.spectra_dtype),
        _empty(w.batch_size, dtype=torch.int64), None, level, layout.channels_per_filter,
    )  # fmt: skip
    config = fill_config(level.transform, info, level.kept > 0)
    long = long_config(level.transform, info, level.kept > 0)
    if config is not None:
        yield fill_launch(fill, config, 0, w.channels)
        return
    if long is not None:
        yield from itertools.islice(long_launches(fill, long, 0, w.channels), 3)
        return
    width = min(channels_at_once(level.transform, w.batch_size), w.channels)
    values = _empty(w.batch_size, level.transform, width, 2)
    rows = _empty(w.batch_size, dtype=torch.int64)
    yield multiply_launch(fill, values, rows, 0, 0)
