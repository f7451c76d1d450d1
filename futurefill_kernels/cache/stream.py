"""Rows of a stream taken back, moved, forgotten, saved and copied."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from ..checks import Rows, row_indices
from ..implementations.base import Implementation, PlainSteps, Step
from ..state.lasting import lasting
from ..state.tensors import StreamState
from .call import Token
from .checks import check_reach, crop_lengths
from .compiled_branches import branches_of
from .images import roll_back
from .open_inputs import Past
from .parts import Parts
from .positions import Positions
from .prompt import Prefill
from .prompt_spectra import PromptSpectra
from .refilter import check_prompts, other_filters
from .replay import move_back
from .rows import rewind, take_back
from .saved import check_state_dict, fingerprint, held_prompts, restore, state_dict
from .used import clone, reorder

_Stream = TypeVar("_Stream", bound="Stream")


class Stream:
    """The parts of a cache, and what it does to them between calls of a token or prompt.

    implementation, state: of all layers. dtype: of the inputs. fill_stream, rollback,
    keep_prompt_spectra: as in `FutureFillCache`.
    """

    def __init__(
        self,
        implementation: Implementation,
        state: StreamState,
        dtype: torch.dtype,
        fill_stream: torch.cuda.Stream | None,
        rollback: int | None,
        keep_prompt_spectra: bool,
    ) -> None:
        self.layers, self.batch_size = state.token_at.shape
        self.plan, self.device = state.plan, state.ring.device
        self.max_new_tokens, self.channels = state.plan.length, state.channels
        self._step_shape = torch.Size((self.batch_size, self.channels))
        self._last_layer = self.layers - 1
        self._implementation, self._state, self.dtype = implementation, state, dtype
        self._positions = Positions(self.batch_size, state.plan)
        #: Positions that ``crop`` can take back, None for any number.
        self.rollback = rollback
        self._hold(self._parts_of(state, fill_stream))
        self._launches_fills = self._fills.launched_here
        spectra = PromptSpectra(state.prepared.bank) if keep_prompt_spectra else None
        self._prefill = Prefill(state, implementation, spectra)
        self._prefill.open(range(self.batch_size), {})
        self._token = Token(None)
        self._other_calls = 0  # beside the tokens that `Positions` counts
        self._settled_at = 0  # calls when something else came behind the newest one
        self._oldest = [0] * self.batch_size  # where the way back of a row ends
        self._branches = branches_of(self.batch_size)
        # whether inputs stay where they are, and outputs pending beyond a position change by
        # firings alone
        self._parts_at_positions = state.plan.length is not None and state.prompt_fill is None
        self._replaying = False  # whether a token is replayed
        # what was held of prompts before the call that is under way
        self._held_before: dict[int, list[Past | None]] = {}

    def _parts_of(self, state: StreamState, fill_stream: torch.cuda.Stream | None) -> Parts:
        return Parts.of(
            self._implementation, state, self.dtype, self._positions, fill_stream, self.rollback
        )

    def _hold(self, parts: Parts) -> None:
        """What works on the tensors of a state from now on."""
        self._state, step, plain, self._scratch_nbytes = parts[:4]
        self._history, self._fills, self._leaps, self._alike_rows = parts[4:]
        self._step_by(step, plain)

    def _step_by(self, step: Step, plain: PlainSteps | None) -> None:
        self._step, self._plain = step, plain
        self._plain_step = None if plain is None else plain.step
        self._block_is_newest = False  # whether the newest call was plain.run or plain.generate

    @property
    def positions(self) -> Tensor:
        """(B,) int64: positions taken since the prompt."""
        return torch.tensor(self._positions.taken, dtype=torch.int64, device="cpu")

    @property
    def calls(self) -> int:
        """Tokens and prompt calls that are finished."""
        return self._positions.tokens + self._other_calls

    def abort(self) -> None:
        """Take back the token or prompt call that is under way: its rows are as before it.

        For use after an exception inside it; without one under way nothing happens. A replayed
        token is under way until ``finish_token``.
        """
        if not self._positions.layer and not self._replaying:
            return
        token, at = self._token, self._positions.taken
        rows = [r for r in (range(self.batch_size) if token.rows is None else token.rows) if r >= 0]
        self._take_back({row: at[row] for row in rows})
        self._forget_call()

    def take_back(self, positions: Mapping[int, int]) -> None:
        """Take back the last token or prompt call although its last layer has run.

        positions: of its rows before it, as `positions` has them; those in their prompt have none.
        ValueError where its fills have run or rows have changed since: `crop` takes back more.
        """
        if self._settled_at == self.calls:
            raise ValueError(
                "take_back comes right behind the newest call, before its fills and before rows "
                "change, use crop"
            )
        if self._block_is_newest and self._plain is not None and self._plain.take_back():
            origins = self._positions.origins
            places = {row: p - origins[row] for row, p in positions.items()}
            self._positions.stand(places, positions)
            self._branches.crop_rows(places)
        else:
            self._take_back(positions)

    def _take_back(self, positions: Mapping[int, int]) -> None:
        """The same of a call that is under way, or that Python took."""
        self._fills.take_back()
        origins = self._positions.origins
        places = {row: p - origins[row] for row, p in positions.items()}
        if self._token.lengths is None:
            take_back(self._state, list(places), list(places.values()))
            self._reopen()
        elif self._token.steps:
            places |= self._prefill.starts
            self._prefill.take_back({}, places)
            self._reopen()
        else:
            held = self._held_before
            places |= self._prefill.starts
            places = {row: p for row, p in places.items() if row not in held}
            self._prefill.take_back(held, places)
        self._positions.stand(places, positions)
        self._branches.crop_rows(places)

    def launch_fills(self) -> None:
        """Run the fills that are due now, which else the next token begins with. ValueError inside
        a token.
        """
        self._check_between("launch_fills")
        self._run_fills()

    def reset(self, rows: Rows | None = None) -> None:
        """Forget everything the rows (default all) have seen; what filters prepared stays."""
        if rows is None:
            self.abort()
            self._fills.take_back()
        self._check_between("reset")
        row_list = (
            list(range(self.batch_size)) if rows is None else row_indices(rows, self.batch_size)
        )
        self._between_tokens("reset", fills=False)
        used = self._used(row_list)
        rewind(self._state, row_list)
        self._positions.stand(dict.fromkeys(row_list, 0), dict.fromkeys(row_list, 0))
        self._branches.renew(row_list)
        for row in row_list:
            self._oldest[row] = 0
        self._prefill.open(row_list, dict(zip(row_list, used, strict=True)))

    @lasting
    def clone(self: _Stream) -> _Stream:
        """An independent cache in the same state; prepared filters are shared.

        ValueError inside a token.
        """
        self._check_between("clone")
        self._leaps.finish()
        if self._launches_fills:
            self._run_fills()
        other = type(self).__new__(type(self))
        other.__dict__.update(self.__dict__)
        other._positions = self._positions.clone()
        used = self._used(range(self.batch_size))
        state = clone(self._state, self._positions.rows, used, self.rollback or 0)
        other._hold(other._parts_of(state, self._fills.stream))
        other._prefill = self._prefill.clone(other._state)
        other._oldest = list(self._oldest)
        other._branches = self._branches.clone()
        return other

    def reorder(self, rows: Rows) -> None:
        """Row ``b`` becomes what row ``rows[b]`` was (beam search). rows: (B,)."""
        given = rows if isinstance(rows, list) else row_indices(rows, self.batch_size, unique=False)
        if self._reorder_alike(given):
            self._between_tokens("reorder", fills=False)
            self._oldest = [self._oldest[row] for row in given]
            self._prefill.reorder(given)
            return
        row_list = row_indices(given, self.batch_size, unique=False)
        if len(row_list) != self.batch_size:
            raise ValueError(f"expected rows (B,) = ({self.batch_size},), got ({len(row_list)},)")
        self._between_tokens("reorder", fills=False)
        if row_list == list(range(self.batch_size)):
            return
        self._prefill.freshen(range(self.batch_size))
        at, alike = self._positions.rows, self._positions.in_step
        reorder(
            self._state, row_list, at, alike, self.rollback or 0,
            lambda row: self._prefill.used(row, at[row]), self._branches.common,
        )  # fmt: skip
        if self._parts_at_positions:
            self._branches.reorder(row_list, at)
        self._positions.reorder(row_list)
        self._oldest = [self._oldest[row] for row in row_list]
        self._prefill.reorder(row_list)

    def _reorder_alike(self, rows: list[int]) -> bool:
        """Whether compiled code did all that moves in a state: of rows at one position."""
        if self._plain is None or self._positions.layer or self._replaying or self._prefill.waiting:
            return False
        branches, alike = self._branches.address, self._alike_rows.address
        return self._plain.reorder(rows, branches, alike, bool(self._prefill.forgotten))

    __copy__ = clone

    def __deepcopy__(self: _Stream, memo: dict[int, Any]) -> _Stream:
        return self.clone()

    @lasting
    def set_filters(self, filters: Tensor | Sequence[Tensor], skip: Tensor | None = None) -> None:
        """Other filters from now on, as if they had always been there: what they make of the inputs
        that are stored is pending instead.

        filters: of as many layers and rows ``G`` as there are, and no longer, in taps above
        rounding, than those that the cache was made with; of any length where these were as long as
        the stream. skip: (D,), or (layers, D); None: as it is. ValueError where inputs that filters
        reach are not there: those of a prompt go with the first step, so a row that has read one
        takes ``L - 1`` positions first. Positions before it can be taken back only with
        rollback=None. Filters that a cache still has are prepared already.
        """
        self._check_between("set_filters")
        state = other_filters(self._state, self._implementation, filters, skip)
        taken = self._positions.taken
        check_prompts(state, taken, self._prefill.forgotten)
        self._between_tokens("set_filters")
        parts, prefill = self._parts_of(state, self._fills.stream), self._prefill.clone(state)
        prefill.refilter()
        in_stream = (row for row in range(self.batch_size) if not prefill.in_prompt(row))
        places = self._positions.rows
        ends = {row: (places[row], places[row]) for row in in_stream}
        try:
            move_back(state, self._implementation, ends, None)
        except BaseException:
            move_back(self._state, self._implementation, ends, None)
            raise
        self._hold(parts)
        self._prefill, self._oldest = prefill, list(taken)
        self._branches.renew(range(self.batch_size))

    def crop(self, length: int | Sequence[int] | Tensor) -> None:
        """Take back all positions from ``length`` on, counted since the prompt, bit for bit.

        length: of every row, or (B,) one for each. ValueError where that is more than ``rollback``
        positions of a row, or before where it was loaded.
        """
        self._check_between("crop")
        at, lengths = self._positions.taken, crop_lengths(length, self.batch_size)
        targets = {row: n for row, n in enumerate(lengths) if at[row] > n}
        if self.rollback is not None:
            for row, n in targets.items():
                check_reach(row, at[row], self._oldest[row], n, self.rollback)
            for row in targets:  # what an earlier crop needed has been overwritten
                self._oldest[row] = max(self._oldest[row], at[row] - self.rollback)
        self._between_tokens("crop", fills=self.rollback is None)
        origins = self._positions.origins
        places = {row: n - origins[row] for row, n in targets.items()}
        if self.rollback is None:
            assert self._state.prompt_fill is not None
            here = self._positions.rows
            ends = {row: (here[row], n) for row, n in places.items()}
            move_back(self._state, self._implementation, ends, self._state.prompt_fill)
        else:
            alike: dict[tuple[int, int, bool], list[int]] = {}
            here, filled = self._positions.rows, self._filled()
            for row, n in places.items():
                alike.setdefault((here[row], n, filled[row] == here[row]), []).append(row)
            for (start, n, fired), rows in alike.items():
                some = None if len(rows) == self.batch_size else rows
                roll_back(self._state, some, start, n, fired)
        self._positions.stand(places, targets)
        self._branches.crop_rows(places)

    def state_dict(self) -> dict[str, Tensor]:
        """What determines the state, independent of implementation and device.

        inputs: (layers, B, D, n), gated inputs since the prompt, n the largest position. positions:
        (B,) int64. fingerprint: (layers, 6) of filters and skip. in_prompt: (B,) bool, rows that
        wait for their first step; of those that have begun their prompt open_prompt.ROW (layers, D,
        P), its gated inputs.

        With rollback=None, and of plans with slack, prompt_fill: (layers, B, D, N), what the prompt
        adds to each position, which fits every plan. Else pending: (layers, B, D, N - m), pending
        outputs from the smallest position m on, and plan: its length, slack_from (0: none) and
        block sizes; loaded under that plan, the stream goes on bit for bit.
        """
        self._between_tokens("state_dict")
        self._prefill.clean(range(self.batch_size))
        held = self._prefill.held(range(self.batch_size))
        return state_dict(self._state, self.positions, self._positions.rows, self._prints(), held)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over what ``state_dict`` of a cache with equal filters and sizes returned; without
        prompt_fill also of an equal plan. Positions before it cannot be taken back then.

        ValueError where sizes, filters, skip or such a plan are others.
        """
        self.check_state_dict(state)
        self._forget_call()
        self._fills.take_back()
        self._prefill.replaced()
        restore(self._state, self._implementation, state)
        positions = state["positions"].tolist()
        places = enumerate(map(self._state.plan.place, positions))
        self._positions.stand(dict(places), dict(enumerate(positions)))
        self._branches.renew(range(self.batch_size))
        self._oldest = positions
        self._prefill.reopen(held_prompts(state, self._state))

    def check_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """ValueError or TypeError where ``load_state_dict`` would refuse the state."""
        check_state_dict(state, self._state, self._prints())

    def _prints(self) -> Tensor:
        """What tells these filters and skip from others."""
        skip = self._state.skip
        return fingerprint(
            self._prefill.filters, None if skip is None else skip[:, : self.channels]
        )

    def _run_fills(self) -> None:
        """What is due; the newest finished call stands."""
        self._settled_at = self.calls
        self._fills.join()

    def _filled(self) -> list[int]:
        """(B,) positions up to which each row's fills have run; nothing else is due."""
        return self._positions.rows if self._launches_fills else self._state.filled.tolist()

    def _used(self, rows: Sequence[int]) -> list[int]:
        """Of rows the slots of their rings that may not be zero."""
        at = self._positions.rows
        return [self._prefill.used(row, at[row]) for row in rows]

    def _reopen(self) -> None:
        """Rows whose prompts the token had ended wait for their first step again."""
        if self._held_before:
            self._prefill.reopen(self._held_before)
            self._positions.settle()  # the next step has to end them

    def _forget_call(self) -> None:
        """No token or prompt call is under way."""
        self._positions.layer, self._replaying = 0, False
        self._history.drop()
        self._block_is_newest = False

    def _between_tokens(self, method: str, *, fills: bool = True) -> None:
        """No token is under way, no fill is running, and no sums are kept of what may change.

        fills: whether those that are due run; else they stay due where the state knows of them.
        """
        self._check_between(method)
        self._leaps.finish()
        self._settled_at = self.calls
        if fills or self._launches_fills:
            self._run_fills()
        self._history.drop()
        self._block_is_newest = False

    def _check_between(self, method: str) -> None:
        if self._positions.layer:
            raise ValueError(
                f"{method} needs a finished token, but layer {self._positions.layer} is next"
            )
        if self._replaying:
            raise ValueError(f"{method} needs finish_token or abort after a replay")
