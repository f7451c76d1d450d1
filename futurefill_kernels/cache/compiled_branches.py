"""`Branches` in compiled code, and what it has to know of a state to reorder its rows."""

from __future__ import annotations

import weakref
from array import array
from collections.abc import Iterable, Mapping, Sequence

from .. import native
from ..state.slots import Slots, packed_ranges
from ..state.tensors import StreamState
from .branches import Branches


def branches_of(batch_size: int) -> Branches | CompiledBranches:
    """Those of rows that have nothing in common."""
    calls = native.branch_calls()
    if calls is None:
        return Branches(batch_size)
    return CompiledBranches(calls, calls.make(batch_size))


class CompiledBranches:
    """The same methods as those of `Branches`.

    address: of the compiled ones, which are deleted with the object. MemoryError where it is None.
    """

    __slots__ = ("__weakref__", "_calls", "address")

    def __init__(self, calls: native.BranchCalls, address: int | None) -> None:
        if address is None:
            raise MemoryError("no memory for where rows parted")
        self._calls, self.address = calls, address
        weakref.finalize(self, calls.delete, address)

    def clone(self) -> CompiledBranches:
        """An independent copy."""
        return CompiledBranches(self._calls, self._calls.copy(self.address))

    def renew(self, rows: Iterable[int]) -> None:
        """The rows have nothing in common with any other."""
        packed = array("q", rows)
        self._calls.renew(self.address, _address(packed), len(packed))

    def crop_rows(self, positions: Mapping[int, int]) -> None:
        """What rows had from positions on is gone."""
        rows, ends = array("q", positions), array("q", positions.values())
        self._calls.crop(self.address, _address(rows), _address(ends), len(rows))

    def reorder(self, rows: Sequence[int], positions: Sequence[int]) -> None:
        """Row ``b`` becomes what row ``rows[b]`` was, which was at ``positions[rows[b]]``."""
        old, at = array("q", rows), array("q", positions)
        self._calls.reorder(self.address, _address(old), _address(at))

    def common(self, row: int, other: int) -> int:
        """How many first positions two rows have in common, which are not one."""
        return self._calls.common(self.address, row, other)


class AlikeRows:
    """What a state's rows have that have all taken the same steps: csrc/bindings/reorder.cpp.

    address: where that is; 0 where rows have more than slots of their rings and kept spectra.
    """

    __slots__ = ("_packed", "address")

    def __init__(self, state: StreamState, rollback: int | None) -> None:
        arrays, levels = state.arrays, state.levels
        numbers = [arrays.positions.address, arrays.filled.address]
        numbers += [levels.data_ptr(), levels.shape[0], state.length]
        for each in (arrays.ring, arrays.kept):
            slot = [Slots(each, 0, 1)]
            numbers += packed_ranges(slot, slot)
        self._packed = array("q", numbers)
        others = (arrays.open_block, arrays.prompt_fill, arrays.work)
        more = rollback != 0 or state.plan.length is None or any(x.size for x in others)
        self.address = _address(self._packed) if arrays.ring.on_cpu and not more else 0


def _address(packed: array[int]) -> int:
    return packed.buffer_info()[0]
