"""The tensors of a stream, allocated once.

One array holds pending outputs and inputs: slot ``t`` is the pending output of position ``t`` until
its step and the input ``u_t`` after it. docs/conventions.md draws the layout.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ..level import Level
from ..plan import Plan
from .filters import MakeSpectra, PreparedFilters, make_bank, prepare
from .huge_pages import empty, untouched
from .layout import Layout
from .slots import SlotArray, SlotArrays, Slots

#: Columns of ``StreamState.levels``; csrc/bindings/levels.h reads them.
LEVEL_COLUMNS = (
    "block", "radix", "transform", "n_spectra", "kept_offset", "spectra_offset", "late", "steps",
    "extra", "work_offset", "direct", "images_offset", "images", "made",
)  # fmt: skip


@dataclass
class StreamState:
    """Every tensor that a cache owns, for all its layers; none is exchanged for another.

    ring: (layers, B, tiles, slots, lanes), pending outputs and inputs; maybe in 16 bits.
    open_block: (layers, B, tiles, T_0, lanes), then, in place of the ring's, the slots of the
        ``T_0`` positions that each row is in (open_block.py); else (layers, B, tiles, 0, lanes).
    kept: (layers, B, tiles, kept rows, 2, lanes), kept input spectra.
    prompt_fill: (layers, B, tiles, N, lanes), what the prompt adds to each position, where
        ``keeps_prompt_fill`` says so, in the ring's dtype; else None.
    positions: (B,) int64, steps taken since the prompt.
    prepared: taps, short-range taps and spectra; ``filters``, ``taps`` and ``spectra`` read them.
    skip: (layers, tiles * lanes) or None.
    levels: (levels, 14) int64 on the CPU, the LEVEL_COLUMNS of each level of the plan: those of
        level.Level, where its transforms under way start in work, whether it is a direct product
        with its taps, and where its before-images start in images and how many there are.
    work: (B, side by side, work rows, 2, lanes), transforms of levels with slack that are under
        way.
    token_at: (layers, B) int64, the position of the newest token that the layer has begun, -1 when
        there is nothing of it to take back.
    undo: (layers, B, tiles, rollback + 1, lanes), the pending outputs that the newest inputs
        overwrote; that of position p in slot ``p % (rollback + 1)``. One with rollback=None.
    history: (layers, B, lanes), these and what the block's older inputs add to them, for layouts
        that store it; else (layers, 0, lanes).
    filled: (B,) int64, the position up to which a row's fills have run, where steps do them.
    images: (layers, B, tiles, rows, lanes), before-images of the firings of the last ``rollback``
        positions: the pending outputs that a firing changed, then the kept spectrum that it
        replaced, if its level keeps any. That of the firing after ``n`` blocks is ``n % images``.
    """

    plan: Plan
    layout: Layout
    ring: Tensor
    open_block: Tensor
    kept: Tensor
    prompt_fill: Tensor | None
    positions: Tensor
    prepared: PreparedFilters
    skip: Tensor | None
    levels: Tensor
    work: Tensor
    token_at: Tensor
    undo: Tensor
    history: Tensor
    filled: Tensor
    images: Tensor

    @cached_property
    def arrays(self) -> SlotArrays:
        """What moves with a row, and where its bytes are."""
        none = self.ring[..., :0, :]
        fill = none if self.prompt_fill is None else self.prompt_fill
        tensors = (self.ring, self.open_block, self.kept, self.undo, self.images)
        counts = (x.view(1, -1, 1, 1) for x in (self.positions, self.filled))
        found = [SlotArray(x) for x in (*tensors, fill, self.work[None], *counts)]
        found.append(SlotArray(self.token_at[..., None, None], -1))
        return SlotArrays(*found)

    @cached_property
    def books(self) -> list[Slots]:
        """What says where every row is."""
        arrays = self.arrays
        return [x.whole for x in (arrays.positions, arrays.filled, arrays.token_at)]

    @cached_property
    def beside_slots(self) -> list[Slots]:
        """What every row has besides, whatever its place."""
        return [x.whole for x in (self.arrays.prompt_fill, self.arrays.work) if x.size]

    @property
    def dtype(self) -> torch.dtype:
        """Of arithmetic, and of all of the state but a narrower ring."""
        return self.kept.dtype

    @property
    def narrow(self) -> bool:
        """Whether the ring holds less than arithmetic has."""
        return self.ring.dtype != self.dtype

    @cached_property
    def images_of_levels(self) -> list[tuple[int, int]]:
        """What ``levels`` says of each level's before-images: where they start, and how many."""
        return [(row[-3], row[-2]) for row in self.levels.tolist()]

    @property
    def length(self) -> int:
        """Positions of the plan, ``N``."""
        return self.plan.slots

    @property
    def channels(self) -> int:
        """``D``, without padding."""
        return self.layout.channels

    @property
    def channels_per_filter(self) -> int:
        """Channels that a stored filter row serves."""
        return self.layout.channels_per_filter

    @property
    def filters(self) -> Tensor:
        """(layers, G, L), all taps, maybe in a narrower dtype."""
        return self.prepared.bank.taps

    @property
    def taps(self) -> Tensor:
        """(layers, filter tiles, T_0, filter_lanes), the short-range taps."""
        return self.prepared.short

    @property
    def spectra(self) -> Tensor:
        """(layers, filter tiles, rows, 2, filter_lanes), or what the implementation prepares."""
        return self.prepared.spectra

    @property
    def parts(self) -> dict[str, int]:
        """Bytes of every tensor by its name; those of filters once for all that share them."""
        names = [f.name for f in fields(self) if f.name not in ("plan", "layout", "prepared")]
        tensors = {name: getattr(self, name) for name in (*names, "filters", "taps", "spectra")}
        return {name: 0 if t is None else t.nbytes for name, t in tensors.items()}

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(self.parts.values())

    @property
    def filters_of_channels(self) -> Tensor:
        """(layers, G, D / G, L), the taps that each channel uses: ``filters`` as a view."""
        taps, channels = self.filters, self.channels
        return taps[:, :, None].expand(-1, -1, channels // taps.shape[1], -1)

    def layer(self, layer: int) -> StreamState:
        """One layer as a stream of its own: the same memory, but for positions and filled."""
        only = slice(layer, layer + 1)
        return replace(
            self,
            ring=self.ring[only],
            open_block=self.open_block[only],
            kept=self.kept[only],
            prompt_fill=None,
            positions=self.positions.clone(),
            prepared=self.prepared.layer(layer),
            skip=None if self.skip is None else self.skip[only],
            token_at=self.token_at[only],
            undo=self.undo[only],
            history=self.history[only],
            filled=self.filled.clone(),
            images=self.images[only],
        )

    def without_open_block(self) -> StreamState:
        """The same tensors, with no block that fills would add to: the ring gets all of it."""
        return replace(self, open_block=self.open_block[..., :0, :].contiguous())

    def with_own_tensors(self, slots: int) -> StreamState:
        """The same stream, of which `cache.used.parts` are to be copied: the rest is copied here,
        what never changes, filters and skip, is shared.

        slots: of a row's ring that are going to be written now.
        """
        large = ("ring", "open_block", "kept", "undo", "images", "work", "prompt_fill")
        small = ("positions", "token_at", "history", "filled")
        own = {name: getattr(self, name) for name in (*large, *small)}
        for name, x in own.items():
            if name in small:
                own[name] = x.clone()
            elif x is not None:
                sparse = 8 * slots < self.ring.shape[3]
                own[name] = untouched(*x.shape, dtype=x.dtype, device=x.device, sparse=sparse)
        return replace(self, **own)


def state_nbytes(plan: Plan, layout: Layout, **sizes: Any) -> int:
    """Bytes that ``allocate`` takes, before anything is allocated; sizes as of ``state_parts``."""
    return sum(state_parts(plan, layout, **sizes).values())


def state_parts(
    plan: Plan,
    layout: Layout,
    *,
    layers: int,
    batch_size: int,
    filters: tuple[int, int] | None = None,
    itemsize: int = 4,
    filters_itemsize: int | None = None,
    spectra_itemsize: int | None = None,
    ring_itemsize: int | None = None,
    skip: bool = False,
    rollback: int | None = 0,
) -> dict[str, int]:
    """Bytes of every tensor that ``allocate`` makes, by its name, as ``StreamState.parts``.

    filters: (G, L) of the taps of a layer, default those that the layout stores and the plan reads.
    filters_itemsize: of a tap; spectra_itemsize: of half a complex entry of spectra; ring_itemsize:
    of a slot; default ``itemsize``. rollback: as in ``allocate``.
    """
    channels = layout.tiles * layout.lanes
    stored = layers * layout.filter_tiles * layout.filter_lanes
    groups, taps = filters or (layout.groups, plan.filter_length or plan.slots)
    each = layers * batch_size * channels
    values = each * itemsize  # a value of every row and channel
    slot = each * (ring_itemsize or itemsize)
    opened = plan.open_slots if slot < values else 0
    _, images = image_places(plan.levels, layout, rollback, period_of(plan))
    work_rows = sum(map(layout.work_rows, plan.levels))
    spectra_rows = plan.spectra_rows if layout.spectra else 0
    return {
        "ring": slot * layout.slots,
        "open_block": values * opened,
        "kept": values * 2 * plan.kept_rows,
        "prompt_fill": slot * plan.slots if keeps_prompt_fill(plan, rollback) else 0,
        "positions": 8 * batch_size,
        "skip": layers * channels * itemsize if skip else 0,
        "levels": 8 * len(LEVEL_COLUMNS) * len(plan.levels),
        "work": batch_size * layout.side_by_side * work_rows * 2 * layout.lanes * itemsize,
        "token_at": 8 * layers * batch_size,
        "undo": values * undo_slots(plan, rollback),
        "history": values if layout.history else 0,
        "filled": 8 * batch_size,
        "images": values * images,
        "filters": layers * groups * taps * (filters_itemsize or itemsize),
        "taps": stored * plan.base * itemsize,
        "spectra": stored * 2 * spectra_rows * (spectra_itemsize or itemsize),
    }


def keeps_prompt_fill(plan: Plan, rollback: int | None) -> bool:
    """Whether the state can be built again from its inputs: where any number of positions can be
    taken back, and with slack, whose firings under way nothing else describes.
    """
    return rollback is None or plan.slack_from is not None


def image_rows(level: Level, layout: Layout) -> int:
    """Rows of a before-image of a level's firing."""
    return level.block + (2 * level.transform if level.kept and not layout.is_direct(level) else 0)


def period_of(plan: Plan) -> int:
    """Of an endless stream's window, else 0."""
    return plan.window.period if plan.length is None else 0


def undo_slots(plan: Plan, rollback: int | None) -> int:
    """Slots of the undo ring. In a period of an endless stream they come round whole."""
    return _dividing(period_of(plan), (rollback or 0) + 1)


def _dividing(whole: int, least: int) -> int:
    """The smallest divisor of ``whole``, 0 for any number, that is at least ``least``."""
    return next(n for n in itertools.count(least) if whole % n == 0)


def image_places(
    levels: Sequence[Level], layout: Layout, rollback: int | None, period: int
) -> tuple[list[tuple[int, int]], int]:
    """Of each level where its before-images start and how many there are, and the rows of all.

    They reach one position further than rollback, for the token that is under way. Of larger
    blocks one firing at most is that recent: they share a place. period: of an endless stream.
    """
    if not rollback:
        return [(0, 0)] * len(levels), 0
    reach = rollback + 1
    total = max((image_rows(x, layout) for x in levels if x.block >= reach), default=0)
    places = []
    for level in levels:
        count = _dividing(period // level.block, -(-reach // level.block))
        places.append((0 if count == 1 else total, count))
        total += 0 if count == 1 else count * image_rows(level, layout)
    return places, total


def level_table(
    levels: Sequence[Level], layout: Layout, rollback: int | None = 0, period: int = 0
) -> Tensor:
    """(levels, 14) int64: ``StreamState.levels``. period: of an endless stream's window."""
    rows, work_offset = [], 0
    places, _ = image_places(levels, layout, rollback, period)
    for level, place in zip(levels, places, strict=True):
        rows.append(
            (
                *(level.block, level.radix, level.transform, level.n_spectra),
                *(level.kept_offset, level.spectra_offset, level.late, level.steps, level.extra),
                *(work_offset, layout.is_direct(level), *place, level.made),
            )
        )
        work_offset += layout.work_rows(level)
    return torch.tensor(rows, dtype=torch.int64, device="cpu").view(-1, len(LEVEL_COLUMNS))


def padded_skip(
    skip: Tensor, layers: int, layout: Layout, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """``StreamState.skip``. skip: (D,), or (layers, D)."""
    skip = skip.detach().to(device, dtype).expand(layers, layout.channels)
    pad = layout.tiles * layout.lanes - layout.channels
    return torch.nn.functional.pad(skip, (0, pad)).contiguous()


def allocate(
    plan: Plan,
    layout: Layout,
    make_spectra: MakeSpectra,
    filters: Sequence[Tensor],
    batch_size: int,
    skip: Tensor | None,
    spectra_dtype: torch.dtype | None = None,
    *,
    filters_dtype: torch.dtype | None = None,
    ring_dtype: torch.dtype | None = None,
    rollback: int | None = 0,
) -> StreamState:
    """A stream at position 0. filters: per layer (G, L) of the state's dtype and device.

    spectra_dtype: of the prepared filters, filters_dtype: of all taps, ring_dtype: of the ring;
    default the state's.
    rollback: positions that can be taken back, or None for any number.
    """
    dtype, device = filters[0].dtype, filters[0].device
    slot = ring_dtype or dtype
    opened = 0 if slot == dtype else plan.open_slots
    bank = make_bank(filters, dtype, filters_dtype or dtype)
    front = (len(filters), batch_size, layout.tiles)
    work_rows = sum(map(layout.work_rows, plan.levels))
    _, images = image_places(plan.levels, layout, rollback, period_of(plan))
    if skip is not None:
        skip = padded_skip(skip, len(filters), layout, dtype, device)
    return StreamState(
        plan=plan,
        layout=layout,
        ring=empty(*front, layout.slots, layout.lanes, dtype=slot, device=device).zero_(),
        open_block=torch.zeros(*front, opened, layout.lanes, dtype=dtype, device=device),
        kept=empty(*front, plan.kept_rows, 2, layout.lanes, dtype=dtype, device=device).zero_(),
        prompt_fill=torch.zeros(*front, plan.slots, layout.lanes, dtype=slot, device=device)
        if keeps_prompt_fill(plan, rollback)
        else None,
        positions=torch.zeros(batch_size, dtype=torch.int64, device=device),
        prepared=prepare(bank, plan, layout, make_spectra, spectra_dtype or dtype),
        skip=skip,
        levels=level_table(plan.levels, layout, rollback, period_of(plan)),
        work=torch.zeros(
            *(batch_size, layout.side_by_side, work_rows, 2, layout.lanes),
            dtype=dtype,
            device=device,
        ),
        token_at=torch.full(front[:2], -1, dtype=torch.int64, device=device),
        undo=torch.zeros(
            *front, undo_slots(plan, rollback), layout.lanes, dtype=dtype, device=device
        ),
        history=torch.zeros(
            *(len(filters), batch_size if layout.history else 0, layout.lanes),
            dtype=dtype,
            device=device,
        ),
        filled=torch.zeros(batch_size, dtype=torch.int64, device=device),
        images=torch.zeros(*front, images, layout.lanes, dtype=dtype, device=device),
    )
