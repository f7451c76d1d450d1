"""The launches of a stream from its sizes alone, so that they can be compiled before there is one.

Their tensors are on ``meta``: they take no memory, and Triton, which compiles for dtypes, sizes and
alignment, makes of them the kernels that it makes of the stream's.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from types import SimpleNamespace

import torch
from torch import Tensor

from ...level import Level
from ...planning.device import DeviceInfo
from ...state.layout import Layout
from ..gpu_prompt_by_fft import prompt_by_fft
from .config import fill_config, history_config, long_config
from .launch import (
    Fill,
    Launch,
    apply_launch,
    fill_launch,
    history_launch,
    prefill_inputs_launch,
    prefill_outputs_launch,
)
from .long_launch import long_launches
from .sizes import StreamSizes

_META = torch.device("meta")


def _empty(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(shape, dtype=dtype, device=_META)


def stream_launches(sizes: StreamSizes, info: DeviceInfo) -> dict[str, list[Launch]]:
    """By name: history and steps, with and without gates and skip, fills, and a prompt's; of all
    rows, and where there are several, of listed ones.
    """
    found = _step_launches(sizes, info)
    for level in sizes.stored_levels:
        found[sizes.fill_name(level)] = [
            launch
            for listed in _listed(sizes, info)[:2]
            for launch in _level_launches(sizes, level, info, listed)
        ]
    if sizes.prompt:
        found[sizes.PROMPT] = list(_prompt_launches(sizes))
    return found


def _listed(sizes: StreamSizes, info: DeviceInfo) -> list[Tensor | None]:
    """None, and where some of several rows may be listed, as many as each history kernel takes."""
    if sizes.batch_size == 1 or not sizes.listed:
        return [None]
    lanes = Layout.padded(sizes.channels, sizes.groups, sizes.plan.slots).lanes
    numbers = {
        history_config(sizes.layers, lanes, n, info): n for n in range(1, sizes.batch_size + 1)
    }
    return [None, *(_empty(n, dtype=torch.int64) for n in numbers.values())]


def _slots(sizes: StreamSizes, lanes: int) -> tuple[Tensor, Tensor]:
    """Ring and open block."""
    w = sizes
    opened = w.plan.open_slots if w.narrow else 0
    ring = _empty(w.layers, w.batch_size, 1, w.plan.slots, lanes, dtype=w.state_dtype)
    return ring, _empty(w.layers, w.batch_size, 1, opened, lanes)


def _step_launches(sizes: StreamSizes, info: DeviceInfo) -> dict[str, list[Launch]]:
    w, layout = sizes, Layout.padded(sizes.channels, sizes.groups, sizes.plan.slots)
    lanes, shared = layout.lanes, layout.channels_per_filter
    ring, opened = _slots(w, lanes)
    taps = _empty(w.layers, 1, w.plan.base, layout.filter_lanes)
    positions = _empty(w.batch_size, dtype=torch.int64)
    token_at = _empty(w.layers, w.batch_size, dtype=torch.int64)
    undo = _empty(w.layers, w.batch_size, 1, 1, lanes)
    history = _empty(w.layers, w.batch_size, lanes)
    weights = _empty(w.layers, lanes)
    some = _listed(w, info)
    found: dict[str, list[Launch]] = {name: [] for name in w.step_names}
    found[w.HISTORY] = [
        history_launch(ring, opened, taps, positions, rows, token_at, undo, history, shared, info)
        for rows in some
    ]
    for gated, last, skips, rows in itertools.product(
        w.gates, (True, False)[: w.layers], w.skips, some[:2]
    ):
        skip = weights if skips else None
        u = _empty(w.batch_size if rows is None else len(rows), w.channels, dtype=w.dtype)
        gate = u if gated else None
        launch = apply_launch(
            u, gate, gate, u, ring, opened, taps, skip, history, token_at, positions, rows, 0, last,
            shared,
        )  # fmt: skip
        found[w.step_name(gated, last)].append(launch)
    return found


def _level_launches(
    sizes: StreamSizes, level: Level, info: DeviceInfo, rows: Tensor | None
) -> Iterator[Launch]:
    """One, of a long block three."""
    w, layout = sizes, Layout.padded(sizes.channels, sizes.groups, sizes.plan.slots)
    fill = Fill(
        *_slots(w, layout.lanes),
        _empty(w.layers, w.batch_size, 1, w.plan.kept_rows, 2, layout.lanes),
        _empty(w.layers, 1, w.plan.spectra_rows, 2, layout.filter_lanes, dtype=w.spectra_dtype),
        _empty(w.batch_size, dtype=torch.int64), rows, level, layout.channels_per_filter,
    )  # fmt: skip
    config = fill_config(level.transform, info, level.kept > 0)
    if config is not None:
        yield fill_launch(fill, config, 0, w.channels)
        return
    long = long_config(level.transform, info, level.kept > 0)
    assert long is not None
    yield from itertools.islice(long_launches(fill, long, 0, w.channels), 3)


def _prompt_launches(sizes: StreamSizes) -> Iterator[Launch]:
    """Of a first prompt of all rows, as long as each other or not."""
    w, layout = sizes, Layout.padded(sizes.channels, sizes.groups, sizes.plan.slots)
    ring, _ = _slots(w, layout.lanes)
    taps = _empty(w.groups, w.plan.filter_length or w.plan.slots)
    u, pre, post, y = _empty(4, w.batch_size, w.channels, w.prompt, dtype=w.dtype)
    held = _empty(w.batch_size, w.channels, w.prompt)
    found: list[Launch] = []
    shortest = {w.prompt, max(w.prompt - 1, 1)} if w.batch_size > 1 else {w.prompt}
    weights = _empty(w.layers, layout.lanes)
    for gated, valid, skips in itertools.product(w.gates, shortest, w.skips):
        skip = weights if skips else None
        # an open block is torch's to make
        state = SimpleNamespace(plan=w.plan, ring=ring, prompt_fill=None, skip=skip, narrow=False)
        prompt_by_fft(
            state, taps, u, pre if gated else None, post if gated else None, y, held,  # type: ignore[arg-type]
            [0] * w.batch_size, [w.prompt] * (w.batch_size - 1) + [valid], 0,
            list(range(w.batch_size)),
            lambda *given: found.append(prefill_inputs_launch(*given)),
            lambda *given: found.append(prefill_outputs_launch(*given)),
        )  # fmt: skip
    yield from found
