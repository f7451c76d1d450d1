"""`env` names what can run here, and why the rest cannot."""

from __future__ import annotations

from futurefill_kernels.__main__ import main
from futurefill_kernels.implementations.select import IMPLEMENTATIONS


def test_env_names_every_implementation(capsys):
    assert main(["env"]) == 0
    report = capsys.readouterr().out
    assert all(name in report for name in IMPLEMENTATIONS)
