"""A model's decoding state as one flat dictionary, and whether a model can be pickled."""

from __future__ import annotations

import io
import pickle
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..cache.cache import FutureFillCache
from ..checks import check_tensor
from ..nn.short_conv import ShortConvState


@dataclass(frozen=True)
class SavedParts:
    """The caches and short convolutions of a model by the beginnings of their names in a state dict
    (``DecodingCache.state_dict``).
    """

    caches: Mapping[str, FutureFillCache]
    short: Mapping[str, ShortConvState]

    def saved(self) -> dict[str, Tensor]:
        """What they hold, as copies."""
        found: dict[str, Tensor] = {}
        for part, cache in self.caches.items():
            found |= {f"{part}.{name}": x for name, x in cache.state_dict().items()}
        for part, state in self.short.items():
            found[f"{part}.inputs"] = state.newest.clone()
            found[f"{part}.taps"] = state.taps.clone()
        return found

    def checked(self, state: Mapping[str, Tensor], seen: Tensor) -> dict[str, dict[str, Tensor]]:
        """A state dict by part. ValueError or TypeError where it does not fit.

        seen: (B,) bool, whether rows have seen anything, as the state has it under "".
        """
        found = _split(state, [*self.caches, *self.short])
        _check_same("seen", found[""]["seen"], seen.shape, torch.bool)
        for part, cache in self.caches.items():
            cache.check_state_dict(found[part])
            if not torch.equal(found[part]["positions"], found["caches.0"]["positions"]):
                raise ValueError(f"expected {part}.positions to be those of caches.0")
        for part, conv in self.short.items():
            saved = found[part]
            _check_same(f"{part}.inputs", saved.get("inputs"), conv.newest.shape, conv.inputs.dtype)
            _check_same(f"{part}.taps", saved.get("taps"), conv.taps.shape, conv.taps.dtype)
            if not torch.allclose(saved["taps"].to(conv.taps.device), conv.taps):
                raise ValueError(f"expected a state of the same taps, {part} has others")
        return found


def positions_of(parts: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Any]:
    """What tells states of one model apart in short: where the rows of each are."""
    return {
        "positions": parts["caches.0"]["positions"].tolist(),
        "seen": parts[""]["seen"].tolist(),
    }


def check_pickles(model: nn.Module) -> None:
    """TypeError with the reason where pickle cannot write a model. Nothing is kept of it."""
    try:
        _WithoutTensors(io.BytesIO()).dump(model)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise TypeError(
            f"expected a model that pickle can write, got {type(model).__name__}: {error}"
        ) from error


class _WithoutTensors(pickle.Pickler):
    def persistent_id(self, obj: Any) -> str | None:
        return "tensor" if isinstance(obj, Tensor) else None


def _split(state: Mapping[str, Tensor], parts: Iterable[str]) -> dict[str, dict[str, Tensor]]:
    """Entries ``part.name`` by part, those without one under "". ValueError for other parts."""
    if not isinstance(state, Mapping):
        raise TypeError(f"expected state to be a state_dict, got {type(state).__name__}")
    found: dict[str, dict[str, Tensor]] = {"": {}, **{part: {} for part in parts}}
    for key, value in state.items():
        check_tensor(key, value)
        part = next((p for p in found if p and key.startswith(f"{p}.")), "")
        found[part][key[len(part) + 1 :] if part else key] = value
    if set(found[""]) != {"seen"}:
        raise ValueError(
            f"expected state with seen, and entries of {', '.join(found)[2:]}; "
            f"got {sorted(found[''])} beside those"
        )
    return found


def _check_same(name: str, x: Tensor | None, shape: torch.Size, dtype: torch.dtype) -> None:
    """ValueError unless a saved tensor is there and of that shape and dtype."""
    if x is None or x.shape != shape or x.dtype is not dtype:
        found = "none" if x is None else f"{tuple(x.shape)} of {x.dtype}"
        raise ValueError(f"expected {name} {tuple(shape)} of {dtype}, got {found}")
