"""What a cache holds, part by part."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor

#: Of `StreamState.parts`: what belongs to filters, whatever the rows, by the name in the table.
_FILTERS = {
    "filters": "taps", "taps": "first taps", "spectra": "spectra", "skip": "skip",
    "prompt_spectra": "prompts",
}  # fmt: skip
#: What belongs to no row or filter.
_WORKSPACE = ("work", "levels", "scratch")


@dataclass(frozen=True)
class Memory:
    """Bytes that a cache holds; as text, a table of them.

    rows: by name, what there is of every row of the batch. filters: of every filter, wholly in each
    cache that shares it. workspace: neither. row_values, taps: positions of the stream times
    channels of all layers and rows, and times filter rows: what the table divides by.
    """

    rows: Mapping[str, int]
    filters: Mapping[str, int]
    workspace: Mapping[str, int]
    row_values: int
    taps: int

    @classmethod
    def of(cls, parts: Mapping[str, int], row_values: int, taps: int) -> Memory:
        """The parts sorted into the three; those that hold nothing are left out."""
        held = {name: n for name, n in parts.items() if n}
        rows = {n: x for n, x in held.items() if n not in _FILTERS and n not in _WORKSPACE}
        filters = {name: held[n] for n, name in _FILTERS.items() if n in held}
        workspace = {n: held[n] for n in _WORKSPACE if n in held}
        return cls(rows, filters, workspace, row_values, taps)

    def __add__(self, other: Memory) -> Memory:
        """Of two caches; what threads work in is there once."""
        return Memory(
            _sum(self.rows, other.rows),
            _sum(self.filters, other.filters),
            _sum(self.workspace, other.workspace) | _largest("scratch", self, other),
            self.row_values + other.row_values,
            self.taps + other.taps,
        )

    @property
    def nbytes(self) -> int:
        """Bytes of all parts."""
        return sum(n for part in (self.rows, self.filters, self.workspace) for n in part.values())

    @property
    def per_row(self) -> float:
        """Bytes of a row, per position of the stream and channel."""
        return sum(self.rows.values()) / self.row_values

    @property
    def per_filter(self) -> float:
        """Bytes of a filter, per position of the stream and filter row."""
        return sum(self.filters.values()) / self.taps

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        yield f"{'':<10} {'part':<12} {'bytes':>15} {'per token and channel':>22}"
        for kind, parts, values in (
            ("rows", self.rows, self.row_values),
            ("filters", self.filters, self.taps),
            ("workspace", self.workspace, 0),
        ):
            total = {"all of them": sum(parts.values())} if len(parts) > 1 else {}
            for name, nbytes in (*parts.items(), *total.items()):
                each = f"{nbytes / values:22.3f}" if values else ""
                yield f"{kind:<10} {name:<12} {nbytes:>15} {each}".rstrip()
        yield f"{'all':<23} {self.nbytes:>15}"


def storages(tensors: Iterable[Tensor | None]) -> dict[int, int]:
    """Bytes of what the tensors are views of, by address: several may be of one."""
    held = [x.untyped_storage() for x in tensors if x is not None]
    return {storage.data_ptr(): storage.nbytes() for storage in held}


def _largest(name: str, *several: Memory) -> dict[str, int]:
    """A part of the workspace that all of them use, where one has it."""
    found = [memory.workspace[name] for memory in several if name in memory.workspace]
    return {name: max(found)} if found else {}


def _sum(a: Mapping[str, int], b: Mapping[str, int]) -> dict[str, int]:
    return {name: a.get(name, 0) + b.get(name, 0) for name in (*a, *(n for n in b if n not in a))}
