"""Settings of every run, and outputs poisoned with NaN so that unwritten ones fail."""

from __future__ import annotations

import os

import pytest
import torch
from hypothesis import settings

from futurefill_kernels.implementations.select import IMPLEMENTATIONS, cannot_run
from tests.recording import Recorder

# plans from shipped rates, whatever this machine has stored
os.environ["FUTUREFILL_TUNING"] = "off"
# a busy machine is no failure
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")


@pytest.fixture(params=list(IMPLEMENTATIONS))
def impl(request: pytest.FixtureRequest) -> str:
    """Every implementation that runs on this machine."""
    reasons = cannot_run(torch.device("cpu"), torch.float32)[request.param]
    if reasons:
        pytest.skip(f"{request.param}: {'; '.join(reasons)}")
    return request.param


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """What ``impl="recorder"`` launches: ("step", layer) and ("fill", block)."""
    found: list[tuple[str, int]] = []
    monkeypatch.setitem(IMPLEMENTATIONS, "recorder", Recorder(found))
    return found


@pytest.fixture(autouse=True, scope="session")
def _own_triton_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Compiled kernels go to a temporary folder, unless a folder was named."""
    os.environ.setdefault("TRITON_CACHE_DIR", str(tmp_path_factory.mktemp("triton")))


@pytest.fixture(autouse=True)
def _poisoned_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    """``torch.empty`` and ``empty_like`` return NaN, so an output that is not written shows."""
    empty, empty_like = torch.empty, torch.empty_like

    def poison(x: torch.Tensor) -> torch.Tensor:
        return x.fill_(float("nan")) if x.is_floating_point() else x

    monkeypatch.setattr(torch, "empty", lambda *a, **k: poison(empty(*a, **k)))
    monkeypatch.setattr(torch, "empty_like", lambda *a, **k: poison(empty_like(*a, **k)))
