"""Linear maps cut by their outputs or by their inputs."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from .ranks import Ranks
from .sharded import shard
from .split import Split
from .style import PartsStyle, cannot_be, cannot_divide


class Columns(PartsStyle):
    """Outputs over ranks: x whole in, a rank's outputs out. Nothing is sent.

    parts: maps that the linear one fuses.
    """

    def cannot(self, module: nn.Module, size: int) -> list[str]:
        """See `Style`."""
        reasons = cannot_be(module, nn.Linear)
        if reasons or not isinstance(module, nn.Linear):
            return reasons
        return cannot_divide(
            "output channels of each part", module.out_features // self.parts, size
        )

    def divide(self, module: nn.Module, ranks: Ranks) -> None:
        """See `Style`."""
        assert isinstance(module, nn.Linear)
        rows = Split(0, module.out_features, ranks.size, self.parts)
        names = ["weight"] if module.bias is None else ["weight", "bias"]
        shard(module, ranks, dict.fromkeys(names, rows))
        module.out_features = self.parts * rows.piece


class RowwiseLinear(nn.Linear):
    """A linear map of which a rank has the columns of its inputs; outputs are summed over ranks,
    and then the bias is added, once.
    """

    ranks: Ranks

    def forward(self, x: Tensor) -> Tensor:
        """x: (..., C/N), this rank's inputs. Returns (..., D), the same on every rank."""
        y = self.ranks.sum(F.linear(x, self.weight))
        return y if self.bias is None else y + self.bias


class Rows(PartsStyle):
    """Inputs over ranks: a rank's inputs in, whole outputs out, with one sum over ranks.

    parts: copies of the channels that inputs consist of.
    """

    def cannot(self, module: nn.Module, size: int) -> list[str]:
        """See `Style`."""
        reasons = cannot_be(module, nn.Linear)
        if reasons or not isinstance(module, nn.Linear):
            return reasons
        return cannot_divide("input channels of each part", module.in_features // self.parts, size)

    def divide(self, module: nn.Module, ranks: Ranks) -> None:
        """See `Style`."""
        assert isinstance(module, nn.Linear)
        columns = Split(1, module.in_features, ranks.size, self.parts)
        shard(module, ranks, {"weight": columns})
        module.in_features = self.parts * columns.piece
        module.__class__ = RowwiseLinear
