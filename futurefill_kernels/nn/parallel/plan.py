"""Which parallel style each module of a model gets."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from ..filters import LongFilter
from ..hyena import Hyena
from ..language_model import GatedMLP, LanguageModel
from ..long_conv import LongConv
from ..short_conv import ShortConv
from ..stu import STU

if TYPE_CHECKING:
    from torch.distributed.tensor.parallel import ParallelStyle

    from .style import Style


def parallel_plan(model: nn.Module) -> dict[str, ParallelStyle]:
    """Names and styles for torch's ``parallelize_module(model, mesh, plan)``: the channels of every
    `Hyena`, `STU`, `LongConv` and gated MLP over the ranks of a mesh, and the vocabulary of a
    `LanguageModel`.

    Each rank then holds ``1/N`` of projections, filters and decoding state; a mixer and an MLP sum
    or gather once per call. Activations between them are whole and the same on every rank, and so
    are logits. Weights become those of rank 0, without gradients. ValueError for a long filter or
    short convolution outside these mixers, and for a model that is cut already; where the ranks do
    not divide the channels ``parallelize_module`` raises it, on all ranks and before any change.
    """
    from .whole_model import SameModel

    styles = _styles(model)
    return {"": SameModel(styles), **{name: style for name, style in styles.items() if name}}


def cannot_be_cut(model: nn.Module, size: int) -> list[str]:
    """Why `parallel_plan` of a model would be refused by ``size`` ranks, one sentence each."""
    return [
        f"{name}: {reason}" if name else reason
        for name, style in _styles(model).items()
        for reason in style.cannot(model.get_submodule(name), size)
    ]


def _styles(model: nn.Module) -> dict[str, Style]:
    """The style of every module that is cut, by its name; the root's is "".

    DTensor's import takes half a second, which a model on one device need not wait for.
    """
    from .filters import FilterChannels
    from .linear import Columns, Rows
    from .mixers import WholeOutside
    from .short_conv import ShortConvChannels
    from .vocabulary import Vocabulary

    styles: dict[str, Style] = {}
    covered: set[nn.Module] = set()
    for name, module in model.named_modules():
        found: dict[str, Style] = {}
        if "ranks" in vars(module):
            raise ValueError(f"{name or type(module).__name__} is cut over ranks already")
        if type(module) is Hyena:
            found["in_proj"] = Columns(module.order + 1)
            found["short_conv"] = ShortConvChannels(module.order + 1)
            found |= {f"filters.{i}": FilterChannels() for i in range(len(module.filters))}
            found["out_proj"] = Rows()
        elif type(module) is STU:
            found["proj"] = Columns() if module.tensorised else Rows(module.copies)
            found |= {"filter": FilterChannels(), "": WholeOutside()}
        elif type(module) is LongConv:
            found |= {"filter": FilterChannels(), "": WholeOutside()}
        elif type(module) is GatedMLP:
            found |= {"gate_up": Columns(2), "down": Rows()}
        elif type(module) is LanguageModel:
            found[""] = Vocabulary()
        for part, style in found.items():
            styles[".".join(filter(None, (name, part)))] = style
            covered.add(module.get_submodule(part))
    for name, module in model.named_modules():
        if isinstance(module, LongFilter | ShortConv) and module not in covered:
            raise ValueError(
                f"{name or 'the model'} is no part of an ff.nn.Hyena, STU or LongConv: expected a "
                f"style for {type(module).__name__} from whoever defines it"
            )
    if not styles:
        raise ValueError(f"{type(model).__name__} has no ff.nn mixers, expected at least one")
    return styles
