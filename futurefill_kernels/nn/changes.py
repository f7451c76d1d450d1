"""What of a model has changed since something was made of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from itertools import chain
from operator import attrgetter, is_
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module

from .brackets import foreign_hooks

#: What happens to weights.
REPLACED, WRITTEN, MOVED = "has been replaced", "has been written to", "has moved in memory"

_version = attrgetter("_version")
_address = Tensor.data_ptr
_values: Callable[[dict[str, Any]], Iterable[Any]] = dict.values


def global_hooks() -> bool:
    """Whether somebody listens to the calls of all modules."""
    return bool(torch_module._global_forward_hooks or torch_module._global_forward_pre_hooks)


def describe(model: nn.Module, device: torch.device) -> list[object]:
    """What a call of the model on a device depends on, equal where that is equal: modules, their
    hooks, forwards and modes, addresses and versions of parameters and buffers, autocast.
    """
    kind = device.type
    cast_to = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
    found: list[object] = [global_hooks(), cast_to]
    for m in model.modules():  # one walk: it is a part of every request's time
        found += (id(m), foreign_hooks(m), id(vars(m).get("forward")), m.training)
        for t in chain(m._parameters.values(), m._buffers.values()):
            if t is not None:
                found.append((t.data_ptr(), 0 if t.is_inference() else t._version))
    return found


class Snapshot:
    """Modules, their hooks and forwards, parameters and buffers as they are now.

    parts: modules by the names that they have in their model, "" for itself. The tensors are held,
    so that their addresses are not given to others.
    """

    def __init__(self, parts: Mapping[str, nn.Module]) -> None:
        self._parts = parts
        modules = [m for part in parts.values() for m in part.modules()]
        self._held: list[dict[str, Any]] = [
            d for m in modules for d in (m._modules, m._parameters, m._buffers) if d
        ]
        self._members = list(chain.from_iterable(map(_values, self._held)))
        self._attributes = [vars(m) for m in modules]
        self._attribute_counts = list(map(len, self._attributes))
        hooks = [torch_module._global_forward_hooks, torch_module._global_forward_pre_hooks]
        hooks += [d for m in modules for d in (m._forward_pre_hooks, m._forward_hooks)]
        self._unhooked = [d for d in hooks if not d]
        self._hooked = [d for d in hooks if d]
        self._hook_counts = list(map(len, self._hooked))
        self._weights = _weights(parts)
        self._tensors = [t for t, _, _ in self._weights.values()]
        self._addresses = [address for _, address, _ in self._weights.values()]
        self._counted = [t for t in self._tensors if not t.is_inference()]
        self._versions = list(map(_version, self._counted))

    def same(self) -> bool:
        """Whether all is as it was; False, too, where what has changed does not matter."""
        return (
            not any(self._unhooked)
            and list(map(_version, self._counted)) == self._versions
            and list(map(_address, self._tensors)) == self._addresses
            and all(map(is_, chain.from_iterable(map(_values, self._held)), self._members))
            and list(map(len, self._attributes)) == self._attribute_counts
            and list(map(len, self._hooked)) == self._hook_counts
        )

    def changed_weights(self) -> dict[str, str]:
        """What has happened to parameters and buffers, by their names."""
        found, now = {}, _weights(self._parts)
        for name, (tensor, address, version) in self._weights.items():
            other = now.get(name)
            if other is None or other[0] is not tensor:
                found[name] = REPLACED
            elif other[2] != version:
                found[name] = WRITTEN
            elif other[1] != address:
                found[name] = MOVED
        return found


def _weights(parts: Mapping[str, nn.Module]) -> dict[str, tuple[Tensor, int, int]]:
    """Every parameter and buffer with its address and version, by its name."""
    named = (
        pair for name, part in parts.items()
        for pair in chain(part.named_parameters(name), part.named_buffers(name))
    )  # fmt: skip
    # nobody counts what is written to a tensor that inference mode made
    return {n: (t, t.data_ptr(), 0 if t.is_inference() else t._version) for n, t in named}
