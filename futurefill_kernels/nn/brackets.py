"""Where a call of a model begins and ends, told to the cache that it is made with."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from torch import Tensor, nn


class Bracketed:
    """A cache that is told of calls of a model; `watch` says of which."""

    def begin_call(self, module: nn.Module, inputs: Sequence[Tensor]) -> None:
        """``module(..., cache)`` begins. inputs: the tensors among its arguments."""
        raise TypeError(f"{type(self).__name__} must define begin_call(module, inputs)")

    def end_call(self, module: nn.Module, failed: bool) -> None:
        """``module(..., cache)`` ends. failed: with an exception (KeyboardInterrupt and the like
        are not told).
        """
        raise TypeError(f"{type(self).__name__} must define end_call(module, failed)")

    #: The exception that was being handled when the call began.
    outer_error: int = id(None)


def watch(model: nn.Module, parts: Collection[nn.Module]) -> None:
    """From here on, calls of every module that holds all parts are told to the cache among their
    arguments. Once is enough for all caches of a model.
    """
    wanted = set(parts)
    within: list[nn.Module] = [model]
    while within:
        module = within.pop()
        if not wanted <= set(module.modules()):
            continue
        if _begin not in module._forward_pre_hooks.values():
            module.register_forward_pre_hook(_begin, with_kwargs=True)
            module.register_forward_hook(_end, with_kwargs=True, always_call=True)
        within += module.children()


def foreign_hooks(module: nn.Module) -> list[int]:
    """The keys of a module's forward hooks that are not of this file."""
    hooks: list[Mapping[int, Callable[..., Any]]] = [
        module._forward_pre_hooks,
        module._forward_hooks,
    ]
    return [
        key for d in hooks for key, hook in d.items() if hook is not _begin and hook is not _end
    ]


def _begin(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    cache = _cache_among(args, kwargs)
    if cache is not None:
        cache.outer_error = id(sys.exc_info()[1])
        inputs = [x for x in (*args, *kwargs.values()) if isinstance(x, Tensor)]
        cache.begin_call(module, inputs)


def _end(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
    cache = _cache_among(args, kwargs)
    if cache is not None:
        failed = output is None and id(sys.exc_info()[1]) != cache.outer_error
        cache.end_call(module, failed)


def _cache_among(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Bracketed | None:
    cache = kwargs.get("cache")
    if isinstance(cache, Bracketed):
        return cache
    for x in (*args, *kwargs.values()):
        if isinstance(x, Bracketed):
            return x
    return None
