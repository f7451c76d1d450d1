"""What a model may be made of so that its tokens can be fused."""

from __future__ import annotations

import re

from torch import nn

from ..brackets import foreign_hooks
from ..changes import global_hooks
from ..hyena import Hyena, ImplicitFilter
from ..language_model import Block, GatedMLP, LanguageModel
from ..short_conv import ShortConv
from ..stu import STU, SpectralFilter

# the exact type of every module of a model that the builder knows, numbers as #
_LINEAR, _NORM = (nn.Linear,), (nn.RMSNorm,)
_PLACES: dict[str, tuple[type[nn.Module], ...]] = {
    "": (LanguageModel,), "embedding": (nn.Embedding,), "norm": _NORM,
    "blocks": (nn.ModuleList,), "blocks.#": (Block,),
    "blocks.#.mixer_norm": _NORM, "blocks.#.mixer": (Hyena, STU),
    "blocks.#.mixer.in_proj": _LINEAR, "blocks.#.mixer.short_conv": (ShortConv,),
    "blocks.#.mixer.filters": (nn.ModuleList,), "blocks.#.mixer.filters.#": (ImplicitFilter,),
    "blocks.#.mixer.filters.#.input": _LINEAR, "blocks.#.mixer.filters.#.hidden": _LINEAR,
    "blocks.#.mixer.filters.#.output": _LINEAR, "blocks.#.mixer.out_proj": _LINEAR,
    "blocks.#.mixer.filter": (SpectralFilter,), "blocks.#.mixer.proj": _LINEAR,
    "blocks.#.mlp_norm": _NORM, "blocks.#.mlp": (GatedMLP,),
    "blocks.#.mlp.gate_up": _LINEAR, "blocks.#.mlp.down": _LINEAR,
}  # fmt: skip


def unknown_parts(model: nn.Module) -> list[str]:
    """Modules, and settings of modules, that a fused token knows nothing of, one sentence each."""
    if type(model) is not LanguageModel:
        return [f"{type(model).__name__} is not an ff.nn.LanguageModel"]
    reasons = ["hooks of all modules are registered"] if global_hooks() else []
    for name, module in model.named_modules(remove_duplicate=False):
        known = _PLACES.get(re.sub(r"(^|\.)\d+(?=\.|$)", r"\1#", name), ())
        if type(module) not in known:
            found = f"{name} is {type(module).__module__}.{type(module).__qualname__}"
            reasons.append(f"{found}, not {' or '.join(m.__name__ for m in known) or 'known'}")
        elif foreign_hooks(module) or "forward" in vars(module):
            reasons.append(f"{name or 'the model'} has forward hooks or a forward of its own")
        elif isinstance(module, nn.RMSNorm) and module.weight is None:
            reasons.append(f"{name} has no weight")
        elif isinstance(module, nn.Embedding) and module.max_norm is not None:
            reasons.append(f"{name} has a max_norm, which changes its weight")
    return reasons
