"""What caches, calls and requests of a model that is cut over ranks have to have in common."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from torch import Tensor, nn

from ..cache.cache import FutureFillCache
from ..checks import check_module, integer, integers
from ..nn.parallel.agreement import alike, told
from ..nn.parallel.ranks import Ranks, ranks_of
from ..plan import Plan
from .calls import Selection
from .long_convs import ModelOptions, activations_of, cache_of_filters, equal_filters
from .request import Request
from .sampling import RandomSampler, greedy

_Made = TypeVar("_Made")


def make_caches(
    model: nn.Module, batch_size: int, max_new_tokens: int, options: ModelOptions
) -> list[FutureFillCache]:
    """The caches of a model's long filters; on all of its ranks alike, or a ValueError on all.

    Where no plan is given, that of rank 0 is everybody's.
    """
    check_module(model)
    ranks, groups = ranks_of(model), equal_filters(model.modules())
    if not groups:
        raise ValueError(
            f"{type(model).__name__} has no ff.nn mixers, expected at least one: ff.adapt makes "
            "them of those of other code"
        )
    dtype, device = activations_of(model)

    def make(plans: Sequence[Plan | None]) -> list[FutureFillCache]:
        rows, positions = (
            integer("batch_size", batch_size), integer("max_new_tokens", max_new_tokens)
        )  # fmt: skip
        if options["rollback"] is not None:
            options["rollback"] = integer("rollback", options["rollback"])
        return [
            cache_of_filters(filters, rows, positions, {**options, "plan": plan}, dtype, device)
            for filters, plan in zip(groups, plans, strict=True)
        ]

    def describe(caches: Sequence[FutureFillCache]) -> dict[str, Any]:
        given = {name: value for name, value in options.items() if name != "fill_stream"}
        given |= {"plan": options["plan"] and _numbers(options["plan"])}
        sizes = {"batch_size": batch_size, "max_new_tokens": max_new_tokens}
        return {**sizes, **given, "impl": [cache.impl for cache in caches]}

    caches = alike(ranks, lambda: make([options["plan"]] * len(groups)), describe)
    if ranks is None:
        return caches
    first: list[Plan] = ranks.exchange([cache.plan for cache in caches])[0]
    same = [_numbers(p) for p in first] == [_numbers(cache.plan) for cache in caches]
    return alike(ranks, lambda: caches if same else make(first), lambda _: {})


def _numbers(plan: Plan) -> tuple[object, ...]:
    """A plan without the length of filters, whose ends differ from channel to channel."""
    return plan.length, plan.block_sizes, plan.slack_from


def describe_request(request: Request) -> dict[str, Any]:
    """What tells requests apart that would not give the same tokens."""
    sampler, ending = request.sampler, request.ending
    if isinstance(sampler, RandomSampler):
        kind: object = sampler.temperature, sampler.top_k, sampler.top_p
    else:
        kind = getattr(sampler, "__qualname__", type(sampler).__qualname__)
    return {
        "prompt (its digest)": _digest((request.ids.tolist(), request.lengths)),
        "max_new_tokens": request.steps,
        "sampler": kind,
        "seed": request.seeds,
        "ending": (ending.stop_ids, ending.sequences, ending.strings, ending.pad_id),
        "watching of tokens": request.watched,
    }


def tell_errors(ranks: Ranks, request: Request) -> Request:
    """A request in which an exception of the caller's functions on one rank ends those of all."""
    sampler, callback, ending = request.sampler, request.callback, request.ending
    if sampler is not greedy and not isinstance(sampler, RandomSampler):
        sampler = told(ranks, sampler)
    if callback is not None:
        callback = told(ranks, callback)
    if ending.detokenize is not None:
        ending = replace(ending, detokenize=told(ranks, ending.detokenize))
    return replace(request, sampler=sampler, callback=callback, ending=ending)


def describe_call(inputs: Sequence[Tensor], selection: Selection) -> dict[str, Any]:
    """What tells calls of a model apart, as far as it is whole numbers and sizes."""
    lengths = selection.lengths
    return {
        "inputs": [_describe(x) for x in inputs],
        "rows": selection.rows,
        "lengths": None if lengths is None else integers("lengths", lengths),
    }


def _describe(x: Tensor) -> str:
    sizes = f"{tuple(x.shape)} of {x.dtype}"
    if x.is_floating_point() or x.is_complex() or not x.numel():
        return sizes
    ids = x.reshape(-1).tolist()
    return f"{sizes}: {ids}" if len(ids) <= 8 else f"{sizes}, digest {_digest(ids)}"


def same_call(
    ranks: Ranks | None,
    name: str,
    positions: Sequence[int],
    make: Callable[[], _Made],
    describe: Callable[[_Made], Mapping[str, Any]],
) -> _Made:
    """`alike` of a call of a cache whose rows are at positions: another call or other positions
    on some rank are a ValueError on all.
    """
    at = {"call": name, "positions": list(positions)}
    return alike(ranks, make, lambda made: {**at, **describe(made)})


def _digest(ids: object) -> str:
    return hashlib.sha256(repr(ids).encode()).hexdigest()[:16]
