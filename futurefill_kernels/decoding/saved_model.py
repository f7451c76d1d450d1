"""A model's decoding state as one flat dictionary, and whether a model can be pickled."""

from __future__ import annotations

import io
import pickle
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..checks import check_tensor


def split(state: Mapping[str, Tensor], parts: Iterable[str]) -> dict[str, dict[str, Tensor]]:
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


def check_same(name: str, x: Tensor | None, shape: torch.Size, dtype: torch.dtype) -> None:
    """ValueError unless a saved tensor is there and of that shape and dtype."""
    if x is None or x.shape != shape or x.dtype is not dtype:
        found = "none" if x is None else f"{tuple(x.shape)} of {x.dtype}"
        raise ValueError(f"expected {name} {tuple(shape)} of {dtype}, got {found}")


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
