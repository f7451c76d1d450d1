"""The open prompts of a state's rows: those that go on together are one stream."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from .open_inputs import Past
from .open_prompt import OpenPrompt


class _Place(NamedTuple):
    """Where a row is in a stream."""

    stream: OpenPrompt
    row: int


class OpenPrompts:
    """Streams by row and layer."""

    def __init__(self) -> None:
        self._places: dict[tuple[int, int], _Place] = {}

    def __bool__(self) -> bool:
        return bool(self._places)

    @property
    def kept_nbytes(self) -> int:
        """Bytes beside their inputs."""
        streams = {id(place.stream): place.stream for place in self._places.values()}
        return sum(stream.kept_nbytes for stream in streams.values())

    def put(self, layer: int, rows: Sequence[int], stream: OpenPrompt) -> None:
        """The stream of rows, in its order."""
        for k, row in enumerate(rows):
            self._places[row, layer] = _Place(stream, k)

    def drop(self, row: int, layers: int) -> None:
        """A row has no stream any more."""
        for layer in range(layers):
            self._places.pop((row, layer), None)

    def take_whole(
        self, layer: int, rows: Sequence[int], held: Sequence[Past | None]
    ) -> OpenPrompt | None:
        """The stream of just these rows, in their order, which is not here until it is put back;
        None where there is none. held: inputs by row.
        """
        first = self._places.get((rows[0], layer))
        if first is None or len(first.stream.held) != len(rows):
            return None
        stream = first.stream
        for k, row in enumerate(rows):
            place = self._places.get((row, layer))
            if place is None or place.stream is not stream or place.row != k:
                return None
            if stream.held[k] is not held[k]:
                return None
        for row in rows:
            del self._places[row, layer]
        return stream

    def take(
        self, layer: int, held: Mapping[int, Past | None], lengths: Sequence[int]
    ) -> tuple[list[tuple[OpenPrompt, list[int]]], list[int]]:
        """Streams of rows, which are not here until they are put back, with their rows in order;
        and rows that have none.

        held: inputs by row; a stream that has others is gone. lengths: of what is asked of each
        row. A stream of which some rows go on alone, or by other lengths, comes apart; those of its
        other rows stay here, and hold the same inputs.
        """
        alone: list[int] = []
        found: dict[int, tuple[OpenPrompt, dict[int, tuple[int, int]]]] = {}
        for (row, past), n in zip(held.items(), lengths, strict=True):
            place = self._places.pop((row, layer), None)
            if place is None or place.stream.held[place.row] is not past:
                alone.append(row)
            else:
                members = found.setdefault(id(place.stream), (place.stream, {}))[1]
                members[place.row] = (row, n)
        streams: list[tuple[OpenPrompt, list[int]]] = []
        for stream, members in found.values():
            rows = [members[k][0] for k in sorted(members)]
            together = len(rows) == len(stream.held)
            if together and len({n for _, n in members.values()}) == 1:
                streams.append((stream, rows))
                continue
            parts = stream.apart()
            streams += [(parts[k], [row]) for k, (row, _) in sorted(members.items())]
            for key, place in list(self._places.items()):
                if place.stream is stream:
                    self._places[key] = _Place(parts[place.row], 0)
        return streams, alone
