"""What all ranks do alike, or none of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from .ranks import Ranks

_Made = TypeVar("_Made")
#: What a rank may refuse with; any other error is reported as a RuntimeError.
_REFUSALS = {kind.__name__: kind for kind in (ValueError, TypeError, MemoryError, RuntimeError)}


def alike(
    ranks: Ranks | None, make: Callable[[], _Made], describe: Callable[[_Made], Mapping[str, Any]]
) -> _Made:
    """``make()``, when no rank refuses and what they describe is the same on all.

    make: must change nothing, for where one rank refuses all do: with its error, which names the
    rank, or with a ValueError that names what is not the same. describe: names and values, which
    pickle can write. Without ranks just ``make()``.
    """
    if ranks is None:
        return make()
    made: list[_Made] = []
    said: dict[str, Any] = {}
    refusal: tuple[str, str] | None = None
    own: Exception | None = None
    try:
        made.append(make())
        said = dict(describe(made[0]))
    except Exception as error:
        own = error
        kind = next((k for k, t in _REFUSALS.items() if isinstance(error, t)), "")
        refusal = kind or "RuntimeError", str(error) if kind else repr(error)
    found: list[tuple[tuple[str, str] | None, dict[str, Any]]] = ranks.exchange((refusal, said))
    for rank, (refused, _) in enumerate(found):
        if refused is not None:
            kind, text = refused
            raise _REFUSALS[kind](f"rank {rank} of {ranks.size}: {text}") from own
    first = found[0][1]
    for rank, (_, other) in enumerate(found):
        for name in {**first, **other}:  # in order, so that all ranks name the same one
            if first.get(name) != other.get(name):
                raise ValueError(
                    f"expected the same {name} on every rank, got {first.get(name)!r} on rank 0 "
                    f"and {other.get(name)!r} on rank {rank} of {ranks.size}"
                )
    return made[0]
