"""Parameters of which a rank holds a part, and state dicts in the ordinary order.

Modules keep plain tensors, so that a token costs what its part of the arithmetic costs; DTensors,
which know of the other parts, are made for ``state_dict`` alone (docs/scaling.md has what an
operation on DTensors takes).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Shard

from .ranks import Ranks
from .split import Split


def shard(module: nn.Module, ranks: Ranks, splits: Mapping[str, Split]) -> None:
    """Keep this rank's part of parameters of a module, by their names in it.

    From here on the module's state dict has DTensors of the whole shapes, cut into neighbouring
    entries whatever the split is, and it loads these, or whole tensors. Both are collective.
    """
    for name, split in splits.items():
        parameter = module.get_parameter(name)
        part = split.take(parameter.detach(), ranks.rank).clone()
        setattr(module, name, nn.Parameter(part, requires_grad=False))
    module.ranks, module.splits = ranks, dict(splits)  # type: ignore[assignment]
    module.register_state_dict_post_hook(_save_parts)
    module.register_load_state_dict_pre_hook(_load_parts)


def as_dtensor(part: Tensor, split: Split, ranks: Ranks) -> DTensor:
    """The whole, of which every rank holds neighbouring entries, from the parts of all ranks."""
    first, count = split.neighbours(ranks.rank)
    if split.contiguous:
        part = part.narrow(split.dim, 0, count)
    elif part.is_meta:
        part = part.new_empty(split.whole_shape(part.shape)).narrow(split.dim, first, count)
    else:
        part = split.join(ranks.gather(part, split.dim)).narrow(split.dim, first, count)
    shape = split.whole_shape(part.shape)
    stride = torch.empty(shape, device="meta").stride()
    placed = [Shard(split.dim)]
    return DTensor.from_local(
        part.contiguous(), ranks.mesh, placed, run_check=False, shape=shape, stride=stride
    )


def whole_state(model: nn.Module, ranks: Ranks) -> dict[str, Tensor]:
    """What the state dict of the whole model would be, on the CPU of rank 0; empty on the others,
    which join every tensor one after the other. Collective.
    """
    found = {}
    for name, x in model.state_dict().items():
        whole = x.full_tensor() if isinstance(x, DTensor) else x
        if ranks.rank == 0:
            found[name] = whole.cpu()
    return found


def own_part(value: Tensor, split: Split, ranks: Ranks) -> Tensor:
    """This rank's part of a whole tensor, or of a DTensor. ValueError for one of another mesh."""
    if isinstance(value, DTensor):
        check_mesh("a DTensor", value, ranks)
        value = value.full_tensor()
    if value.ndim <= split.dim or value.shape[split.dim] != split.size:
        raise ValueError(
            f"expected {split.size} entries in dimension {split.dim}, got {tuple(value.shape)}"
        )
    return split.take(value, ranks.rank)


def check_mesh(name: str, value: DTensor, ranks: Ranks) -> None:
    """ValueError for a DTensor of another mesh."""
    if value.device_mesh != ranks.mesh:
        raise ValueError(
            f"expected {name} of {ranks.mesh}, got one of {value.device_mesh}: full_tensor() on "
            "its own mesh makes it whole"
        )


def _save_parts(
    module: nn.Module, state: dict[str, Any], prefix: str, local_metadata: dict[str, Any]
) -> None:
    for name, split in module.splits.items():  # type: ignore[operator, union-attr]
        part = state[prefix + name]
        state[prefix + name] = as_dtensor(part.detach(), split, module.ranks)  # type: ignore[arg-type]


def _load_parts(
    module: nn.Module,
    state: dict[str, Any],
    prefix: str,
    local_metadata: dict[str, Any],
    strict: bool,
    missing_keys: list[str],
    unexpected_keys: list[str],
    error_msgs: list[str],
) -> None:
    for name, split in module.splits.items():  # type: ignore[operator, union-attr]
        key = prefix + name
        if key in state:
            try:
                state[key] = own_part(state[key], split, module.ranks)  # type: ignore[arg-type]
            except ValueError as error:
                error_msgs.append(f"{key}: {error}")
                state[key] = getattr(module, name).detach()  # as it is
