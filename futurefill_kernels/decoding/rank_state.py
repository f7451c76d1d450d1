"""State dicts of a cache over ranks: whole, in the ordinary order, whatever holds the parts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from ..cache.saved import fingerprint
from ..nn.filters import LongFilter
from ..nn.parallel.agreement import alike
from ..nn.parallel.filters import cut_of, whole_rows
from ..nn.parallel.ranks import Ranks
from ..nn.parallel.sharded import as_dtensor, check_mesh, own_part
from ..nn.parallel.split import Split
from ..nn.short_conv import ShortConv

#: Dimension of channels in what is saved, by the end of its name.
_CHANNELS = {
    "caches": {"inputs": 2, "pending": 2, "prompt_fill": 2, "open_prompt": 1},
    "short": {"inputs": 2, "taps": 1},
}


class RankState:
    """How the state of a model's convolutions is cut.

    long: layers of every cache of long filters, in order. short: short convolutions by their names.
    dtype: of the state. filters_dtype: what its filters are rounded to.
    """

    def __init__(
        self,
        ranks: Ranks,
        long: list[list[LongFilter]],
        short: Mapping[str, ShortConv],
        dtype: torch.dtype,
        filters_dtype: torch.dtype,
    ) -> None:
        self._ranks, self._dtype, self._filters_dtype = ranks, dtype, filters_dtype
        self._filters = {f"caches.{i}": filters for i, filters in enumerate(long)}
        self._cuts: dict[str, Split] = {
            part: cut_of(filters[0]) for part, filters in self._filters.items()
        }
        self._cuts |= {f"short.{name}": cut_of(conv) for name, conv in short.items()}

    def whole(self, saved: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A rank's state dict with DTensors of whole shapes. Collective."""
        found = dict(saved)
        for name, x in saved.items():
            split = self._split(name)
            if split is not None:
                found[name] = as_dtensor(x, split, self._ranks)
        for part, filters in self._filters.items():
            found[f"{part}.fingerprint"] = self._prints(filters)[0]
        return found

    def own(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A rank's part of a whole state, of DTensors or tensors. Collective; ValueError on all
        ranks for one that does not fit.
        """

        def check() -> Mapping[str, Tensor]:
            if not isinstance(state, Mapping):
                raise TypeError(f"expected state to be a state_dict, got {type(state).__name__}")
            for name, x in state.items():
                if isinstance(x, DTensor):
                    check_mesh(name, x, self._ranks)
            return state

        alike(self._ranks, check, lambda s: {"entries of state": sorted(s)})
        found = {k: x.full_tensor() if isinstance(x, DTensor) else x for k, x in state.items()}

        def cut() -> dict[str, Tensor]:
            for name, x in found.items():
                split = self._split(name)
                if split is not None and isinstance(x, Tensor):
                    try:
                        found[name] = own_part(x, split, self._ranks).clone()
                    except ValueError as error:
                        raise ValueError(f"{name}: {error}") from error
            return found

        alike(self._ranks, cut, lambda _: {})
        for part, filters in self._filters.items():
            whole, own = self._prints(filters)
            saved = found.get(f"{part}.fingerprint")
            if isinstance(saved, Tensor) and saved.shape == whole.shape:
                found[f"{part}.fingerprint"] = own + (saved - whole)  # others stay others
        return found

    def _split(self, name: str) -> Split | None:
        """How what is saved under a name is cut, None where every rank has all of it."""
        part = next((p for p in self._cuts if name.startswith(f"{p}.")), None)
        if part is None:
            return None
        kind = name[len(part) + 1 :].partition(".")[0]
        dim = _CHANNELS[part.partition(".")[0]].get(kind)
        return None if dim is None else replace(self._cuts[part], dim=dim)

    @torch.no_grad()
    def _prints(self, filters: list[LongFilter]) -> tuple[Tensor, Tensor]:
        """Fingerprints of whole filters and of this rank's, (layers, 6) each. Collective."""
        whole, own = [], []
        for module in filters:
            device = next((p.device for p in module.parameters()), torch.device("cpu"))
            h = module.taps_on(module.context_length, device, self._dtype)
            h = h.to(self._filters_dtype).to(self._dtype)
            skip = None if module.skip is None else module.skip[None].to(device, self._dtype)
            own.append(fingerprint([h], skip))
            skip = None if skip is None else self._ranks.gather(skip)
            whole.append(fingerprint([whole_rows(module, h, self._ranks)], skip))
        return torch.cat(whole), torch.cat(own)
