"""The C++ peers against float64 on odd shapes, and what takes their place without a compiler."""

from __future__ import annotations

import pytest
import torch

from bench.commands.stream import PEERS, modal_kind
from bench.harness import shapes
from bench.harness.rows import relative_error
from bench.peers import compiled, expected_output
from bench.peers.dot import CompiledDotStep, TorchDotStep
from bench.peers.modal import Modal
from bench.peers.modal_compiled import ModalCompiled
from bench.peers.naive import Naive

CPU = torch.device("cpu")
needs_compiler = pytest.mark.skipif(
    compiled.compiler() is None, reason="compiled peers need a C++ compiler"
)


def randn(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(2))


@pytest.fixture
def no_compiler(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")


@needs_compiler
@pytest.mark.parametrize("is_complex", [False, True])
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    ("channels", "states", "batch"), [(1, 1, 1), (17, 3, 2), (40, 7, 1), (33, 150, 3)]
)
def test_recurrence(channels, states, batch, threads, is_complex):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        peer = ModalCompiled.random(channels, states, batch, is_complex)
        rows = randn(13, batch, channels)
        peer.load(rows[:7])
        for t in range(7, 12):
            found = peer.step(rows[t])
        assert relative_error(found, peer.expected(rows, t, channels)) < 1e-5
        assert peer.name.endswith("C++")
    finally:
        torch.set_num_threads(before)


@needs_compiler
@pytest.mark.parametrize(("batch", "channels", "count"), [(1, 1, 1), (2, 3, 37), (1, 5, 70)])
def test_dot_product(batch, channels, count):
    u, h, pending = randn(batch, channels, 90), randn(channels, 75), randn(batch, channels, 4)
    new, t = randn(batch, channels), 80
    found = CompiledDotStep(u.clone(), h, pending)(new, t, count, 5, 2)
    expected = TorchDotStep(u.double(), h.double(), pending.double())(new, t, count, 5, 2)
    assert relative_error(found, expected) < 1e-6
    without = CompiledDotStep(u.clone(), h)(new, t, count, 5)
    assert relative_error(without, expected - pending[..., 2]) < 1e-5


@needs_compiler
def test_a_step_takes_inputs_of_any_strides():
    rows = randn(4, 9, 2).transpose(1, 2)
    peer = ModalCompiled.random(9, 5, 2, complex_poles=False)
    assert relative_error(peer.step(rows[0]), peer.expected(rows, 0)) < 1e-5


def test_without_a_compiler_torch_takes_the_place(no_compiler):
    assert modal_kind(CPU) is Modal
    h, rows = shapes.filters(5, 40), randn(41, 2, 5)
    for name in ("naive", "continuous", "epoched", "modal-16"):
        peer = PEERS[name](h, 2)
        for t in range(40):
            found = peer.step(rows[t])
        expected = expected_output(rows, h, 39) if peer.exact else peer.expected(rows, 39)
        assert relative_error(found, expected) < 2e-5, name
        assert "C++" not in peer.name


@needs_compiler
def test_a_row_says_what_was_timed():
    assert Naive(shapes.filters(2, 8), 1).name == "naive dot product, C++"


def test_a_compiler_that_fails_is_quoted(monkeypatch):
    monkeypatch.setenv("CXX", "false")
    with pytest.raises(RuntimeError, match="false cannot compile"):
        compiled.library.__wrapped__()
