"""Streams of caches as the op ``token`` steps them: by the address that ``ops.bind`` gives."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from operator import is_

from torch import Tensor

from ... import ops
from ...cache.cache import FutureFillCache
from ..unchanged import unchanged


class BoundStreams:
    """Checked once, and freed with this object.

    caches: of ``impl="cpu"``. like: a tensor of the inputs' dtype.
    """

    def __init__(self, caches: Sequence[FutureFillCache], like: Tensor) -> None:
        self._states = [cache.state for cache in caches]
        # the tensors are held: they outlive what is bound
        self._unchanged = unchanged([vars(state) for state in self._states], [], [])
        #: Of the stream of every cache.
        self.addresses: list[int] = []
        for cache in caches:
            self.addresses.append(ops.bind(cache.state, like))
            weakref.finalize(self, ops.unbind, self.addresses[-1])

    def are_of(self, caches: Sequence[FutureFillCache]) -> bool:
        """Whether the caches still have the tensors that they were bound with."""
        return self._unchanged() and all(map(is_, [c.state for c in caches], self._states))
