"""The clocks of a CPU."""

from __future__ import annotations

import contextlib

import pytest
import torch

from futurefill_kernels import native
from futurefill_kernels.planning import measure_cpu


@pytest.mark.skipif(
    native.cpu_unavailable_reason() is not None, reason="the CPU kernels are not built"
)
def test_a_step_that_takes_no_time_is_not_stored(monkeypatch):
    monkeypatch.setattr(measure_cpu, "_fastest", lambda call, seconds: 1000.0)
    with pytest.raises(RuntimeError, match="too busy to be measured"):
        measure_cpu.measure_cpu(0.1, lambda name: contextlib.nullcontext())


KIB = 1 << 10


@pytest.mark.parametrize(
    ("times", "size"),
    [
        # twice as fast up to 8 MiB
        ({1024: 1.0, 2048: 1.1, 4096: 1.0, 8192: 1.0, 16384: 2.0, 32768: 2.0}, 8192 * 2**0.5),
        # one disturbed size below the edge
        ({1024: 1.0, 2048: 1.0, 4096: 3.0, 8192: 1.0, 16384: 4.0, 32768: 4.0}, 8192 * 2**0.5),
        # no edge: as fast at the end as in front
        ({1024: 1.0, 2048: 1.0, 4096: 1.1, 8192: 1.2}, 0),
        # every size but the first comes from memory
        ({1024: 1.0, 2048: 2.0, 4096: 2.0, 8192: 2.0}, 1024 * 2**0.5),
    ],
)
def test_the_edge_of_a_cache(times, size):
    found = measure_cpu.edge({kib * KIB: ns for kib, ns in times.items()})
    assert found == pytest.approx(size * KIB, rel=1e-5)


def test_this_machines_last_level_is_a_size():
    before = torch.get_num_threads()
    found = measure_cpu.measured_last_level_bytes()
    assert 1 << 16 < found <= measure_cpu.SWEPT_BYTES
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("last_level", [1 << 18, 12 << 20, 480 << 20])
def test_budgets_lie_inside_their_caches(last_level):
    found = measure_cpu.budgets(last_level)
    assert found["l2"] < found["l3"] < found["dram"]
    assert found["dram"] > min(2 * last_level, 64 << 20)
