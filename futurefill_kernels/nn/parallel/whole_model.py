"""Before a model is cut: all ranks have the same one, and none of its modules is against it."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain

from torch import nn
from torch.distributed.device_mesh import DeviceMesh

from .agreement import alike
from .ranks import Ranks
from .style import Style, one_sentence


class SameModel(Style):
    """The root's style: checks all others on all ranks before anything changes, gives every rank
    the weights of rank 0, and ends gradients, which nothing here sums over ranks.

    styles: those of the modules, by their names; ``""`` is the root's own.
    """

    def __init__(self, styles: Mapping[str, Style]) -> None:
        self.styles = dict(styles)

    def cannot(self, module: nn.Module, size: int) -> list[str]:
        """See `Style`."""
        return [
            f"{name}: {reason}" if name else reason
            for name, style in self.styles.items()
            for reason in style.cannot(module.get_submodule(name), size)
        ]

    def divide(self, module: nn.Module, ranks: Ranks) -> None:
        """See `Style`."""
        for tensor in chain(module.parameters(), module.buffers()):
            if not tensor.is_meta:
                ranks.broadcast(tensor)
        module.requires_grad_(False)
        module.ranks = ranks  # type: ignore[assignment]
        if "" in self.styles:
            self.styles[""].divide(module, ranks)

    def _apply(self, module: nn.Module, device_mesh: DeviceMesh) -> nn.Module:
        ranks = Ranks(device_mesh)

        def check() -> nn.Module:
            reasons = self.cannot(module, ranks.size)
            if reasons:
                raise ValueError(one_sentence(reasons))
            return module

        alike(ranks, check, lambda model: {"parallel plan": sorted(self.styles)} | _sizes(model))
        self.divide(module, ranks)
        return module


def _sizes(model: nn.Module) -> dict[str, object]:
    """Names, shapes, dtypes and devices of a model's weights."""
    tensors = chain(model.named_parameters(), model.named_buffers())
    return {name: (tuple(x.shape), str(x.dtype), x.device.type) for name, x in tensors}
