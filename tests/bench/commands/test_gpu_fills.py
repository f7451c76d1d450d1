"""Fills on the CPU: a prototype from a file, an implementation that fails, and the limits."""

from __future__ import annotations

import pytest
import torch

from bench.__main__ import main
from bench.commands import gpu_fills
from bench.harness.rows import read
from futurefill_kernels.implementations import triton
from futurefill_kernels.state.spectra import inverse_twisted_transform, twisted_transform

#: A prototype: what the file has to define, in plain torch.
FILE = """
import torch
from futurefill_kernels.state.spectra import inverse_twisted_transform, twisted_transform

def make_fill(ring, spectra, positions):
    layers, rows, length, lanes = ring.shape
    block = length // 2
    if block == 32:
        return None
    assert spectra.shape == (layers, block, 2, lanes)

    def call():
        assert positions.tolist() == [block] * rows
        filters = torch.complex(spectra[:, :, 0], spectra[:, :, 1]).movedim(1, -1)[:, None]
        u = ring[:, :, :block].movedim(2, -1).to(torch.complex64)
        y = inverse_twisted_transform(twisted_transform(u) * filters)
        ring[:, :, block:] += SCALE * block * y.imag.movedim(-1, 2)

    return call
"""


def plain_fill(state, level, rows):
    """A fill by torch of the state that Triton's works on."""
    filters = torch.complex(*state.spectra[:, 0].unbind(2)).movedim(1, -1)[:, None]
    u = state.ring[:, :, 0, : level.block].movedim(2, -1)
    pad = u.new_zeros(*u.shape[:-1], level.transform - level.block)
    z = torch.cat([u, pad], -1).to(torch.complex64)
    y = inverse_twisted_transform(twisted_transform(z) * filters).imag[..., : level.block]
    state.ring[:, :, 0, level.block :] += level.transform * y.movedim(-1, 2)


@pytest.fixture
def rows(tmp_path, monkeypatch):
    """Runs the command with torch in place of Triton's kernel; its exit status and rows."""
    monkeypatch.setattr(triton, "fill", plain_fill)

    def run(*options):
        file = tmp_path / "rows.csv"
        options = ["--repeats", "1", "--channels", "32", "--streams", "1x2,2x1", *options]
        status = main(["gpu-fills", *options, "--csv", str(file)])
        return status, read([file])

    return run


def of(found, variant, quantity):
    return [row for row in found if (row["variant"], row["quantity"]) == (variant, quantity)]


def test_a_prototype_takes_turns_with_triton(rows, tmp_path):
    """At the block sizes that it does, on the same state."""
    file = tmp_path / "own.py"
    file.write_text(FILE.replace("SCALE", "1"))
    options = ("--impl", "triton", "--blocks", "16,32,48", "--prototype", str(file))
    status, found = rows(*options)
    assert status == 0
    assert [row["L"] for row in of(found, "prototype", "of the floor")] == ["16", "16"]
    assert [row["L"] for row in of(found, "triton", "of the floor")] == [
        *"",
        *["16"] * 2,
        *["32"] * 2,
        *["48"] * 2,
    ]
    compared = of(found, "triton", "of the prototype")
    assert [(row["L"], row["limit"]) for row in compared] == [("16", "1.15")] * 2
    assert {row["limit"] for row in of(found, "triton", "of torch.fft")} == {"1"}
    assert {row["verdict"] for row in found} == {""}  # no GPU, so nothing is judged


def test_a_wrong_prototype_has_no_time(rows, tmp_path):
    file = tmp_path / "own.py"
    file.write_text(FILE.replace("SCALE", "2"))
    status, found = rows("--impl", "triton", "--blocks", "16", "--prototype", str(file))
    assert status == 1
    wrong = of(found, "prototype", "of the floor")
    assert [(row["status"], row["p50"], row["value"]) for row in wrong] == [("wrong", "", "")] * 2


@pytest.mark.parametrize(("text", "message"), [
    (None, "to be a Python file, got"), ("x = 1", "does not define make_fill(ring, spectra, pos"),
])  # fmt: skip
def test_files_that_are_no_prototype(rows, tmp_path, capsys, text, message):
    file = tmp_path / "own.py"
    if text is not None:
        file.write_text(text)
    assert rows("--prototype", str(file))[0] == 1
    assert message in capsys.readouterr().err


def test_what_fails_hides_nothing(rows, monkeypatch):
    """One implementation raises at one size; the others and the next sizes have their times."""

    def fails(state, level, rows):
        if level.block == 16:
            raise RuntimeError("no such kernel")
        plain_fill(state, level, rows)

    monkeypatch.setattr(triton, "fill", fails)
    monkeypatch.setattr(gpu_fills, "fills_of", lambda *a: ["triton", "reference"])
    status, found = rows("--blocks", "16,32")
    assert status == 1
    assert [row["status"] for row in found if row["variant"] == "triton" and row["L"] == "16"] == [
        "failed: RuntimeError: no such kernel"
    ] * 2
    assert len(of(found, "reference", "of the floor")) == 4
    assert len(of(found, "triton", "of the floor")) == 2


def test_floors_and_limits():
    """20 bytes of a position and channel with one row, 13 with eight."""
    size = gpu_fills.Size(1000, 1, 3, 7)
    assert size.nbytes == 20 * 1000 * 3 * 7
    assert gpu_fills.Size(1000, 8, 3, 7).nbytes == 13 * 8 * 1000 * 3 * 7
    limits = {block: gpu_fills.Size(block, 1, 1, 1).limit for block in gpu_fills.BLOCKS}
    assert [limits[block] for block in (16, 1024, 2048, 8192, 9000, 65536)] == [
        2.5, 2.5, 3.5, 3.5, 4.0, 4.0,
    ]  # fmt: skip
