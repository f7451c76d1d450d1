"""Measured times of a GPU's kernels, and the line through them: latency + bytes + work.

``gpu_rates.json`` ships the times of one H200, in the form that ``tune`` stores others in, and says
which of them were measured and which follow from others. A device without times of its own has
those of the H200, slower or faster as its published rates are.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

SHIPPED = Path(__file__).parent / "gpu_rates.json"


class Time(NamedTuple):
    """size: first block, block or positions. seconds: of all layers and rows together."""

    size: int
    layers: int
    rows: int
    seconds: float


@dataclass(frozen=True)
class KernelTimes:
    """Of one implementation.

    launch_seconds: what the host takes for one launch of a fill without a graph,
    step_launch_seconds: of a history or a step. steps: of a token by first block. fills: of the
    first firing of a group by block. prompts: by positions.
    """

    launch_seconds: float
    steps: tuple[Time, ...]
    fills: tuple[Time, ...]
    prompts: tuple[Time, ...]
    step_launch_seconds: float = 0.0


@dataclass(frozen=True)
class GpuTimes:
    """Of one device, with ``channels`` channels and a filter each.

    read_bytes_per_second: measured. node_seconds: of an empty node of a graph. kernels: (name,
    times) of each implementation. ffts: (odd factor, cost of a point of such a length of torch.fft
    over one of a power of two). made: of the first firing of a group whose level makes its spectra,
    by block, with the host's launches; the same of all implementations. fft_fills: of three calls
    of torch.fft that do what a fill does, by block. work_scale, step_scale: how much longer than
    these the arithmetic of fills and the bytes of steps take, for a device without times of its
    own.
    """

    channels: int
    read_bytes_per_second: float
    node_seconds: float
    kernels: tuple[tuple[str, KernelTimes], ...]
    ffts: tuple[tuple[int, float], ...] = ((1, 1.0),)
    made: tuple[Time, ...] = ()
    fft_fills: tuple[Time, ...] = ()
    work_scale: float = 1.0
    step_scale: float = 1.0

    @classmethod
    def parse(cls, record: Mapping[str, Any]) -> GpuTimes:
        """From the form of the file. Raises KeyError, TypeError or ValueError for another one."""

        def times(rows: Sequence[Sequence[float]]) -> tuple[Time, ...]:
            return tuple(
                Time(int(size), int(layers), int(rows), 1e-6 * us)
                for size, layers, rows, us in rows
            )

        kernels = tuple(
            (
                name,
                KernelTimes(
                    1e-6 * found["launch_us"],
                    times(found["steps"]),
                    times(found["fills"]),
                    times(found["prompts"]),
                    1e-6 * found["step_launch_us"],
                ),
            )
            for name, found in record["implementations"].items()
        )
        return cls(
            int(record["channels"]),
            float(record["read_bytes_per_second"]),
            1e-6 * record["node_us"],
            kernels,
            tuple((int(odd), float(cost)) for odd, cost in record.get("ffts", [[1, 1.0]])),
            times(record.get("made", ())),
            times(record.get("fft_fills", ())),
        )

    def of(self, name: str) -> KernelTimes | None:
        """Times of an implementation, None where it was not measured."""
        return dict(self.kernels).get(name)

    @property
    def fft_seconds_per_point(self) -> float:
        """What torch.fft takes for a position of a channel of a fill, in the largest that was
        measured; what bytes there and back take where none was.
        """
        if not self.fft_fills:
            return self.step_scale * 12 * 4 / self.read_bytes_per_second
        largest = max(self.fft_fills, key=lambda time: time.size * time.layers * time.rows)
        points = largest.size * largest.layers * largest.rows * self.channels
        return self.work_scale * largest.seconds / points

    def scaled(self, bandwidth: float, flops: float) -> GpuTimes:
        """For a device whose bandwidth and arithmetic are these multiples of this one's."""
        return replace(
            self,
            read_bytes_per_second=self.read_bytes_per_second * bandwidth,
            work_scale=1 / min(flops, bandwidth),
            step_scale=1 / bandwidth,
        )


@lru_cache(maxsize=1)
def shipped() -> dict[str, GpuTimes]:
    """By the short name of the device."""
    return {
        name: GpuTimes.parse(record) for name, record in json.loads(SHIPPED.read_text()).items()
    }


class Point(NamedTuple):
    """A measured time: ``launches`` that wait for each other, ``work`` and what bytes take."""

    launches: float
    work: float
    bytes_seconds: float
    seconds: float


class Line(NamedTuple):
    """latency: seconds of a launch. slope: seconds per unit of work. error: the largest relative
    difference between line and points.
    """

    latency: float
    slope: float
    error: float

    def seconds(self, launches: float, work: float, bytes_seconds: float) -> float:
        """What the line says of other sizes."""
        return launches * self.latency + work * self.slope + bytes_seconds

    def scaled(self, factor: float) -> Line:
        """With work that takes ``factor`` times as long."""
        return Line(self.latency, factor * self.slope, self.error)


def fit(points: Sequence[Point], node_seconds: float) -> Line:
    """The line with the least sum of squared relative errors.

    node_seconds: the least latency; where times do not tell latency from work, it is this.
    """
    # rows (a, b, c) of a * latency + b * slope = c, divided by what was measured
    rows = [(p.launches / p.seconds, p.work / p.seconds, 1 - p.bytes_seconds / p.seconds)
            for p in points]  # fmt: skip
    aa, ab, bb = (sum(r[i] * r[j] for r in rows) for i, j in ((0, 0), (0, 1), (1, 1)))
    ac, bc = (sum(r[i] * r[2] for r in rows) for i in (0, 1))
    determinant = aa * bb - ab * ab
    latency = (ac * bb - bc * ab) / determinant if determinant > 1e-9 * aa * bb else 0.0
    latency = max(latency, node_seconds)
    slope = max((bc - ab * latency) / bb, 0.0)
    line = Line(latency, slope, 0.0)
    errors = (abs(line.seconds(*p[:3]) / p.seconds - 1) for p in points)
    return Line(latency, slope, max(errors))


def between(lines: Mapping[int, Line], size: int) -> Line:
    """The line of a size between two that have one, straight over the logarithm; that of the
    nearest beyond them.
    """
    below = max((s for s in lines if s <= size), default=min(lines))
    above = min((s for s in lines if s >= size), default=max(lines))
    if below == above:
        return lines[below]
    share = math.log(size / below) / math.log(above / below)
    pairs = zip(lines[below], lines[above], strict=True)
    return Line(*(a + share * (b - a) for a, b in pairs))
