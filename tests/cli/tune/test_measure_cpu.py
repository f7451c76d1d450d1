"""The clocks of a CPU."""

from __future__ import annotations

import contextlib

import pytest

from futurefill_kernels import native
from futurefill_kernels.cli.tune import measure_cpu


@pytest.mark.skipif(
    native.cpu_unavailable_reason() is not None, reason="the CPU kernels are not built"
)
def test_a_step_that_takes_no_time_is_not_stored(monkeypatch):
    monkeypatch.setattr(measure_cpu, "_fastest", lambda call, seconds: 1000.0)
    with pytest.raises(RuntimeError, match="too busy to be measured"):
        measure_cpu.measure_cpu(0.1, lambda name: contextlib.nullcontext())
