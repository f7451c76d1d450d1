"""Prompts in many calls: values, memory, and everything that a caller may do between them."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import futurefill_kernels as ff
from futurefill_kernels.cache.open_prompt import OpenPrompt, Taps
from tests.oracles import EXACT_TOKEN, PRECISE, TOLERANCE, relative_error

LENGTHS = st.lists(
    st.sampled_from([1, 2, 3, 63, 64, 65, 100, 128, 129, 512]), min_size=2, max_size=12
)


@given(LENGTHS, st.sampled_from([1, 5, 64, 200, 3000]), st.sampled_from([(3, 3), (4, 2), (34, 17)]))
@settings(max_examples=30)
@pytest.mark.parametrize("dtype", [torch.float32, PRECISE])
def test_any_lengths_of_calls(dtype, lengths, taps, sizes):
    channels, groups = sizes
    g = torch.Generator().manual_seed(taps)
    h = torch.randn(groups, taps, generator=g, dtype=dtype) / math.sqrt(taps)
    u = torch.randn(1, channels, sum(lengths), generator=g, dtype=dtype)
    expected = ff.causal_conv(u.to(PRECISE), h.to(PRECISE))[0]
    shared = Taps(h)
    prompt = OpenPrompt(u[0, :, : lengths[0]], shared)
    begin, held = lengths[0], []
    for n in lengths[1:]:
        y = prompt.more(u[0, :, begin : begin + n])
        assert relative_error(y, expected[:, begin : begin + n]) < 30 * TOLERANCE[dtype]
        begin += n
        held.append(prompt.held)
    for x in held:  # what was held once is never written again
        assert torch.equal(x, u[0, :, : x.shape[1]])
    assert shared.nbytes
    shared.free()
    assert shared.nbytes == 0


def test_memory_of_a_long_prompt(impl):
    """At most 24 bytes for a position and channel of float32."""
    cache = ff.FutureFillCache(torch.randn(16, 1 << 14), 1, 64, impl=impl, dtype=torch.float32)
    before = cache.nbytes
    for n, total in ((512, 0), *((512, 512 * k) for k in range(1, 33))):
        cache.prefill(torch.randn(1, 16, n))
        lanes = 1.1 if impl == "cpu" else 1.0  # gaps between the parts of a spectrum
        assert cache.nbytes - before <= 24 * lanes * 16 * (total + n) + (8 * 16 * 8192)
    for _ in range(2):  # the first of them can be taken back, with the prompt
        cache.step(torch.randn(1, 16))
    assert cache.nbytes == before


@given(st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=15)
def test_whatever_comes_between_calls(impl, data):
    """Ragged rows; calls that are taken back, clones, saves, orders and resets, then steps."""
    taps, layers, rows = 300, 2, 3
    g = torch.Generator().manual_seed(data.draw(st.integers(0, 99), "seed"))
    h = [torch.randn(2, taps, generator=g, dtype=PRECISE) / 17 for _ in range(layers)]
    cache = ff.FutureFillCache(h, rows, 12, channels=4, plan=ff.Plan(12, (2, 4)), impl=impl)
    seen = [[torch.zeros(4, 0, dtype=PRECISE)] * rows for _ in range(layers)]

    def new(*shape):
        return torch.randn(*shape, generator=g, dtype=PRECISE)

    def check(layer, row, y, x):
        seen[layer][row] = torch.cat([seen[layer][row], x], -1)
        right = ff.causal_conv(seen[layer][row][None], h[layer])[0, :, -x.shape[1] :]
        assert relative_error(y, right) < EXACT_TOKEN

    actions = ["chunk"] * 6 + ["taken back", "clone", "save", "reorder", "reset"]
    for action in data.draw(st.lists(st.sampled_from(actions), min_size=8, max_size=14), "actions"):
        if action == "chunk" or action == "taken back":
            some = data.draw(st.sampled_from([[0, 1, 2], [2, 0], [1]]), "rows")
            n = data.draw(st.sampled_from([1, 7, 64, 65, 200]), "n")
            lengths = [data.draw(st.sampled_from([n, n, 1, max(n // 2, 1)])) for _ in some]
            for layer in range(layers - (action == "taken back")):
                u = new(len(some), 4, n)
                y = cache.prefill(u, layer, rows=some, lengths=lengths)
                if action == "chunk":
                    for r, (row, k) in enumerate(zip(some, lengths, strict=True)):
                        check(layer, row, y[r, :, :k], u[r, :, :k])
            cache.abort()
        elif action == "clone":
            other = cache.clone()
            for layer in range(layers):  # whatever the clone goes on with
                other.prefill(new(rows, 4, 5), layer)
        elif action == "save":
            state = cache.state_dict()
            cache = ff.FutureFillCache(h, rows, 12, channels=4, plan=ff.Plan(12, (2, 4)), impl=impl)
            cache.load_state_dict(state)
        elif action == "reorder":
            order = data.draw(st.sampled_from([[0, 0, 2], [2, 1, 1], [1, 2, 0]]))
            cache.reorder(order)
            seen = [[layer[row] for row in order] for layer in seen]
        else:
            cache.reset([1])
            for layer in seen:
                layer[1] = layer[1][:, :0]
    for _ in range(9):
        for layer in range(layers):
            u = new(rows, 4)
            y = cache.step(u, layer)
            for row in range(rows):
                check(layer, row, y[row, :, None], u[row, :, None])


@pytest.mark.cpu_only("the message has the CPU's bytes")
def test_a_prompt_beyond_the_memory_is_refused_and_can_go_on(monkeypatch):
    cache = ff.FutureFillCache(torch.ones(2, 8), 1, 8)
    u = torch.randn(1, 2, 300)
    cache.prefill(u[..., :200])
    with monkeypatch.context() as patch:
        patch.setattr("futurefill_kernels.planning.memory.available_nbytes", lambda device: 100)
        with pytest.raises(MemoryError, match=r"an open prompt needs \d+ bytes, cpu has 100"):
            cache.prefill(u[..., 200:250])
    y = cache.prefill(u[..., 200:])
    assert relative_error(y, ff.causal_conv(u, torch.ones(2, 8))[..., 200:]) < 1e-6
