"""What ranks send each other, in seconds, from a latency and a bandwidth."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Link:
    """Between any two ranks, in both directions at once.

    bytes_per_second: of one rank. latency: seconds of a message of no bytes.

    The algorithms are those of Thakur, Rabenseifner and Gropp, "Optimization of collective
    communication operations in MPICH" (2005); arithmetic is free.
    """

    bytes_per_second: float
    latency: float

    def __post_init__(self) -> None:
        if not self.bytes_per_second > 0 or not self.latency >= 0:
            raise ValueError(
                f"expected a link of more than 0 bytes per second and a latency of 0 s or more, "
                f"got {self.bytes_per_second} and {self.latency}"
            )

    def all_reduce(self, nbytes: float, ranks: int) -> float:
        """A sum of nbytes over ranks: recursive doubling, or halves scattered and gathered."""
        rounds, moved = _rounds(ranks), nbytes / self.bytes_per_second
        doubling = rounds * (self.latency + moved)
        halves = 2 * (rounds * self.latency + (ranks - 1) / ranks * moved)
        return min(doubling, halves)

    def all_gather(self, nbytes: float, ranks: int) -> float:
        """nbytes of which every rank has a part: recursive doubling."""
        moved = nbytes / self.bytes_per_second
        return _rounds(ranks) * self.latency + (ranks - 1) / ranks * moved


def _rounds(ranks: int) -> int:
    """Rounds in which what one knows doubles."""
    return (ranks - 1).bit_length()
