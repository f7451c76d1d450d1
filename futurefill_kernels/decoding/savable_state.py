"""The state of a whole model as something to keep: pickled, saved and loaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from torch import Tensor, nn

from ..cache.cache import FutureFillCache
from ..nn.parallel.agreement import alike
from ..nn.parallel.ranks import Ranks
from ..state.lasting import lasting
from .long_convs import equal_filters
from .model_state import ModelState
from .saved_model import SavedParts, check_pickles, positions_of

if TYPE_CHECKING:
    from .rank_state import RankState

_State = TypeVar("_State", bound="SavableState")


class SavableState(ModelState):
    """A `ModelState` that can be written and read."""

    def __reduce__(self) -> tuple[Callable[..., SavableState], tuple[Any, ...]]:
        """What pickle writes: the model, and what makes its state again."""
        self._between_calls("pickle")
        check_pickles(self._model)
        fused = self._never_fused != ["fused=False"]
        newest = [state.newest.clone() for state in self._short.values()]
        return self._unpickled, (self._model, self._caches, fused, newest, self._seen)

    @classmethod
    @lasting
    def _unpickled(
        cls: type[_State],
        model: nn.Module,
        caches: list[FutureFillCache],
        fused: bool,
        newest: list[Tensor],
        seen: Tensor,
    ) -> _State:
        cache = cls.__new__(cls)
        ModelState.__init__(cache, model, caches, fused)
        cache._take_over(newest, seen)
        return cache

    def _take_over(self, newest: Sequence[Tensor], seen: Tensor) -> None:
        """What short convolutions need next, and which rows have seen anything."""
        for state, inputs in zip(self._short.values(), newest, strict=True):
            state.newest.copy_(inputs)
            state.drop_staged()
        self._seen.copy_(seen)
        self._all_seen = bool(self._seen.all())
        self._loaded = list(self._caches[0].taken)

    def state_dict(self) -> dict[str, Tensor]:
        """What determines the state: for a cache of the same model and sizes.

        seen: (B,) bool, rows that have seen anything. caches.I.NAME: of every cache of long filters
        what ``FutureFillCache.state_dict`` has. short.MODULE.inputs: (B, k - 1, C), what a short
        convolution needs, and short.MODULE.taps (k, C), which tell it from another.

        Over ranks all call it, and what has channels is a DTensor of all of them.
        """
        self._between_calls("state_dict")
        saved = {"seen": self._seen.clone()} | self._parts().saved()
        return saved if self._ranks is None else self._rank_state(self._ranks).whole(saved)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over what ``state_dict`` of a cache of the same model and sizes returned; without
        prompt_fill also of equal plans. Positions before it cannot be taken back then.

        ValueError or TypeError where it does not fit, before anything changes. Over ranks all call
        it, with DTensors of the same mesh or with whole tensors, as any number of ranks saved them.
        """
        if self._ranks is not None:
            state = self._rank_state(self._ranks).own(state)
        parts = self._parts()
        found = alike(self._ranks, lambda: parts.checked(state, self._seen), positions_of)
        self.abort()
        self._between_calls("load_state_dict")
        for part, cache in parts.caches.items():
            cache.load_state_dict(found[part])
        self._take_over([found[part]["inputs"] for part in parts.short], found[""]["seen"])

    def _parts(self) -> SavedParts:
        short = {f"short.{self._names[module]}": state for module, state in self._short.items()}
        return SavedParts({f"caches.{i}": cache for i, cache in enumerate(self._caches)}, short)

    def _rank_state(self, ranks: Ranks) -> RankState:
        # DTensor's import takes half a second, which a model on one device need not wait for
        from .rank_state import RankState

        short = {self._names[module]: module for module in self._short}
        state, long = self._caches[0].state, equal_filters(self._modules)
        return RankState(ranks, long, short, state.dtype, state.filters.dtype)
