"""tune --compile: every kernel of a stream, for a GPU that is not here."""

from __future__ import annotations

import importlib.util
import json
import os
import re

import pytest

from futurefill_kernels.__main__ import main

if importlib.util.find_spec("triton") is None:
    pytest.skip("Triton is not installed", allow_module_level=True)
if "TRITON_INTERPRET" in os.environ:
    pytest.skip("TRITON_INTERPRET is set: nothing is compiled", allow_module_level=True)

STREAM = ("--length", "1024", "--channels", "32", "--prompt", "8", "--workers", "1")


def compile_ahead(capsys, *options: str) -> tuple[dict[str, int], int]:
    """Kernels of every part, and of all of them."""
    assert main(["tune", "--compile", *STREAM, *options]) == 0
    *lines, total = capsys.readouterr().out.splitlines()
    parts = dict(re.fullmatch(r"(.*?) +(\d+) +[\d.]+ s", line).groups() for line in lines)
    found = re.fullmatch(r"(\d+) kernels in [\d.]+ s, 1 processes", total)
    return {name: int(number) for name, number in parts.items()}, int(found[1])


def test_kernels_are_in_the_disk_cache(tmp_path, monkeypatch, capsys):
    """And are found there again: the second time nothing is added."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    for _ in range(2):
        parts, total = compile_ahead(
            capsys, "--for", "a100", "--impl", "triton", "--batch-size", "2"
        )
        assert {"history", "step, last layer", "step with gates, last layer"} < parts.keys()
        assert parts["prompt"] == 8
        assert any(name.startswith("fill of ") for name in parts)
        assert sum(parts.values()) == total
        binaries = list(tmp_path.rglob("*.cubin"))
        assert len(binaries) == total
        described = [json.loads(path.with_suffix(".json").read_text()) for path in binaries]
        assert {found["target"]["arch"] for found in described} == {80}


@pytest.mark.slow
def test_dtypes_and_rows_are_other_kernels(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    one, _ = compile_ahead(capsys, "--for", "a100", "--impl", "triton")
    rows = ("--batch-size", "2", "--state-dtype", "bfloat16", "--spectra-dtype", "bfloat16")
    several, total = compile_ahead(capsys, "--for", "a100", "--impl", "triton", *rows)
    named = one.keys() & several.keys() - {"prompt"}
    assert any(name.startswith("fill of ") for name in named)
    for name in named:
        assert several[name] == 2 * one[name]  # listed rows
    shared = 2  # a prompt's inputs, with gates and without, have nothing of these dtypes
    assert len(list(tmp_path.rglob("*.cubin"))) == sum(one.values()) + total - shared
