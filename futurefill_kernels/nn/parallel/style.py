"""What every parallel style of this package does: ask first, then cut."""

from __future__ import annotations

from abc import abstractmethod

from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor.parallel import ParallelStyle

from .ranks import Ranks


class Style(ParallelStyle):
    """A parallel style for ``parallelize_module``.

    Applying it raises ValueError with what `cannot` gives, before anything has changed.
    """

    @abstractmethod
    def cannot(self, module: nn.Module, size: int) -> list[str]:
        """Why a module cannot be cut over ``size`` ranks, one sentence each."""

    @abstractmethod
    def divide(self, module: nn.Module, ranks: Ranks) -> None:
        """Cut it, in place."""

    def _apply(self, module: nn.Module, device_mesh: DeviceMesh) -> nn.Module:
        ranks = Ranks(device_mesh)
        reasons = self.cannot(module, ranks.size)
        if reasons:
            raise ValueError("; ".join(reasons))
        self.divide(module, ranks)
        return module


class PartsStyle(Style):
    """A style of channels in ``parts`` of equal width, one behind the other, such as projections
    that one linear map fuses; a rank owns its channels of each.
    """

    def __init__(self, parts: int = 1) -> None:
        self.parts = parts


def one_sentence(reasons: list[str]) -> str:
    """The first reason, and how many more there are."""
    more = len(reasons) - 1
    return reasons[0] + (f" (and {more} more like this)" if more else "")


def cannot_divide(what: str, count: int, size: int) -> list[str]:
    """Why ``count`` of something cannot be cut over ranks evenly."""
    if count % size:
        return [f"expected the number of ranks to divide {what} = {count}, got {size} ranks"]
    return []


def cannot_be(module: nn.Module, *known: type[nn.Module]) -> list[str]:
    """Why a module is none that a style knows; one that is cut already is of another type."""
    if "ranks" in vars(module):
        return [f"{type(module).__name__} is cut over ranks already"]
    if type(module) not in known:
        names = " or ".join(k.__name__ for k in known)
        return [f"expected {names}, got {type(module).__module__}.{type(module).__qualname__}"]
    return []
