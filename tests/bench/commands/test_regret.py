"""The best plan by measured parts, with planted times in place of a clock."""

from __future__ import annotations

import argparse
import math

import pytest
import torch

from bench.__main__ import main
from bench.commands import regret
from bench.harness.rows import read


class Planted:
    """Steps are fastest by "a", short fills by "a" and long ones by "b", radix 4 is cheapest."""

    def steps(self, name, block):
        return abs(math.log2(block / 32)) + (0 if name == "a" else 1)

    def level(self, name, length, block, radix):
        fast = "a" if block < 256 else "b"
        return abs(math.log2(radix / 4)) + 0.01 + (0 if name == fast else 1)


def test_each_level_has_its_own(monkeypatch):
    monkeypatch.setattr(regret, "names_of", lambda *a: ["a", "b"])
    monkeypatch.setattr(regret, "fills_of", lambda *a: ["a", "b"])
    args = argparse.Namespace(impl="each", device=torch.device("cpu"))
    plan, steps, fills = regret.best(args, Planted(), 32 * 4**4)
    assert plan.block_sizes == (32, 128, 512, 2048)
    assert steps == "a"
    assert fills == ("a", "a", "b", "b")


def test_whole_streams_stand_beside_their_parts(tmp_path):
    file = tmp_path / "rows.csv"
    options = ["--streams", "1x4x100x2", "--repeats", "2", "--csv", str(file)]
    assert main(["regret", *options]) == 0
    found = {row["variant"]: row for row in read([file])}
    times = {name: found[f"{name}, whole"] for name in ("planned", "best")}
    assert all(float(row["error"]) < 1e-6 for row in times.values())
    assert found["regret, whole"]["limit"] == found["regret, from parts"]["limit"] == "1.1"
    sums = [float(found[f"{name}, from parts"]["value"]) for name in ("planned", "best")]
    assert float(found["regret, from parts"]["value"]) == pytest.approx(sums[0] / sums[1])
    assert "steps reference, fills" in found["best, from parts"]["note"]
