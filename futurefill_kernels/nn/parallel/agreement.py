"""What all ranks do alike, or none of them."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, ParamSpec, TypeVar

from .ranks import Ranks

_Made = TypeVar("_Made")
_Arguments = ParamSpec("_Arguments")
#: What a rank may refuse with; any other error is reported as a RuntimeError.
_REFUSALS = {kind.__name__: kind for kind in (ValueError, TypeError, MemoryError, RuntimeError)}


def alike(
    ranks: Ranks | None, make: Callable[[], _Made], describe: Callable[[_Made], Mapping[str, Any]]
) -> _Made:
    """``make()``, when no rank refuses and what they describe is the same on all.

    make: must change nothing, for where one rank refuses all do: with its error, which names the
    rank, or with a ValueError that names what is not the same. describe: names and values, which
    pickle can write. Without ranks just ``make()``.

    A number of 8 bytes is sent, the descriptions where that is not the same. So ranks that wait
    for each other in different calls find out at once.
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
    digest = hashlib.blake2b(repr((refusal, said)).encode(), digest_size=8).digest()
    digests = ranks.gather_number(int.from_bytes(digest, "big", signed=True))
    if refusal is None and len(set(digests)) == 1:
        return made[0]
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


def told(ranks: Ranks, call: Callable[_Arguments, _Made]) -> Callable[_Arguments, _Made]:
    """The same call; an exception on one rank alone is told to the others, which meet it in their
    next `alike`.
    """

    @functools.wraps(call)
    def telling(*arguments: _Arguments.args, **named: _Arguments.kwargs) -> _Made:
        try:
            return call(*arguments, **named)
        except Exception as error:

            def refuse(error: Exception = error) -> None:
                raise error

            with suppress(Exception):  # what the others say of it, or that they are gone
                alike(ranks, refuse, lambda _: {})
            raise

    return telling
