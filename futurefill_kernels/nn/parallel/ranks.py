"""The ranks that hold a model together, and what they send each other."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, distributed, nn

from ...checks import refuse_grad

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

_Result = TypeVar("_Result")


class Ranks:
    """The ranks of a mesh of one dimension, as one of them sees them.

    mesh: a torch DeviceMesh. size: ranks ``N``. rank: this one, 0 .. N-1. Every method is called
    by all ranks. RuntimeError on each that still runs when one has died or does not come within
    the time-out of the mesh's process group (30 minutes with gloo and 10 with NCCL unless
    ``init_process_group`` is told otherwise).
    """

    def __init__(self, mesh: DeviceMesh) -> None:
        if mesh.ndim != 1:
            raise ValueError(f"expected a mesh of one dimension, got {mesh.ndim}: slice it by name")
        self.mesh, self.group = mesh, mesh.get_group()
        self.size, self.rank = mesh.size(), mesh.get_local_rank()

    def sum(self, x: Tensor) -> Tensor:
        """The sum of x over ranks, on all of them, in x itself."""
        refuse_grad(x=x)
        x = x.contiguous()
        self._together("sum", lambda: distributed.all_reduce(x, group=self.group))
        return x

    def gather(self, x: Tensor, dim: int = -1) -> Tensor:
        """What all ranks have, of equal shapes, one behind the other along a dimension."""
        refuse_grad(x=x)
        x = x.contiguous()
        parts = [torch.empty_like(x) for _ in range(self.size)]
        self._together("gather", lambda: distributed.all_gather(parts, x, group=self.group))
        return torch.cat(parts, dim)

    def own(self, x: Tensor, dim: int = -1) -> Tensor:
        """This rank's part of x, which is whole on every rank and divisible along the dimension."""
        return x.chunk(self.size, dim)[self.rank]

    def broadcast(self, x: Tensor) -> None:
        """Make x on every rank what it is on rank 0."""
        first = distributed.get_global_rank(self.group, 0)
        x = x.detach()
        self._together("broadcast", lambda: distributed.broadcast(x, first, group=self.group))

    def gather_number(self, number: int) -> list[int]:
        """The numbers of all ranks, of 64 bits each, by rank."""
        one = torch.tensor([number], device=self.mesh.device_type)
        return [int(x) for x in self.gather(one)]

    def exchange(self, value: Any) -> list[Any]:
        """The values of all ranks, by rank. value: what pickle can write."""
        found: list[Any] = [None] * self.size
        self._together(
            "exchange", lambda: distributed.all_gather_object(found, value, group=self.group)
        )
        return found

    def capturable(self) -> bool:
        """Whether a CUDA graph can hold the sums."""
        return distributed.get_backend(self.group) == "nccl"

    def _together(self, what: str, collective: Callable[[], _Result]) -> _Result:
        try:
            return collective()
        except RuntimeError as error:
            cause = str(error).partition("\n")[0].partition(". ")[0]
            raise RuntimeError(
                f"rank {self.rank} of {self.size}: {what} over ranks failed: another rank has "
                "ended, has made another call, or did not come within the time-out of the process "
                f"group ({cause})"
            ) from error

    def __deepcopy__(self, memo: dict[int, Any]) -> Ranks:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError(
            "a model over ranks holds one part of the weights and a process group: expected its "
            "state_dict to be saved"
        )


def ranks_of(model: nn.Module) -> Ranks | None:
    """The ranks that a model is cut over, None where it is whole."""
    found = (vars(module).get("ranks") for module in model.modules())
    return next((ranks for ranks in found if isinstance(ranks, Ranks)), None)
