"""Whether dictionaries and tensors are as they were: in C where that is built, else in Python."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import chain
from operator import attrgetter, is_
from typing import Any

from torch import Tensor

from .. import native

_version = attrgetter("_version")
_address = Tensor.data_ptr
_values: Callable[[dict[str, Any]], Iterable[Any]] = dict.values


def unchanged(
    values: list[dict[str, Any]], sizes: list[dict[Any, Any]], tensors: list[Tensor]
) -> Callable[[], bool]:
    """What tells whether everything is as it is now. All of it is held, so that no address is given
    to others.

    values: their values have to be the same objects. sizes: they have to have as many entries.
    tensors: they have to be where they are, and nobody may have written to them (what is written to
    a tensor of inference mode is not noticed).
    """
    module = native.unchanged()
    if module is not None:
        try:
            return module.make(values, sizes, tensors)
        except TypeError:  # a tensor without memory of its own
            pass
    return in_python(values, sizes, tensors)


def in_python(
    values: list[dict[str, Any]], sizes: list[dict[Any, Any]], tensors: list[Tensor]
) -> Callable[[], bool]:
    """The same, where there is no C."""
    members = list(chain.from_iterable(map(_values, values)))
    dictionaries = [*sizes, *values]
    counts = list(map(len, dictionaries))
    counted = [t for t in tensors if not t.is_inference()]
    addresses, versions = list(map(_address, tensors)), list(map(_version, counted))

    def same() -> bool:
        return (
            list(map(len, dictionaries)) == counts
            and list(map(_version, counted)) == versions
            and list(map(_address, tensors)) == addresses
            and all(map(is_, chain.from_iterable(map(_values, values)), members))
        )

    return same
