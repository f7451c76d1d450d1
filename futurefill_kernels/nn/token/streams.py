"""Streams of caches as the op ``token`` steps them: by the address that ``ops.bind`` gives."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from operator import attrgetter, is_

from torch import Tensor

from ... import ops
from ...cache.cache import FutureFillCache


class BoundStreams:
    """Checked once, and freed with this object.

    caches: of ``impl="cpu"``. like: a tensor of the inputs' dtype.
    """

    def __init__(self, caches: Sequence[FutureFillCache], like: Tensor) -> None:
        self._tensors = [_tensors(cache.state) for cache in caches]  # they outlive what is bound
        #: Of the stream of every cache.
        self.addresses: list[int] = []
        for cache in caches:
            self.addresses.append(ops.bind(cache.state, like))
            weakref.finalize(self, ops.unbind, self.addresses[-1])

    def are_of(self, caches: Sequence[FutureFillCache]) -> bool:
        """Whether the caches still have the tensors that they were bound with."""
        for cache, tensors in zip(caches, self._tensors, strict=True):
            if not all(map(is_, _tensors(cache.state), tensors)):
                return False
        return True


#: What ``ops.bind`` reads of a state.
_tensors = attrgetter(
    *("ring", "taps", "skip", "positions", "kept", "work", "spectra", "levels", "undo"),
    *("token_at", "filled", "images"),
)
