"""`env` names what can run here, and why the rest cannot."""

from __future__ import annotations

import pytest
import torch

from futurefill_kernels import native
from futurefill_kernels.__main__ import main
from futurefill_kernels.cli import env
from futurefill_kernels.cli.env import report
from futurefill_kernels.implementations.select import IMPLEMENTATIONS


def test_env_names_every_implementation(capsys):
    assert main(["env"]) == 0
    report = capsys.readouterr().out
    assert all(name in report for name in IMPLEMENTATIONS)
    assert "rates of the CPU: shipped with the package" in report


def test_env_says_what_auto_takes(monkeypatch):
    cpu = "implementations on cpu, the first that is available is 'auto':"
    assert cpu in report().splitlines()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(env, "cannot_run", lambda device, dtype: {"cuda": [], "cpu": ["is none"]})
    lines = report().splitlines()
    at = lines.index(
        "implementations on cuda:0, 'auto' takes for steps, prompts and each level's fills "
        "whichever was fastest of cuda and triton, then the first:"
    )
    assert [line.split() for line in lines[at + 1 :]] == [
        ["cuda", "available"],
        ["cpu", "is", "none"],
    ]
    assert cpu in lines


def test_env_says_why_a_step_goes_through_python(monkeypatch):
    assert native.cpu_unavailable_reason() is not None or "step without Python: " in report()
    monkeypatch.setattr(native, "cpu_unavailable_reason", lambda: None)
    monkeypatch.setattr(native, "cpu_isa", lambda: "portable")
    monkeypatch.setattr(native, "plain_step_unavailable_reason", lambda: "no header")
    assert "step without Python: no header" in report().splitlines()


@pytest.mark.parametrize(
    ("version", "note"),
    [
        ("3.6.0", None),
        ("3.9.1+git", None),
        ("3.5.1", "not tested with this package, 3.6 to 3.9 are"),
        ("4.0", "not tested with this package, 3.6 to 3.9 are"),
    ],
)
def test_env_says_whether_triton_is_tested(monkeypatch, version, note):
    monkeypatch.setattr("importlib.metadata.version", lambda name: version)
    assert f"triton {version}" + (f": {note}" if note else "") in report().splitlines()
