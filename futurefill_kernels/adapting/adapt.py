"""adapt(): models of public code, and of one's own, called as ``model(ids, cache=cache)``."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from ..checks import integer
from ..decoding.model_cache import DecodingCache
from ..nn.interface import Cache
from . import hyena, long_conv, named, output_map, stu
from .agreement import difference, tolerance
from .current import use_cache
from .twin import TapsOf, Twin

#: An example's positions, and how its calls are cut.
_EXAMPLE, _CUTS = 11, (0, 4, 6, 7, 8, 9, 10, 11)


class AdaptedModel(nn.Module):
    """What `adapt` returns. model: the tree with twins in it; the rest is the original's."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.train(model.training)
        limits = [
            (twin.limit, twin.operator_name)
            for twin in model.modules()
            if isinstance(twin, Twin) and twin.limit is not None
        ]
        self._limit = min(limits, default=None)

    def forward(self, ids: Tensor, cache: Cache | None = None, **kwargs: Any) -> Tensor:
        """ids: (B, T), or what the model takes. Returns its logits (B, T, V): of its output, the
        field ``logits`` or the first of several. kwargs: handed to the model.

        ValueError for more positions than an operator takes.
        """
        if self._limit is not None and ids.ndim > 1 and ids.shape[1] > self._limit[0]:
            limit, name = self._limit
            raise ValueError(f"expected at most {limit} positions ({name}), got {ids.shape[1]}")
        with use_cache(cache):
            return _logits(self.model(ids, **kwargs))


def adapt(
    model: nn.Module,
    filters: Mapping[type[nn.Module], TapsOf] | None = None,
    taps: int | None = None,
    *,
    example: Tensor | None = None,
) -> AdaptedModel:
    """A model that decodes with a cache, made of one that knows of none.

    Operators that are recognised (``HyenaOperator`` of HyenaDNA and safari, ``LongConv`` of safari,
    ``GConv`` of SGConv, ``STU`` of FutureFill, SpectraLDS and flash-stu) and modules whose class is
    in ``filters`` are replaced in a new tree that shares all weights; the original stays as it was.
    What is returned works with `decode`, `Decoder` and `DecodingCache`. Cast and move it, rather
    than the original: it keeps filters in float32.

    model: in eval mode where it has dropout.
    filters: class -> ``taps_of(module, length)``, the first ``min(length, L)`` taps (G, ...) of a
        module that takes (B, T, D) or (B, D, T) and returns that convolution of it; tap 0
        multiplies the newest input, and a skip is part of it.
    taps: keep at most that many of each filter, which is exact while a prompt and what follows it
        are no longer; saves time and memory where filters are long.
    example: an input (1, T) of the model, default a few random ids where it has an embedding. Read
        for ``filters``, and to see that steps equal whole sequences.

    Raises ValueError that lists the modules seen where none is recognised, that names class and
    option of what cannot decode token by token, and where steps differ from whole sequences:
    attention and position embeddings need a state of their own.
    """
    taps, filters = _checked(model, filters, taps, example)
    modules = list(model.modules())
    for module in modules:
        rate = getattr(module, "p", 0)
        if module.training and "Drop" in type(module).__name__ and rate:
            raise ValueError(
                f"{type(module).__name__} with p = {rate} in training mode cannot be adapted: call "
                "model.eval() first"
            )
    chosen = [m for m in modules if isinstance(m, tuple(filters))]
    for kind in filters:
        if not any(isinstance(m, kind) for m in chosen):
            raise ValueError(
                f"filters name {kind.__name__}: expected a module of that class in the model, "
                f"which has {_kinds(modules)}"
            )
    example = _example(model) if example is None else example
    seen: dict[nn.Module, tuple[Any, Any]] = {}
    if chosen:
        if example is None:
            raise ValueError("filters need an example of the model's input: expected example=")
        seen = named.watch(model, chosen, example)

    def twins(taps: int | None) -> dict[nn.Module, Twin]:
        found: dict[nn.Module, Twin] = {}
        for module in modules:
            if module in seen:
                taps_of = next(f for kind, f in filters.items() if isinstance(module, kind))
                found[module] = named.twin_of(module, taps_of, taps, seen[module])
                continue
            for family in (hyena, long_conv, stu):
                twin = family.twin_of(module, taps)
                if twin is not None:
                    found[module] = twin
        return found

    replaced = twins(taps)
    if not replaced:
        raise ValueError(
            "expected a HyenaOperator, LongConv, GConv or STU, or filters={Module: taps_of}; the "
            f"model has {_kinds(modules)}"
        )
    trimmed: dict[nn.Module, nn.Module] = {}
    if example is not None:
        small = twins(example.shape[1])

        def made_with(others: dict[nn.Module, nn.Module]) -> AdaptedModel:
            return AdaptedModel(_with(model, {**small, **others}, {}))

        if not example.is_meta:
            _check_steps(made_with({}), example)
        trimmed = output_map.trimmed(example, made_with)
    return AdaptedModel(_with(model, {**replaced, **trimmed}, {}))


def _checked(
    model: object, filters: object, taps: int | None, example: object
) -> tuple[int | None, dict[type[nn.Module], TapsOf]]:
    """taps and filters, or a ValueError or TypeError for an argument that cannot be one."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"expected model to be a module, got {type(model).__name__}")
    if filters is not None and not isinstance(filters, Mapping):
        raise TypeError(
            "expected filters to be a mapping from classes to functions (module, length) -> taps, "
            f"got {type(filters).__name__}"
        )
    for kind, taps_of in (filters or {}).items():
        if not (isinstance(kind, type) and issubclass(kind, nn.Module) and callable(taps_of)):
            raise TypeError(
                "expected filters to map classes of modules to functions (module, length) -> taps, "
                f"got {kind!r}: {taps_of!r}"
            )
    if taps is not None and integer("taps", taps) < 1:
        raise ValueError(f"expected taps >= 1, got {taps}")
    if example is not None and not (isinstance(example, Tensor) and example.ndim > 1):
        found = tuple(example.shape) if isinstance(example, Tensor) else type(example).__name__
        raise TypeError(f"expected example to be a tensor (1, T, ...), got {found}")
    return taps, dict(filters or {})


def _kinds(modules: Sequence[nn.Module]) -> str:
    return ", ".join(sorted({f"{type(m).__module__}.{type(m).__qualname__}" for m in modules}))


def _with(
    module: nn.Module, twins: Mapping[nn.Module, nn.Module], made: dict[nn.Module, nn.Module]
) -> nn.Module:
    """The same tree with twins; modules that have none below them are the original's own."""
    if module in twins:
        return twins[module]
    if module not in made:
        # not named_children(), which gives a child of two names once
        children = {
            name: child if child is None else _with(child, twins, made)
            for name, child in module._modules.items()
        }
        made[module] = module
        if any(child is not module._modules[name] for name, child in children.items()):
            made[module] = changed = copy.copy(module)
            changed._modules = children
    return made[module]


def _example(model: nn.Module) -> Tensor | None:
    """Random ids (1, T), None for a model without an embedding."""
    embedding = next((m for m in model.modules() if isinstance(m, nn.Embedding)), None)
    if embedding is None:
        return None
    generator = torch.Generator("cpu").manual_seed(0)
    ids = torch.randint(embedding.num_embeddings, (1, _EXAMPLE), generator=generator, device="cpu")
    return ids.to(embedding.weight.device)


@torch.no_grad()
def _check_steps(model: AdaptedModel, example: Tensor) -> None:
    """ValueError unless a prompt, a chunk and steps give what the whole example gives."""
    whole = model(example)
    width = example.shape[1]
    cuts = [cut for cut in _CUTS if cut < width] + [width]
    cache = DecodingCache(model, len(example), width, fused=False)
    pieces = [model(example[:, start:stop], cache=cache) for start, stop in pairwise(cuts)]
    error = difference(torch.cat(pieces, 1), whole, whole)
    if not error < tolerance(whole.dtype):
        kinds = sorted({type(m).__name__ for m in model.modules()})
        raise ValueError(
            f"steps differ from whole sequences by {error:.1e} of the largest output: something "
            "besides the recognised operators looks at other positions, such as attention, or at "
            f"where it is, such as position embeddings; the model has {', '.join(kinds)}"
        )


def _logits(output: Any) -> Tensor:
    """Of what a model returns: a tensor, something with ``logits``, or a tuple that begins so."""
    if isinstance(output, Tensor):
        return output
    if hasattr(output, "logits"):
        return _logits(output.logits)
    if isinstance(output, tuple | list) and output:
        return _logits(output[0])
    raise TypeError(f"expected logits, or an output with logits, got {type(output).__name__}")
