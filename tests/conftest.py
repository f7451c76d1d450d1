"""Settings of every run, outputs poisoned with NaN so that unwritten ones fail, ``--device`` and
``--part``.

``pytest --device cuda`` runs what concerns a device there: tensors of the tests are made on it, and
``impl`` is what runs on it. Left out are the tests of `NOT_ON_A_DEVICE`, those with
`STAND_INS` and those marked ``cpu_only(reason)``.

``pytest --part K/N`` runs the K-th of N parts of what was selected, the same one every time.
"""

from __future__ import annotations

import os
import re
import signal
import zlib
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from futurefill_kernels.cli.device import resolve_device
from futurefill_kernels.implementations.select import IMPLEMENTATIONS, cannot_run
from tests.recording import Recorder

# plans from shipped rates, whatever this machine has stored
os.environ["FUTUREFILL_TUNING"] = "off"
# a busy machine is no failure
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")
# a script's background jobs ignore Ctrl-C, which tests send themselves
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


# torch lists its factories at the first use of a default device: while `_poisoned_empty` stands in
# for some of them, theirs would be missing
with torch.device("meta"):
    torch.empty(0)

#: Files and folders of tests/ that no device changes, and why.
NOT_ON_A_DEVICE = {
    "bench": "every bench has a --device of its own",
    "cli": "a command has a --device of its own; what it measures there is in cli/tune",
    "decoding/test_graphs.py": "stand-ins for torch.cuda",
    "decoding/test_interrupts.py": "signals",
    "decoding/test_results.py": "stand-ins for torch.cuda",
    "emulation": "kernels in an emulator",
    "implementations": "kernels in an interpreter or emulator; on a device, test_on_a_device.py",
    "nn/test_pretrained.py": "files",
    "nn/parallel": "processes on the CPU",
    "nn/token": "the CPU's program of a token; a GPU's on a device, test_on_a_device.py",
    "planning": "numbers",
    "state/test_convolve.py": "the CPU's transforms",
    "state/test_huge_pages.py": "memory of the CPU",
    "state/test_layout.py": "numbers",
    "state/test_spectra.py": "filters are prepared on the CPU",
    "bad_calls": "messages that name the CPU",
    "test_build.py": "compilers",
    "test_capture_guard.py": "fake devices",
    "test_defaults.py": "the CPU beside other defaults",
    "test_docs.py": "text",
    "test_house.py": "text",
    "test_import.py": "imports",
    "test_ops.py": "ops of the CPU; those of a GPU are in implementations/test_on_a_device.py",
    "test_plan.py": "numbers",
    "test_reference.py": "plain torch against numpy",
    "test_soak.py": "direct sums of numpy",
}
#: Fixtures that stand in for a device: what needs them says nothing on a real one.
STAND_INS = {"launches", "graphs", "decoder_of"}
#: Where the time may be over before all have run.
FIRST_ON_A_DEVICE = ("implementations/", "decoding/", "nn/token/")
ON_A_DEVICE = (
    "implementations/test_on_a_device.py", "nn/token/test_on_a_device.py",
    "cli/tune/test_measure_gpu.py",
)  # fmt: skip

Generator = torch.Generator


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--device`` and ``--part``."""
    parser.addoption("--device", default="cpu", help="run what concerns a device there: cuda")
    parser.addoption("--part", default="1/1", help="run the K-th of N parts: K/N")


def pytest_configure(config: pytest.Config) -> None:
    """Tensors are made on the device from here on, those of modules that are imported too."""
    try:
        device = resolve_device(config.getoption("--device"))
    except (ValueError, RuntimeError) as error:
        raise pytest.UsageError(str(error)) from error
    if device.type != "cpu":
        torch.set_default_device(device)
        torch.Generator = _GeneratorOnTheDevice  # type: ignore[misc]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the other parts, and what a device does not change."""
    k, n = _part(config.getoption("--part"))
    if n > 1:
        mine = [zlib.crc32(item.nodeid.encode()) % n == k - 1 for item in items]
        config.hook.pytest_deselected(items=[i for i, m in zip(items, mine, strict=True) if not m])
        items[:] = [i for i, m in zip(items, mine, strict=True) if m]
    if torch.get_default_device().type == "cpu":
        return
    left_out = [item for item in items if _cpu_only(item)]
    config.hook.pytest_deselected(items=left_out)
    there = [item for item in items if item not in left_out]
    items[:] = sorted(there, key=lambda item: not _path(item).startswith(FIRST_ON_A_DEVICE))


def _part(text: str) -> tuple[int, int]:
    """``"K/N"`` as numbers, 1 <= K <= N."""
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    k, n = (int(found[1]), int(found[2])) if found else (0, 0)
    if not 1 <= k <= n:
        raise pytest.UsageError(f"expected --part K/N with 1 <= K <= N, got {text!r}")
    return k, n


def _path(item: pytest.Item) -> str:
    return item.path.relative_to(Path(__file__).parent).as_posix()


def _cpu_only(item: pytest.Function) -> bool:
    path = _path(item)
    if item.get_closest_marker("cpu_only") or STAND_INS.intersection(item.fixturenames):
        return True
    there = path in ON_A_DEVICE
    return not there and any(path == p or path.startswith(p + "/") for p in NOT_ON_A_DEVICE)


class _GeneratorOnTheDevice(Generator):
    """Generators follow torch's default device, which torch's own do not."""

    def __new__(cls, device: object = None) -> _GeneratorOnTheDevice:
        return super().__new__(cls, torch.get_default_device() if device is None else device)


@pytest.fixture
def device() -> torch.device:
    """Where the tests run."""
    return torch.get_default_device()


@pytest.fixture(params=list(IMPLEMENTATIONS))
def impl(request: pytest.FixtureRequest) -> str:
    """Every implementation that runs on the device."""
    reasons = cannot_run(torch.get_default_device(), torch.float32)[request.param]
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
