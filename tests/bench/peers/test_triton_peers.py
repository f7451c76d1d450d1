"""The peers of a GPU: Triton's in its interpreter, graphs as plain calls.

Where TRITON_INTERPRET=1 is set the cases run, elsewhere a process with it runs them.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bench.harness import shapes
from bench.harness.rows import relative_error
from bench.peers import expected_output
from bench.peers.modal_triton import ModalTriton
from bench.peers.naive_triton import NaiveTriton

INTERPRETED = "TRITON_INTERPRET" in os.environ
interpreted = pytest.mark.skipif(not INTERPRETED, reason="runs in a process of its own, see below")


@interpreted
@pytest.mark.parametrize(("channels", "length", "batch"), [(3, 97, 2), (130, 70, 1), (1, 1, 1)])
def test_naive(channels, length, batch):
    h = shapes.filters(channels, length)
    rows = torch.randn(length + 1, batch, channels, generator=torch.Generator().manual_seed(2))
    peer = NaiveTriton(h, batch)
    for start in (0, length // 2, length // 3):
        peer.load(rows[:start])
        for t in range(start, min(start + 4, length)):
            found = peer.step(rows[t])
        assert relative_error(found, expected_output(rows, h, t, channels)) < 1e-6


@interpreted
@pytest.mark.parametrize("is_complex", [False, True])
@pytest.mark.parametrize(("channels", "states", "batch"), [(3, 1, 1), (70, 5, 2), (9, 150, 1)])
def test_modal(channels, states, batch, is_complex):
    peer = ModalTriton.random(channels, states, batch, is_complex)
    rows = torch.randn(13, batch, channels, generator=torch.Generator().manual_seed(2))
    peer.load(rows[:7])
    for t in range(7, 12):
        found = peer.step(rows[t])
    assert relative_error(found, peer.expected(rows, t, channels)) < 1e-5
    assert peer.name.endswith("Triton")


@pytest.mark.skipif(INTERPRETED, reason="the cases themselves run here")
@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
def test_in_the_interpreter(tmp_path):
    options = ["-q", "-p", "no:cacheprovider", __file__]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options],
        cwd=Path(__file__).parents[3],
        env=os.environ | {"TRITON_INTERPRET": "1", "TRITON_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-5000:]
    assert "9 passed" in done.stdout
