"""Fresh processes and their folder of compiled kernels."""

from __future__ import annotations

import argparse
import subprocess
from types import SimpleNamespace

import torch

from bench.commands import first_token
from bench.harness.rows import Report


def arguments(**others):
    report = Report("first-token", "command", 1, None, None)
    return argparse.Namespace(
        device=torch.device("cpu"), quick=True, report=report, seconds=60.0, **others
    )


def test_the_second_process_finds_what_the_first_has_left(monkeypatch):
    folders = []

    def stand_in(command, env, **options):
        folders.append(env["TRITON_CACHE_DIR"])
        new = len(folders) % 2
        with open(f"{folders[-1]}/{new}", "w"):
            times = f'"ids": [1, {new}, 3], "first": 2.0, "process": 3.0, "all": 4.0'
            return subprocess.CompletedProcess(command, 0, f"a remark\n{{{times}}}\n", "")

    fake = SimpleNamespace(run=stand_in, SubprocessError=subprocess.SubprocessError)
    monkeypatch.setattr(first_token, "subprocess", fake)
    args = arguments(impl="cpu")
    first_token.run(args)
    empty, warm = args.report.rows
    assert folders[0] == folders[1]
    assert (empty.value, empty.error, empty.status) == (2.0, 0.0, "ok")
    assert "the process 3.00 s until then; all tokens 4.00 s, 1 files" in empty.note
    assert "2 files" in warm.note
    assert warm.status == "wrong"  # a third of the tokens are others
    assert warm.error == 1 / 3


def test_a_process_that_fails():
    args = arguments(impl="cuda")
    first_token.run(args)
    (row,) = args.report.rows
    assert row.status.startswith("failed: ValueError: the process ended with 1")
    assert "impl='cuda' cannot run on cpu" in row.status
