"""The end of a model, its output map, run on no more positions than the caller reads."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..nn.short_conv import ShortConv
from .agreement import difference, tolerance
from .current import current_cache
from .twin import Twin


@torch.no_grad()
def trimmed(
    example: Tensor, made_with: Callable[[dict[nn.Module, nn.Module]], nn.Module]
) -> dict[nn.Module, nn.Module]:
    """The last module of a call and what replaces it: itself, on the positions that are wanted of
    its input. Empty where no module behind the operators can be given a part of them.

    example: (1, T) ids, or what the model takes; on meta only shapes are compared. made_with:
    replacements -> the adapted model with them.
    """
    at = example.shape[1] // 2
    if at == 0:  # of a single position there is no part
        return {}
    adapted = made_with({})
    whole = adapted(example)
    expected = whole[:, at : at + 1]
    for module in reversed(_called_behind(adapted, example)):
        replacement = {module: _on_wanted_positions(module)}
        try:
            picked = made_with(replacement)(example, cache=_Picks(at))
        except Exception:  # it needs all positions, and says so in its own way
            continue
        if picked.shape == expected.shape and (
            example.is_meta or difference(picked, expected, whole) < tolerance(whole.dtype)
        ):
            return replacement
    return {}


def _called_behind(model: nn.Module, example: Tensor) -> list[nn.Module]:
    """Modules called once, on a tensor of positions, after the last twin; in their order."""
    calls: list[tuple[nn.Module, Any]] = []
    twins = [module for module in model.modules() if isinstance(module, Twin)]
    inside = {part for twin in twins for part in twin.modules()}
    handles = [
        module.register_forward_pre_hook(lambda m, args: calls.append((m, next(iter(args), None))))
        for module in model.modules()
    ]
    try:
        model(example)
    finally:
        for handle in handles:
            handle.remove()
    called = [module for module, _ in calls]
    behind = 1 + max((i for i, module in enumerate(called) if module in inside), default=-1)
    return [
        module
        for module, x in calls[behind:]
        if isinstance(x, Tensor) and x.shape[:2] == example.shape[:2] and called.count(module) == 1
    ]


def _on_wanted_positions(module: nn.Module) -> nn.Module:
    """A copy that shares everything but its hooks."""
    other = copy.copy(module)
    other._forward_pre_hooks = OrderedDict(module._forward_pre_hooks)
    other.register_forward_pre_hook(_keep_wanted)
    return other


def _keep_wanted(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
    cache = current_cache()
    return None if cache is None or not args else (cache.wanted(args[0]), *args[1:])


class _Picks:
    """A cache of whole sequences that wants one position."""

    def __init__(self, position: int) -> None:
        self.position = position

    def long_conv(self, module: Any, u: Tensor, pre: Tensor | None, post: Tensor | None) -> Tensor:
        y: Tensor = module(u, pre=pre, post=post)
        return y

    def short_conv(self, module: Any, x: Tensor) -> Tensor:
        return ShortConv.forward(module, x)  # what a subclass adds comes after a cache

    def fused_token(self, model: Any, ids: Tensor) -> Tensor | None:
        return None

    def wanted(self, x: Tensor) -> Tensor:
        return x[:, self.position : self.position + 1]
