"""The state of a whole model: taken back, moved, forgotten and copied."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn

from ..cache.cache import FutureFillCache
from ..cache.checks import crop_lengths
from ..cache.memory import Memory
from ..checks import Rows, row_indices
from ..nn.brackets import watch
from ..nn.filters import LongFilter
from ..nn.parallel.ranks import Ranks, ranks_of
from ..nn.short_conv import ShortConv, ShortConvState, commit, keep_left, keep_oldest
from ..nn.token import cpu, gpu
from ..nn.token.fuse import fuse
from ..plan import Plan
from ..planning.capabilities import Capabilities
from ..state.lasting import lasting
from .calls import Call, Selection
from .changed_model import ChangedModel
from .long_convs import equal_filters
from .over_ranks import same_call

if TYPE_CHECKING:
    pass

_Made = TypeVar("_Made")
_State = TypeVar("_State", bound="ModelState")


class ModelState:
    """The caches of a model's long filters, the inputs of its short convolutions, its fused token,
    and what is done to them between calls of the model.

    caches: of the model's groups of equal filters. fused: whether tokens may be.
    """

    def __init__(self, model: nn.Module, caches: list[FutureFillCache], fused: bool) -> None:
        batch_size, max_new_tokens = caches[0].batch_size, caches[0].plan.slots
        self.batch_size, self.max_new_tokens = batch_size, max_new_tokens
        self._token_shape = torch.Size((batch_size, 1))  # of ids
        self._device_type = caches[0].device.type
        self._model, self._caches, rollback = model, caches, caches[0].rollback
        self._ranks = ranks_of(model)
        self._modules = [m for m in model.modules() if isinstance(m, LongFilter | ShortConv)]
        self._names = {m: n for n, m in model.named_modules() if m in set(self._modules)}
        self._place = {
            module: (index, layer)
            for index, filters in enumerate(equal_filters(self._modules))
            for layer, module in enumerate(filters)
        }
        self._short = {
            module: ShortConvState(
                module, batch_size, max_new_tokens if rollback is None else rollback
            )
            for module in self._modules
            if isinstance(module, ShortConv)
        }
        self._selection = Selection()
        self._next = 0
        self._call: Call | None = None
        self._capturing = self._replaying = False
        # of the call under way: what its caches had finished, and where their rows were; None for a
        # token of all rows: where they are, or one before it if the first cache has finished since
        self._before: tuple[list[int], list[int] | None] | None = None
        # of the newest call, whose end was one assignment: what there is still to do, see `_settle`
        self._ended: tuple[Call, Sequence[int]] | None = None
        self._staged = False
        self._counts: list[int] = []  # of a replayed token: what the caches had finished
        # whether a row has seen anything
        self._seen = torch.zeros(batch_size, dtype=torch.bool, device="cpu")
        self._all_seen = False
        self._loaded = [0] * batch_size  # positions of rows where their state was loaded
        self._fused: cpu.FusedToken | gpu.FusedToken | None = None
        self._never_fused = ["fused=False"]
        if fused:
            self._fused, self._never_fused = fuse(
                model, batch_size, self._place, self._short, self._caches
            )
        self._captured_fused = self._ran_fused = False
        self._reasons: list[str] = []  # of the call under way: why it is not fused
        # of the call under way: the outermost module that `watch` told of
        self._root: nn.Module | None = None
        watch(model, self._modules)
        by_name: dict[str, nn.Module] = {n: m for m, n in self._names.items()}
        self._changed = ChangedModel(model, by_name, whole=self._fused is not None)

    @property
    def caches(self) -> list[FutureFillCache]:
        """The caches of the long filters, for those who prove and measure."""
        return self._caches

    @property
    def ranks(self) -> Ranks | None:
        """The ranks that the model is cut over, None where it is whole."""
        return self._ranks

    @property
    def fused(self) -> cpu.FusedToken | gpu.FusedToken | None:
        """What takes few calls for a token, or None; ``not_fused`` says why."""
        return self._fused

    @property
    def not_fused(self) -> list[str]:
        """Why tokens take one call per layer, as things are now; empty when they are fused."""
        return self._never_fused if self._fused is None else self._changed.look()

    @property
    def positions(self) -> Tensor:
        """(B,) int64: positions taken since the prompt."""
        return self._caches[0].positions

    @property
    def plan(self) -> Plan:
        """The plan of the first group of filters."""
        return self._caches[0].plan

    @property
    def impl(self) -> str:
        """Name of the implementation that runs."""
        return self._caches[0].impl

    @property
    def capabilities(self) -> Capabilities:
        """What the implementation that runs can do."""
        return self._caches[0].capabilities

    @property
    def rollback(self) -> int | None:
        """Positions that ``crop`` can take back, None for any number."""
        return self._caches[0].rollback

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors that are held beside the model's: `memory` has the parts."""
        return self.memory().nbytes

    def memory(self) -> Memory:
        """Bytes of all tensors that are held beside the model's, part by part, as
        ``FutureFillCache.memory``. ``short``: of short convolutions and the fused token.
        """
        short = sum(s.nbytes for s in self._short.values())
        if self._fused is not None:  # its scratch holds the short convolutions' inputs
            short += self._fused.nbytes - sum(s.inputs.nbytes for s in self._short.values())
        total = Memory.of({"short": short, "seen": self._seen.nbytes}, 0, 0)
        for cache in self._caches:
            total += cache.memory()
        return total

    def abort(self) -> None:
        """Take back the call of the model, or the replayed token, that is under way: every row is
        as before it.

        For use after an exception inside a call; without one under way nothing happens. A replayed
        token is under way until ``finish_token``. `ff.nn.LanguageModel` does this by itself at its
        next call; to the cache alone a second call and a layer called twice look alike.
        """
        if self._replaying and self._before is None:
            self._before = self._counts, None
        if self._before is None:
            return
        first, (counts, positions) = self._caches[0], self._before
        if positions is None:
            done = first.calls - counts[0]
            positions = [p - done for p in first.taken]
            self._before = counts, positions  # an abort that is interrupted is begun again
        if self._replaying and self._fused is not None and self._captured_fused:
            self._fused.abort()
        elif self._replaying:
            here = torch.tensor(positions, dtype=torch.int64, device=first.device)
            ran = first.state.positions > here  # a replay has run as a whole or not at all
            for state in self._short.values():
                state.take_back(ran)
        elif self._call is not None:
            for state in self._short.values():
                state.drop_staged()
        elif self._fused is not None:
            self._fused.abort()
        rows = self._rows_of_call()
        if self._replaying or self._call is None:  # of a whole token, whose oldest are kept
            for state in self._short.values():
                state.put_back_oldest(rows, [positions[row] for row in rows])
        for cache, count in zip(self._caches, counts, strict=True):
            cache.abort()
            if cache.calls != count:  # its part of the call was done
                cache.take_back({row: positions[row] for row in rows})
        self._ended, self._staged = None, False
        self._next, self._before, self._call, self._replaying = 0, None, None, False
        self._root = None

    def crop(self, length: int | Sequence[int] | Tensor) -> None:
        """Take back all positions from ``length`` on, counted since the prompt: what follows is as
        if they had never been.

        length: of every row, or (B,) one for each. ValueError where that is more than ``rollback``
        positions of a row, or before where it was loaded.
        """
        self._between_calls("crop")
        lengths = self._alike(
            "crop", lambda: crop_lengths(length, self.batch_size), lambda n: {"length": n}
        )
        before = list(self._caches[0].taken)
        for row, n in enumerate(lengths):
            if self._short and n < min(before[row], self._loaded[row]):
                raise ValueError(
                    f"expected length >= {self._loaded[row]} for row {row}, where it was loaded: "
                    f"short convolutions keep nothing from before, got {n}"
                )
        for cache in self._caches:  # all are at the same positions: the first refuses, or none
            cache.crop(lengths)
        rows = [row for row, n in enumerate(lengths) if n < before[row]]
        if rows:
            for state in self._short.values():
                state.crop(rows, [before[row] for row in rows], [lengths[row] for row in rows])

    def reset(self, rows: Rows | None = None) -> None:
        """Forget everything the rows (default all) have seen."""
        if rows is None:
            self.abort()
        self._between_calls("reset")
        chosen = list(range(self.batch_size))
        if rows is not None:
            some = rows
            chosen = self._alike(
                "reset", lambda: row_indices(some, self.batch_size), lambda found: {"rows": found}
            )
        for cache in self._caches:
            cache.reset(rows)
        for state in self._short.values():
            state.reset(chosen)
        self._seen[chosen] = False
        self._all_seen = False
        for row in chosen:
            self._loaded[row] = 0

    @lasting
    def clone(self: _State) -> _State:
        """An independent cache in the same state; prepared filters are shared."""
        self._between_calls("clone")
        other = type(self).__new__(type(self))
        other.__dict__.update(self.__dict__)
        other._caches = [cache.clone() for cache in self._caches]
        other._short = {module: state.clone() for module, state in self._short.items()}
        other._seen, other._loaded = self._seen.clone(), list(self._loaded)
        if self._fused is not None:
            other._fused = self._fused.clone(other._short, other._caches)
        return other

    __copy__ = clone

    def __deepcopy__(self: _State, memo: dict[int, Any]) -> _State:
        return self.clone()

    def reorder(self, rows: Rows) -> None:
        """Row ``b`` becomes what row ``rows[b]`` was (beam search). rows: (B,)."""
        self._between_calls("reorder")

        def check() -> list[int]:
            chosen = row_indices(rows, self.batch_size, unique=False)
            if len(chosen) != self.batch_size:
                raise ValueError(f"expected rows (B,) = ({self.batch_size},), got ({len(chosen)},)")
            return chosen

        chosen = self._alike("reorder", check, lambda found: {"rows": found})
        for cache in self._caches:
            cache.reorder(chosen)
        for state in self._short.values():
            state.reorder(chosen)
        self._seen[:] = self._seen[chosen]
        self._all_seen = bool(self._seen.all())
        self._loaded = [self._loaded[row] for row in chosen]

    def _alike(
        self, name: str, make: Callable[[], _Made], describe: Callable[[_Made], Mapping[str, Any]]
    ) -> _Made:
        """`same_call` of a method of this cache."""
        return same_call(self._ranks, name, self._caches[0].taken, make, describe)

    def _between_calls(self, method: str) -> None:
        if self._before is not None or self._replaying:
            raise ValueError(
                f"{method} needs a finished call of the model; this one stopped inside "
                "(abort takes it back)"
            )
        if self._staged:
            self._settle()

    def _settle(self) -> None:
        """Let happen what the newest call has staged. Interrupted, it is begun again."""
        if self._ended is not None:
            call, before = self._ended
            if self.rollback != 0:
                self._keep_left(call, before)
            if not self._all_seen:
                self._seen[slice(None) if call.rows is None else call.rows] = True
                self._all_seen = bool(self._seen.all())
            self._ended = None
        commit(self._short.values())
        self._staged = False

    def _keep_oldest(self, rows: Sequence[int] | None) -> None:
        """Keep what leaves short convolutions with the next token of rows (None: all)."""
        if self._short and self.rollback != 0:
            chosen, taken = range(self.batch_size) if rows is None else rows, self._caches[0].taken
            keep_oldest(self._short.values(), chosen, [taken[row] for row in chosen])

    def _keep_left(self, call: Call, before: Sequence[int]) -> None:
        """The same for a call that has ended. before: positions of all rows."""
        rows = range(self.batch_size) if call.rows is None else call.rows
        taken = self._caches[0].taken
        at = [before[row] for row in rows]
        if call.stepping:
            keep_oldest(self._short.values(), rows, at)
        else:  # nothing of a prompt, which does not move positions
            counts = [taken[row] - before[row] for row in rows]
            keep_left(self._short.values(), rows, at, counts)

    def _rows_of_call(self) -> Sequence[int]:
        """Rows of the call, or of the replayed token, that is under way."""
        rows = None
        if self._replaying:
            pass  # of all
        elif self._call is not None:
            rows = self._call.rows
        elif isinstance(self._fused, cpu.FusedToken):
            rows = self._fused.rows
        return range(self.batch_size) if rows is None else rows
