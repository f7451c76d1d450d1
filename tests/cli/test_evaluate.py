"""Held-out bits per byte in both modes, and the model card."""

from __future__ import annotations

import re

from futurefill_kernels.__main__ import main
from futurefill_kernels.cli import evaluate
from futurefill_kernels.nn.pretrained import SHIPPED, read_record


def test_evaluate_agrees_in_both_modes_and_writes_the_card(tmp_path, capsys):
    path = tmp_path / "card.md"
    options = ("--window", 48, "--limit", 3, "--batch-size", 2, "--card", path)
    assert main(["evaluate", *map(str, options)]) == 0
    bits = [float(x) for x in re.findall(r"([\d.]+) bits per byte", capsys.readouterr().out)]
    assert abs(bits[0] - bits[1]) <= evaluate.TOLERANCE
    text = path.read_text()
    assert f"| {bits[0]:.6f} |" in text
    assert "144 bytes" in text


def test_evaluate_in_half_precision(capsys):
    found = {}
    for dtype in ("float32", "bfloat16", "float64"):
        options = ("--window", 48, "--limit", 3, "--batch-size", 2, "--dtype", dtype)
        assert main(["evaluate", *map(str, options)]) == 0
        text = capsys.readouterr().out
        found[dtype] = [float(x) for x in re.findall(r"([\d.]+) bits per byte", text)]
    for parallel, decode in found.values():
        assert abs(parallel - found["float64"][0]) < 0.05
        assert abs(decode - parallel) <= evaluate.HALF_TOLERANCE
    assert found["bfloat16"] != found["float32"]


def test_the_shipped_card_belongs_to_the_shipped_weights():
    record, text = read_record(), SHIPPED.with_suffix(".md").read_text()
    assert f"| steps | {record['steps']} |" in text
    parallel, decode = map(float, re.findall(r"\) \| ([\d.]+) \|", text))
    assert abs(parallel - decode) <= evaluate.TOLERANCE
    assert parallel < 2.5
