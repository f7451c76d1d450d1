"""The filters of a stream: their taps once, and what an implementation prepares of them.

Neither is written again, so all caches of the same filters share both: clones, a `Decoder` made
anew, several caches on one model.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from threading import Lock
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from ..plan import Plan
from .huge_pages import empty
from .layout import Layout, tile_filters

#: make_spectra(h, plan, layout, dtype): a layer's prepared filters from taps (layout.groups, L)
MakeSpectra = Callable[[Tensor, Plan, Layout, torch.dtype], Tensor]

#: keep(transform, nbytes, make): a layer's filter spectrum of a prompt's transform, made unless it
#: is there. Raises MemoryError where there is no room for nbytes.
KeepSpectrum = Callable[[Hashable, int, Callable[[], Tensor]], Tensor]


@dataclass(eq=False)
class FilterBank:
    """Taps of all layers.

    taps: (layers, G, L), filters shorter than L with zeros behind them. lengths: taps of each
    layer. dtype: of what reads them, which widens them.
    """

    taps: Tensor
    lengths: tuple[int, ...]
    dtype: torch.dtype
    prepared: WeakValueDictionary[Any, PreparedFilters] = field(default_factory=WeakValueDictionary)
    prompts: WeakValueDictionary[Any, PromptSpectrum] = field(default_factory=WeakValueDictionary)

    def layer(self, index: int) -> Tensor:
        """(G, n) taps of a layer, of ``dtype``: a copy where they are kept in another one."""
        return self.stored(index).to(self.dtype)

    def stored(self, index: int) -> Tensor:
        """The same as they are kept."""
        return self.taps[index, :, : self.lengths[index]]

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[Tensor]:
        return map(self.layer, range(len(self)))


@dataclass(eq=False)
class PromptSpectrum:
    """A layer's filters as the transform of a prompt reads them."""

    values: Tensor


@dataclass(eq=False)
class PreparedFilters:
    """What one implementation reads of a bank under one plan.

    short: (layers, filter tiles, T_0, filter_lanes), the taps of the short-range convolution.
    spectra: (layers, filter tiles, rows, 2, filter_lanes), or what the implementation prepares.
    """

    bank: FilterBank
    short: Tensor
    spectra: Tensor

    def layer(self, index: int) -> PreparedFilters:
        """Those of one layer: the same memory."""
        only, bank = slice(index, index + 1), self.bank
        one = FilterBank(bank.taps[only], bank.lengths[only], bank.dtype)
        return PreparedFilters(one, self.short[only], self.spectra[only])


_banks: WeakValueDictionary[Any, FilterBank] = WeakValueDictionary()
_lock = Lock()


def make_bank(
    filters: Sequence[Tensor], dtype: torch.dtype, filters_dtype: torch.dtype
) -> FilterBank:
    """The bank of these filters: one that is there already, bit for bit the same, or a new one.

    filters: (G, L) each. dtype: of what reads them. filters_dtype: that they are kept in.
    """
    lengths = tuple(h.shape[1] for h in filters)
    shape = (len(filters), filters[0].shape[0], max(lengths))
    taps = empty(*shape, dtype=filters_dtype, device=filters[0].device)
    for own, h in zip(taps, filters, strict=True):
        own[:, : h.shape[1]] = h
        own[:, h.shape[1] :] = 0
    if taps.device.type == "meta":
        return FilterBank(taps, lengths, dtype)
    total = taps.sum().item()
    key = (lengths, shape, dtype, filters_dtype, taps.device, total)
    with _lock:
        known = _banks.get(key)
        if known is None or not torch.equal(known.taps, taps):
            known = _banks[key] = FilterBank(taps, lengths, dtype)
    return known


def prepare(
    bank: FilterBank,
    plan: Plan,
    layout: Layout,
    make_spectra: MakeSpectra,
    spectra_dtype: torch.dtype,
) -> PreparedFilters:
    """What an implementation needs of a bank: what it has prepared before, or made now."""
    key = (plan, layout, make_spectra, spectra_dtype)
    with _lock:
        known = bank.prepared.get(key)
    if known is None:
        expand = layout.groups // bank.taps.shape[1]
        short, spectra = [], None
        for index, taps in enumerate(bank):
            h = taps if expand == 1 else taps.repeat_interleave(expand, dim=0)
            short.append(tile_filters(short_range_taps(h, plan, bank.dtype), layout))
            own = make_spectra(h, plan, layout, spectra_dtype)
            if len(bank) == 1 and own.device.type != "cpu":  # not twice in a GPU's memory
                spectra = own[None]
                break
            if spectra is None:
                spectra = empty(len(bank), *own.shape, dtype=own.dtype, device=taps.device)
            spectra[index] = own
        assert spectra is not None
        with _lock:
            known = bank.prepared.setdefault(
                key, PreparedFilters(bank, torch.stack(short), spectra)
            )
    return known


def share_prompt_spectrum(
    bank: FilterBank, layer: int, transform: Hashable, make: Callable[[], Tensor]
) -> PromptSpectrum:
    """A layer's spectrum of a transform: one that somebody has already, or made now."""
    with _lock:
        known = bank.prompts.get((layer, transform))
    if known is None:
        made = PromptSpectrum(make())
        with _lock:
            known = bank.prompts.setdefault((layer, transform), made)
    return known


def short_range_taps(h: Tensor, plan: Plan, dtype: torch.dtype) -> Tensor:
    """First ``T_0`` taps, time-major. h: (G, L) -> (T_0, G)."""
    block = min(plan.block_sizes[0], plan.slots)
    used = min(block, h.shape[1])
    taps = torch.zeros(block, h.shape[0], dtype=dtype, device=h.device)
    taps[:used] = h[:, :used].T
    return taps
