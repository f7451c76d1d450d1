"""Where a row ends: at an id, or at a sequence of ids or characters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..checks import integer, integers

#: New ids of a row -> their text.
Detokenize = Callable[[list[int]], str]
#: Sequences that end a row: of ids (bytes are such, of a model of bytes), or of characters.
Stop = Sequence[Sequence[int] | str]


@dataclass(frozen=True)
class Ending:
    """What ends a row; what follows there is ``pad_id``.

    stop_ids: ids. sequences: of ids. strings: characters of ``detokenize``'s text.
    """

    stop_ids: tuple[int, ...]
    sequences: tuple[tuple[int, ...], ...]
    strings: tuple[str, ...]
    detokenize: Detokenize | None
    pad_id: int


def make_ending(
    stop_ids: Sequence[int], stop: Stop | None, detokenize: Detokenize | None, pad_id: int
) -> Ending:
    """The ending, or a ValueError or TypeError that names what is wrong with it."""
    if isinstance(stop, str | bytes):
        stop = [stop]
    sequences, strings = [], []
    for one in stop or ():
        if isinstance(one, int):
            raise TypeError(f"expected stop to hold sequences (single ids are stop_ids), got {one}")
        if len(one) == 0:
            raise ValueError("expected sequences of at least one id or character in stop")
        if isinstance(one, str):
            strings.append(one)
        else:
            sequences.append(tuple(integers("stop", one)))
    if strings and detokenize is None:
        raise TypeError(
            f"stop={strings[0]!r} needs detokenize=, ids of a row -> text; a model of bytes takes "
            "bytes as well"
        )
    ids = tuple(integers("stop_ids", stop_ids))
    pad_id = integer("pad_id", pad_id)
    return Ending(ids, tuple(sequences), tuple(strings), detokenize, pad_id)


class Rows:
    """R rows whose new ids come one by one, and which of them have ended.

    Ids of ``stop_ids`` are looked for on the device, sequences and text here. ended: whether no row
    goes on. counts: how many ids each row has, its ending included; empty where nothing is looked
    for here.
    """

    def __init__(self, ending: Ending, rows: int) -> None:
        self._ending, self.ended = ending, False
        self.counts = [0] * rows if ending.sequences or ending.strings else []
        self._rows, self._going = rows, [True] * rows
        self._newest: list[list[int]] = [[] for _ in range(rows)]
        # a token is at least one byte of a text
        longest = [len(s.encode()) + 3 for s in ending.strings]
        self._window = max([1, *map(len, ending.sequences), *longest])

    def see(self, line: NDArray[np.int64]) -> Tensor:
        """What a `Tail` has stored of a token, on the host. Returns the new ids (R,), ``pad_id`` in
        rows that had ended.
        """
        ending, found = self._ending, torch.from_numpy(line[: self._rows].copy())
        if not self.counts:
            self.ended = bool(ending.stop_ids) and int(line[-1]) == 0
            return found
        for row, new in enumerate(found.tolist()):
            if not self._going[row]:
                found[row] = ending.pad_id
                continue
            self.counts[row] += 1
            newest = self._newest[row] = [*self._newest[row], new][-self._window :]
            self._going[row] = not (new in ending.stop_ids or self._at_a_stop(newest))
        self.ended = not any(self._going)
        return found

    def _at_a_stop(self, newest: list[int]) -> bool:
        ending = self._ending
        if any(tuple(newest[-len(s) :]) == s for s in ending.sequences):
            return True
        if not ending.strings or ending.detokenize is None:
            return False
        text = ending.detokenize(newest)
        return any(s in text for s in ending.strings)


def held_back(text: str, stops: Sequence[str]) -> int:
    """How many characters at the end of a text may be the beginning of a stop."""
    longest = max((len(stop) for stop in stops), default=1) - 1
    for size in range(min(longest, len(text)), 0, -1):
        if any(stop.startswith(text[-size:]) for stop in stops):
            return size
    return 0
