"""Many tokens of a stream in one call: prompts, chunks, known inputs, and outputs fed back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import get_args

from torch import Tensor
from torch.compiler import is_dynamo_compiling

from ..checks import Rows, integer, row_indices, valid_lengths
from .call import Call, Token
from .checks import check_prefill, check_room, checked_input
from .chunk import NextInput
from .stream import Stream


class ManyTokens(Stream):
    """A stream with the calls of many tokens. Arguments as of `Stream`."""

    def room(self, row: int) -> int:
        """Positions the row can still take."""
        return self._positions.room(row)

    def in_prompt(self, row: int) -> bool:
        """Whether the row still waits for its first step."""
        return self._prefill.in_prompt(row)

    def prefill(
        self,
        u: Tensor,
        layer: int = 0,
        *,
        pre: Tensor | None = None,
        post: Tensor | None = None,
        rows: Rows | None = None,
        lengths: Tensor | Sequence[int] | None = None,
    ) -> Tensor:
        """Many tokens of one layer at once, in O(P log P) time.

        u, pre, post: (B, D, P), or (R, D, P) with rows. lengths: (R,) valid positions of each
        right-padded row, at least 1; outputs after them mean nothing. Before a row's first step the
        tokens are its prompt, which takes none of its ``max_new_tokens``; calls may follow each
        other. After it they are positions of the stream like steps. Layer 0 again before the last
        one takes the unfinished call back. Returns y like u.
        """
        layer = integer("layer", layer)
        if layer != self._positions.layer and layer:
            raise self._wrong_layer(layer)
        row_list = (
            list(range(self.batch_size)) if rows is None else row_indices(rows, self.batch_size)
        )
        check_prefill(u, pre, post, (len(row_list), self.channels), self.dtype, self.device)
        valid = valid_lengths(lengths, len(row_list), u.shape[2])
        with self._tokens(layer, row_list, valid) as positions:
            return self._prefill.tokens(Call(layer, row_list, valid, u, pre, post), positions)

    def run(
        self,
        u: Tensor,
        layer: int = 0,
        *,
        pre: Tensor | None = None,
        post: Tensor | None = None,
    ) -> Tensor:
        """Steps of all rows with inputs that are known: (B, D, T) as u[..., 0], u[..., 1], ...

        One call, with the bits of steps; of several layers and a plan with slack one transform. u,
        pre, post: (B, D, T), and so is what is returned. They take T positions, also before the
        first step, where a ``prefill`` would be the prompt. The layers come in order, each with the
        same T; layer 0 again before the last one takes the unfinished call back. ValueError where a
        row has less room; nothing has changed then.
        """
        sizes = self.batch_size, self.channels
        check = partial(check_prefill, u, pre, post, sizes, self.dtype, self.device)
        if layer == 0 and self._goes_in_blocks(check, lambda: u.shape[2]):
            assert self._plain is not None
            done = self._plain.run(u, pre, post)
            if done is not None:
                # one call; no function call in between, which could raise when all is done
                self._block_is_newest = True
                self._other_calls += 1 - done.shape[2]
                return done
        layer = integer("layer", layer)
        if layer != self._positions.layer and layer:
            raise self._wrong_layer(layer)
        check()
        rows, lengths = list(range(self.batch_size)), [u.shape[2]] * self.batch_size
        with self._tokens(layer, rows, lengths, steps=True) as positions:
            return self._prefill.steps(Call(layer, rows, lengths, u, pre, post), positions)

    def generate(self, u_t: Tensor, steps: int, next_input: NextInput = "identity") -> Tensor:
        """Inputs that follow u_t when each is made of the output before it; one layer, no slack.

        ``u_{t+1} = next_input(y_t)``, with ``"identity"`` or ``"relu"``, in one call as ``run``.
        u_t: (B, D). Returns (B, D, steps): the last one has not been an input yet.
        """
        if self.layers > 1:
            raise ValueError(f"generate needs a cache of one layer, got {self.layers}")
        if self.plan.slack_from is not None:
            raise ValueError(
                f"generate needs a plan without slack, got slack_from={self.plan.slack_from}"
            )
        if next_input not in get_args(NextInput):
            names = " or ".join(map(repr, get_args(NextInput)))
            raise ValueError(f"expected next_input {names}, got {next_input!r}")
        steps = integer("steps", steps)
        if steps < 1:
            raise ValueError(f"expected steps >= 1, got {steps}")
        check = partial(checked_input, "u_t", u_t, self._step_shape, self.dtype, self.device)
        if self._goes_in_blocks(check, lambda: steps):
            assert self._plain is not None
            done = self._plain.generate(u_t, steps, next_input == "relu")
            if done is not None:
                # one call; no function call in between, which could raise when all is done
                self._block_is_newest = True
                self._other_calls += 1 - done.shape[2]
                return done
        u_t = check()
        rows = list(range(self.batch_size))
        with self._tokens(0, rows, [steps] * len(rows), steps=True) as positions:
            return self._prefill.generate(u_t, steps, next_input, positions)

    def _goes_in_blocks(self, check: Callable[[], object], steps: Callable[[], int]) -> bool:
        """Whether compiled code may take many steps of all rows: of one layer, without slack, none
        of them a row's first. Grants them.

        check: raises where the call's arguments are refused. steps: how many they are, then.
        """
        if self._plain is None or self.layers > 1 or self.plan.slack_from is not None:
            return False
        books = self._positions
        busy = books.layer or self._replaying or self._prefill.waiting or is_dynamo_compiling()
        if not busy and (books.plain <= 0 or not books.open):
            check()  # what is refused changes nothing
            for row in range(self.batch_size):
                check_room(row, self.room(row), steps(), self.max_new_tokens)
            self._prefill.begin()
            self._token, self._held_before = Token(None), {}
            books.grant()
            books.open = True
        return not busy

    @contextmanager
    def _tokens(
        self, layer: int, rows: list[int], lengths: list[int], *, steps: bool = False
    ) -> Iterator[Sequence[int]]:
        """The books around one layer of a call of many tokens; gives the positions of all rows.

        steps: whether they end their rows' prompts.
        """
        token = Token(rows, lengths, steps)
        if layer == 0:
            self.abort()
        elif self._token != token:
            raise ValueError(f"expected the method, rows and lengths of layer 0 for layer {layer}")
        in_stream = {
            row: n for row, n in zip(rows, lengths, strict=True) if steps or not self.in_prompt(row)
        }
        if layer == 0:
            for row, taken in in_stream.items():
                check_room(row, self.room(row), taken, self.max_new_tokens)
            if self._prefill.waiting < self.batch_size:  # else no row has fills
                self._fills.join()
            self._leaps.make_room(list(in_stream))
            self._history.drop()
            self._prefill.begin()
            self._positions.settle()
            self._token, self._held_before = token, self._prefill.held(rows)
        positions = self._positions.rows
        before = self._prefill.of_layer(rows, layer)
        self._positions.layer = layer + 1
        try:
            if layer == 0 and steps:
                self._prefill.close(rows)
            yield positions
        except Exception:
            if layer:
                self._prefill.put_back(before, layer)
                self._positions.layer = layer
            else:
                self.abort()
            raise
        if layer == self._last_layer:
            if in_stream:
                ends = {row: self.plan.place(positions[row] + n) for row, n in in_stream.items()}
                due = self._prefill.finish(ends)
                if self._launches_fills:
                    self._fills.owe(due, {row: ends[row] - 1 for row in due})
                self._positions.advance_by(in_stream)
            self._positions.layer = 0
            self._other_calls += 1

    def _wrong_layer(self, layer: int) -> ValueError:
        return ValueError(
            f"layers of a token come in order: expected layer {self._positions.layer} "
            f"of {self.layers}, got {layer}"
        )
