"""One token of a stream, layer by layer, by a call each or by the replay of a CUDA graph."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.compiler import is_dynamo_compiling

from ..checks import Rows, integer, row_indices
from .call import Token
from .checks import check_apart, check_input, checked_input
from .many_tokens import ManyTokens


class OneToken(ManyTokens):
    """A stream with the calls of single tokens. Arguments as of `Stream`."""

    _capturing = False  # whether a graph takes steps down
    _last_rows: tuple[list[int], Tensor] | None = None  # of the newest step of some rows

    @property
    def full(self) -> bool:
        """Whether some row has taken all of its positions."""
        return self._positions.full

    def step(
        self,
        u_t: Tensor,
        layer: int = 0,
        *,
        pre: Tensor | None = None,
        post: Tensor | None = None,
        rows: Rows | None = None,
        out: Tensor | None = None,
    ) -> Tensor:
        """One token of one layer: ``post * (conv(pre * u) + skip * pre * u)`` at the next position.

        u_t, pre, post: (B, D), or (R, D) with rows. rows: R rows of the batch, each at its own
        position; -1 is padding, whose output is zero. out: written and returned when given, one of
        the inputs or apart from them; without it the result is the only allocation. The layers of a
        token come in order; the last one advances the position. Layer 0 again before it takes the
        unfinished token back (``abort``).
        Source: docs/algorithm.md, equations 2 and 3.
        """
        plain_step = self._plain_step
        if plain_step is not None and not is_dynamo_compiling():
            done = plain_step(u_t, layer, pre, post, rows, out)
            if done is not None:
                return done
        if type(layer) is not int:
            layer = integer("layer", layer)
        if layer != self._positions.layer and layer:
            raise self._wrong_layer(layer)
        row_list, shape, index = None, self._step_shape, None
        if rows is not None:
            row_list, index = self._rows_of_step(rows)
            shape = torch.Size((len(row_list), self.channels))
        # checked_input written out for u_t and out: the calls would be a fifth of a step
        dtype, device = self.dtype, self.device
        if (
            not isinstance(u_t, Tensor)
            or u_t.shape != shape
            or u_t.dtype is not dtype
            or u_t.device != device
            or u_t.requires_grad
        ):
            check_input("u_t", u_t, shape, self.dtype, self.device)
        if not u_t.is_contiguous():
            u_t = u_t.contiguous()
        if pre is not None:
            pre = checked_input("pre", pre, shape, dtype, device)
        if post is not None:
            post = checked_input("post", post, shape, dtype, device)
        if out is None:
            out = torch.empty_like(u_t)
        else:
            if (
                not isinstance(out, Tensor)
                or out.shape != shape
                or out.dtype is not dtype
                or out.device != device
                or out.requires_grad
            ):
                check_input("out", out, shape, self.dtype, self.device)
            if not out.is_contiguous():
                raise ValueError(f"expected out to be contiguous, got strides {out.stride()}")
            check_apart(out, u_t=u_t, pre=pre, post=post)
        if layer == 0:
            if (self._positions.layer or self._replaying) and not self._capturing:
                self.abort()
            if self._launches_fills:
                self._fills.join()
            if self._held_before and not self._capturing:
                self._held_before = {}
        # else one more of all rows, or a graph that takes steps down
        if (row_list is not None or self._positions.plain <= 0) and not self._capturing:
            if layer == 0:
                self.begin_token(row_list)
            elif self._token != Token(row_list):
                raise ValueError(
                    f"expected the rows of layer 0 for layer {layer}, got rows={row_list}"
                )
        if layer == 0 and self._history.needed:
            self._history.join(index)
        advance = layer == self._last_layer
        # before it: an interrupt must not hide that the layer has begun
        self._positions.layer = layer + 1
        try:
            self._step(u_t, pre, post, out, index, layer, advance)
        except Exception:
            if layer or self._capturing:
                self._positions.layer = layer
            else:  # some rows may have run
                self.abort()
            raise
        if advance:
            if not self._capturing:  # nothing has run yet; who replays keeps the books
                self.finish_token(row_list)
                self._positions.open = not self._held_before
            self._positions.layer = 0
        return out

    def _rows_of_step(self, rows: Rows) -> tuple[list[int], Tensor]:
        """Rows as a list and as a tensor; those of the last step are there already."""
        last = self._last_rows
        if last is None or not isinstance(rows, list) or rows != last[0]:
            found = row_indices(rows, self.batch_size, padding=True)
            self._last_rows = last = found, torch.tensor(found, device=self.device)
        return last

    @contextmanager
    def capture(self) -> Iterator[None]:
        """Inside, steps are launched without books: a CUDA graph takes them down.

        ``begin_token`` comes before it and before every replay, ``finish_token`` after a replay.
        Until then ``abort`` takes the token back.
        """
        if not self._replaying:
            raise ValueError("expected begin_token before capture")
        self._fills.join()
        self._capturing = True
        try:
            yield
        finally:
            self._capturing = False

    def begin_token(self, rows: list[int] | None = None) -> None:
        """Before a token of the rows (default all; -1 is padding): their prompts are over, and what
        follows on the current stream waits for fills. ValueError where a row has no room.
        """
        if self._positions.layer or self._replaying:
            self.abort()
        if self._launches_fills:
            self._fills.join()
        self._positions.open = False
        if rows is None and self._positions.plain > 0:
            self._replaying, self._held_before = True, {}
            return
        self._prefill.begin()
        everyone = range(self.batch_size) if rows is None else rows
        for row in everyone:
            if row >= 0 and self.room(row) < 1:
                raise ValueError(
                    f"no room for another step: all max_new_tokens = {self.max_new_tokens} are "
                    f"taken"
                )
        self._leaps.make_room(everyone)
        self._token, self._held_before = Token(rows), self._prefill.held(everyone)
        self._replaying = True  # before: an interrupt in what follows leaves something to abort
        self._prefill.close(everyone)
        if rows is None:
            self._positions.grant()
        else:
            self._positions.settle()

    def finish_token(self, rows: list[int] | None = None) -> None:
        """After the last layer: the rows' positions advance. The fills that are due run on the
        side stream if there is one, else before the next token.
        """
        if self._launches_fills:
            position = self._positions.common
            if rows is None and position is not None:
                self._fills.owe_all(position)
            else:
                everyone = range(self.batch_size) if rows is None else rows
                self._fills.owe(everyone, self._positions.rows)
            if self._fills.stream is not None:
                self._fills.launch()
        if rows is None and self._positions.plain > 0:
            self._positions.plain -= 1
        else:
            self._positions.advance(range(self.batch_size) if rows is None else rows)
            self._other_calls += 1
        self._replaying = False

    def sum_history(self, stream: torch.cuda.Stream | None = None) -> None:
        """Launch now what layer 0 of the next token of all rows would launch first: the sums over
        older inputs that all its layers need, where the implementation makes them.

        stream: launch it there, beside what follows on the current stream until layer 0.
        ValueError inside a token.
        """
        if not self._capturing:
            self._check_between("sum_history")
            self._fills.join()
            self._leaps.make_room(range(self.batch_size))
            self._prefill.clean(range(self.batch_size))
        self._history.sum(None, stream)

    def join_history(self) -> None:
        """The sums of this token are there for what follows on the current stream."""
        self._history.join(None)
