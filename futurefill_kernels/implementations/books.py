"""What a step of all rows reads and writes of a stream's books; see cache/positions.py."""

from __future__ import annotations

from array import array


class Books:
    """Three numbers, at an address that compiled code reads and writes without Python.

    plain: steps of all rows that may follow. layer: that comes next. open: whether all of a step is
    in these two.
    """

    __slots__ = ("_numbers",)

    def __init__(self) -> None:
        self._numbers = array("q", (0, 0, 0))  # csrc/python/plain_stream.h

    @property
    def address(self) -> int:
        """Of three int64, as long as this object lives."""
        return self._numbers.buffer_info()[0]

    @property
    def plain(self) -> int:
        """Steps of all rows that may follow."""
        return self._numbers[0]

    @plain.setter
    def plain(self, steps: int) -> None:
        self._numbers[0] = steps

    @property
    def layer(self) -> int:
        """The layer that comes next."""
        return self._numbers[1]

    @layer.setter
    def layer(self, layer: int) -> None:
        self._numbers[1] = layer

    @property
    def open(self) -> bool:
        """Whether all of a step is in the other two."""
        return self._numbers[2] == 1

    @open.setter
    def open(self, is_open: bool) -> None:
        self._numbers[2] = is_open
