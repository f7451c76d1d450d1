"""Every peer of the benches computes what it says, over whole streams and from any position."""

from __future__ import annotations

import pytest
import torch

from bench.commands.stream import PEERS
from bench.harness import shapes
from bench.harness.rows import relative_error
from bench.peers import expected_output


def make(name, channels, length, batch):
    unavailable = getattr(PEERS[name], "unavailable", lambda device: None)(torch.device("cpu"))
    if unavailable:
        pytest.skip(f"{name}: {unavailable}")
    h = shapes.filters(channels, length)
    rows = torch.randn(length + 1, batch, channels, generator=torch.Generator().manual_seed(2))
    return PEERS[name](h, batch), h, rows


def expected(peer, h, rows, t):
    return expected_output(rows, h, t) if peer.exact else peer.expected(rows, t)


@pytest.mark.parametrize("name", PEERS)
@pytest.mark.parametrize(("channels", "length", "batch"), [(3, 97, 2), (5, 128, 1), (1, 1, 1)])
def test_a_whole_stream(name, channels, length, batch):
    peer, h, rows = make(name, channels, length, batch)
    for t in range(length):
        found = peer.step(rows[t])
        assert relative_error(found, expected(peer, h, rows, t)) < 2e-5, t


@pytest.mark.parametrize("name", PEERS)
def test_from_any_position(name):
    peer, h, rows = make(name, 4, 150, 2)
    for start in (0, 31, 32, 77, 100, 64, 12):
        peer.load(rows[:start])
        for t in range(start, min(start + 40, 150)):
            found = peer.step(rows[t])
        assert relative_error(found, expected(peer, h, rows, t)) < 2e-5, start


@pytest.mark.parametrize("name", PEERS)
@pytest.mark.parametrize("length", [64, 1024, 3000])
def test_parts_stand_for_the_whole_stream(name, length):
    peer, _, rows = make(name, 2, length, 1)
    parts = peer.parts(rows)
    tokens = 0
    for part in parts:
        part.prepare()
        before = peer.position if hasattr(peer, "position") else None
        if part.call() is not None and before is not None:
            tokens += part.weight * (peer.position - before)
    if hasattr(peer, "position"):
        assert tokens == pytest.approx(length)
