"""What of a model has changed since something was made of it."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module

from .brackets import foreign_hooks
from .unchanged import unchanged

#: What happens to weights.
REPLACED, WRITTEN, MOVED = "has been replaced", "has been written to", "has moved in memory"


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
        self._parts, self._weights = parts, _weights(parts)
        modules = [m for part in parts.values() for m in part.modules()]
        held = [d for m in modules for d in (m._modules, m._parameters, m._buffers) if d]
        counted: list[dict[Any, Any]] = [vars(m) for m in modules]
        counted += [torch_module._global_forward_hooks, torch_module._global_forward_pre_hooks]
        counted += [d for m in modules for d in (m._forward_pre_hooks, m._forward_hooks)]
        #: Whether all is as it was; False, too, where what has changed does not matter.
        self.same = unchanged(held, counted, [t for t, _, _ in self._weights.values()])

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
