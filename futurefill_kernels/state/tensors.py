"""The tensors of a stream, allocated once, and how they are read and written as plain (B, D, T).

Channels are the fastest dimension, in tiles of ``lanes`` channels; time comes next. One array holds
pending outputs and inputs: slot ``t`` is the pending output of position ``t`` until its step and
the input ``u_t`` after it. docs/conventions.md draws the layout.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from ..plan import Level, Plan
from .huge_pages import empty

#: step(u, pre, post, y, rows, layer, advance): one token of one layer, written to y
Step = Callable[[Tensor, Tensor | None, Tensor | None, Tensor, Tensor | None, int, bool], None]


@dataclass(frozen=True)
class Layout:
    """How an implementation stores channels and time; a record of numbers.

    channels: ``D``. groups: filter rows stored (``G``, or ``D`` after expansion).
    lanes: channels per tile; the channels are padded to a multiple of it.
    filter_lanes: filter rows per tile, 1 where one row serves a whole tile.
    slots: ring slots, at least the plan's length.
    direct: levels up to this block size are direct products with the taps.
    side_by_side: tiles worked on together in levels with slack, 0 where a share is done at once.
    work_gaps: rows that a transform under way may take beyond its length.
    """

    channels: int
    groups: int
    lanes: int
    filter_lanes: int
    slots: int
    direct: int = 0
    side_by_side: int = 1
    work_gaps: int = 0

    def work_rows(self, level: Level) -> int:
        """Complex rows of a level's transform under way."""
        return level.transform + self.work_gaps

    def is_direct(self, level: Level) -> bool:
        """Whether a level is a direct product with its taps."""
        return level.plain and level.block <= self.direct

    @property
    def tiles(self) -> int:
        """Tiles of ``lanes`` channels."""
        return -(-self.channels // self.lanes)

    @property
    def filter_tiles(self) -> int:
        """Tiles of ``filter_lanes`` filter rows."""
        return -(-self.groups // self.filter_lanes)


@dataclass
class StreamState:
    """Every tensor that a cache owns, for all its layers.

    ring: (layers, B, tiles, slots, lanes), pending outputs and inputs.
    kept: (layers, B, tiles, kept rows, 2, lanes), kept input spectra.
    prompt_fill: (layers, B, tiles, N, lanes), what the prompt adds to each position.
    positions: (B,) int64, steps taken since the prompt.
    taps: (layers, filter tiles, T_0, filter_lanes), the short-range taps.
    spectra: (layers, filter tiles, rows, 2, filter_lanes), or what the implementation prepares.
    skip: (layers, tiles * lanes) or None.
    levels: (levels, 6) int64 on the CPU: block, radix, spectra, offsets into kept and spectra, and
        whether the level is a direct product with its taps. A level with slack has 0 spectra here.
    slack_levels: (levels with slack, 9) int64 on the CPU: block, radix, spectra, offsets into kept
        and spectra, late, steps, extra, offset into work.
    work: (B, side by side, work rows, 2, lanes), transforms of levels with slack that are under
        way.
    """

    plan: Plan
    layout: Layout
    ring: Tensor
    kept: Tensor
    prompt_fill: Tensor
    positions: Tensor
    taps: Tensor
    spectra: Tensor
    skip: Tensor | None
    levels: Tensor
    slack_levels: Tensor
    work: Tensor

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        tensors = (getattr(self, f.name) for f in fields(self))
        return sum(t.nbytes for t in tensors if isinstance(t, Tensor))

    def clone(self) -> StreamState:
        """A copy that shares only what never changes: taps, spectra and skip."""
        return replace(
            self,
            ring=self.ring.clone(),
            kept=self.kept.clone(),
            prompt_fill=self.prompt_fill.clone(),
            positions=self.positions.clone(),
            work=self.work.clone(),
        )


def state_nbytes(
    plan: Plan,
    layout: Layout,
    *,
    layers: int,
    batch_size: int,
    itemsize: int = 4,
    spectra_itemsize: int | None = None,
    skip: bool = False,
) -> int:
    """Bytes that ``allocate`` takes, before anything is allocated.

    Holds for implementations whose prepared filters are the plan's spectra. spectra_itemsize: of
    half a complex entry of them, default ``itemsize``.
    """
    channels = layout.tiles * layout.lanes
    filters = layout.filter_tiles * layout.filter_lanes
    per_row = channels * (layout.slots + plan.length + 2 * plan.kept_rows)
    spectra = layers * filters * 2 * plan.spectra_rows * (spectra_itemsize or itemsize)
    values = layers * (batch_size * per_row + filters * plan.base + (channels if skip else 0))
    work_rows = sum(layout.work_rows(level) for level in plan.slack_levels)
    values += batch_size * layout.side_by_side * work_rows * 2 * layout.lanes
    tables = 48 * len(plan.levels) + 72 * len(plan.slack_levels)
    return values * itemsize + spectra + 8 * batch_size + tables


def to_tiles(x: Tensor, layout: Layout) -> Tensor:
    """(..., D, T) -> (..., tiles, T, lanes), padded channels zero."""
    x = torch.nn.functional.pad(x, (0, 0, 0, layout.tiles * layout.lanes - layout.channels))
    return x.unflatten(-2, (layout.tiles, layout.lanes)).transpose(-1, -2)


def from_tiles(x: Tensor, layout: Layout) -> Tensor:
    """(..., tiles, T, lanes) -> (..., D, T)."""
    return x.transpose(-1, -2).flatten(-3, -2)[..., : layout.channels, :]


def tile_filters(rows: Tensor, layout: Layout) -> Tensor:
    """(..., G) time-major filter rows -> (filter tiles, ..., filter_lanes), contiguous."""
    pad = layout.filter_tiles * layout.filter_lanes - layout.groups
    rows = torch.nn.functional.pad(rows, (0, pad))
    return (
        rows.unflatten(-1, (layout.filter_tiles, layout.filter_lanes)).movedim(-2, 0).contiguous()
    )


def short_range_taps(h: Tensor, plan: Plan, dtype: torch.dtype) -> Tensor:
    """First ``T_0`` taps, time-major. h: (G, L) -> (T_0, G)."""
    block = min(plan.block_sizes[0], plan.length)
    used = min(block, h.shape[1])
    taps = torch.zeros(block, h.shape[0], dtype=dtype, device=h.device)
    taps[:used] = h[:, :used].T
    return taps


def copy_rows(target: Tensor, rows: Sequence[int]) -> None:
    """Replace batch row ``b`` of (layers, B, ...) by the old row ``rows[b]``."""
    target.copy_(target[:, list(rows)])


def _stack(count: int, parts: Iterable[Tensor], device: torch.device) -> Tensor:
    """``torch.stack`` of ``count`` tensors that are made one at a time."""
    stacked: Tensor | None = None
    for index, part in enumerate(parts):
        if stacked is None:
            stacked = empty(count, *part.shape, dtype=part.dtype, device=device)
        stacked[index] = part
    assert stacked is not None
    return stacked


def allocate(
    plan: Plan,
    layout: Layout,
    make_spectra: Callable[[Tensor, Plan, Layout, torch.dtype], Tensor],
    filters: Sequence[Tensor],
    batch_size: int,
    skip: Tensor | None,
    spectra_dtype: torch.dtype | None = None,
) -> StreamState:
    """A stream at position 0. filters: per layer (G, L) of the state's dtype and device.

    spectra_dtype: of the prepared filters, default the state's.
    """
    dtype, device = filters[0].dtype, filters[0].device
    expand = layout.groups // filters[0].shape[0]
    rows = [h if expand == 1 else h.repeat_interleave(expand, dim=0) for h in filters]
    front = (len(filters), batch_size, layout.tiles)
    kept = sum(level.kept * level.transform for level in plan.levels)
    if skip is not None:
        skip = skip.detach().to(device, dtype).expand(len(filters), layout.channels)
        pad = layout.tiles * layout.lanes - layout.channels
        skip = torch.nn.functional.pad(skip, (0, pad)).contiguous()
    levels, slack_levels, work_rows = [], [], 0
    for level in plan.levels:
        offsets = (level.kept_offset, level.spectra_offset)
        n_spectra = level.n_spectra if level.plain else 0
        levels.append((level.block, level.radix, n_spectra, *offsets, layout.is_direct(level)))
        if not level.plain:
            late = (level.late, level.steps, level.extra, work_rows)
            slack_levels.append((level.block, level.radix, level.n_spectra, *offsets, *late))
            work_rows += layout.work_rows(level)
    return StreamState(
        plan=plan,
        layout=layout,
        ring=empty(*front, layout.slots, layout.lanes, dtype=dtype, device=device).zero_(),
        kept=empty(*front, kept, 2, layout.lanes, dtype=dtype, device=device).zero_(),
        prompt_fill=torch.zeros(*front, plan.length, layout.lanes, dtype=dtype, device=device),
        positions=torch.zeros(batch_size, dtype=torch.int64, device=device),
        taps=torch.stack([tile_filters(short_range_taps(h, plan, dtype), layout) for h in rows]),
        spectra=_stack(
            len(rows), (make_spectra(h, plan, layout, spectra_dtype or dtype) for h in rows), device
        ),
        skip=skip,
        levels=torch.tensor(levels, dtype=torch.int64).reshape(len(levels), 6),
        slack_levels=torch.tensor(slack_levels, dtype=torch.int64).reshape(len(slack_levels), 9),
        work=torch.zeros(
            *(batch_size, layout.side_by_side, work_rows, 2, layout.lanes),
            dtype=dtype,
            device=device,
        ),
    )
