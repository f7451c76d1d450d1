"""examples/audio.py, run as it is."""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.signal import oaconvolve

EXAMPLE = runpy.run_path(str(Path(__file__).parents[2] / "examples" / "audio.py"))
Convolver, room, blocks, main = (EXAMPLE[name] for name in ("Convolver", "room", "blocks", "main"))

pytestmark = pytest.mark.cpu_only("sound comes from and goes to the CPU")


def convolved(u, h):
    """(D, T) by scipy's overlap and add in float64."""
    return oaconvolve(u.double().numpy(), h.double().numpy(), axes=-1)[:, : u.shape[1]]


def test_changes_fade_and_take_the_history_along():
    rate, fade = 8000, 500
    responses = [room(2, 0.1, rate, seed) for seed in (1, 2, 3)]
    convolver = Convolver(responses, fade=fade)
    u = torch.randn(2, 64 * 120, generator=torch.Generator().manual_seed(0))
    changes = {64 * 30: 1, 64 * 60: 2, 64 * 63: 0}  # the last one cuts a fade off
    found = []
    for i, block in enumerate(blocks(u, 64)):
        if 64 * i in changes:
            convolver.change(changes[64 * i])
        found.append(convolver.block(block))
    parts = [convolved(u, h) for h in responses]
    expected, old = parts[0].copy(), 0
    for start, new in changes.items():
        weight = np.clip(np.arange(u.shape[1] - start) / fade, 0, 1)
        expected[:, start:] = (1 - weight) * parts[old][:, start:] + weight * parts[new][:, start:]
        old = new
    assert np.abs(torch.cat(found, 1).numpy() - expected).max() < 2e-6 * np.abs(expected).max()


def test_memory_is_that_of_the_response():
    convolver = Convolver([room(2, 0.1, 48_000, 1)])
    u = torch.randn(2, 64)
    for _ in range(400):
        convolver.block(u)
        assert convolver.nbytes < 2 << 20


def test_it_says_how_long_blocks_take(capsys):
    main(["--seconds", "0.3", "--rate", "8000", "--response", "0.05"])
    out = capsys.readouterr().out
    assert "2400 samples, 0 changes" in out
    assert "MiB" in out
