"""Lines through measured times."""

from __future__ import annotations

import json
import math

import pytest

from futurefill_kernels.planning.gpu_times import (
    SHIPPED,
    GpuTimes,
    Line,
    Point,
    between,
    fit,
    shipped,
)


def points(latency: float, slope: float, *sizes: tuple[float, float, float]) -> list[Point]:
    return [Point(n, work, b, n * latency + work * slope + b) for n, work, b in sizes]


def test_a_line_through_times_is_found():
    line = fit(points(2e-6, 3e-12, (1, 1e6, 1e-6), (1, 1e8, 2e-6), (25, 1e3, 0.0)), 1e-7)
    assert line.latency == pytest.approx(2e-6)
    assert line.slope == pytest.approx(3e-12)
    assert line.error == pytest.approx(0, abs=1e-9)
    assert line.seconds(2, 1e6, 5e-6) == pytest.approx(4e-6 + 3e-6 + 5e-6)


def test_one_time_leaves_the_latency_of_a_node():
    line = fit([Point(1, 1e6, 4e-6, 10e-6)], 1e-6)
    assert line[:2] == (1e-6, pytest.approx(5e-12))
    # faster than its bytes: no negative work
    assert fit([Point(1, 1e6, 11e-6, 10e-6)], 1e-6)[:2] == (1e-6, 0.0)


def test_the_error_is_that_of_the_worst_time():
    found = [*points(1e-6, 1e-12, (1, 1e6, 0.0), (1, 1e7, 0.0)), Point(1, 1e7, 0.0, 13e-6)]
    line = fit(found, 0.0)
    worst = max(abs(line.seconds(*p[:3]) / p.seconds - 1) for p in found)
    assert line.error == pytest.approx(worst)
    assert 0.02 < line.error < 0.18


def test_between_sizes():
    lines = {64: Line(1.0, 2.0, 0.0), 1024: Line(3.0, 10.0, 0.2)}
    assert between(lines, 64) == between(lines, 16) == lines[64]
    assert between(lines, 1 << 20) == lines[1024]
    assert between(lines, 256) == pytest.approx((2.0, 6.0, 0.1))


def test_other_devices_are_as_much_slower_as_their_rates():
    base = shipped()["h200"]
    other = base.scaled(0.5, 0.25)
    assert other.read_bytes_per_second == base.read_bytes_per_second / 2
    assert (other.step_scale, other.work_scale) == (2, 4)
    assert other.kernels == base.kernels


def test_what_is_shipped_says_where_it_comes_from():
    for record in json.loads(SHIPPED.read_text()).values():
        times = GpuTimes.parse(record)
        assert record["ffts_source"].startswith("assumed:")
        assert times.ffts[0] == (1, 1.0)
        assert times.of("reference") is None
        for name, kernels in record["implementations"].items():
            for kind in ("launch", "steps", "fills", "prompts"):
                word = kernels[f"{kind}_source"].split(":")[0].split(",")[0].split(" ")[0]
                assert word in ("measured", "prototype", "derived"), (name, kind)
                assert f"{word}:" in record["about"]
            sizes = [time.size for time in times.of(name).fills]
            assert all(math.log2(size).is_integer() for size in sizes)
