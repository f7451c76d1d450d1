"""Prompts in many calls: values, memory, and everything that a caller may do between them."""

from __future__ import annotations

import itertools
import math
from functools import partial
from unittest.mock import patch

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import futurefill_kernels as ff
from futurefill_kernels.cache.open_inputs import channels_of
from futurefill_kernels.cache.open_prompt import OpenPrompt
from futurefill_kernels.cache.open_taps import Taps
from futurefill_kernels.planning.prompt_levels import ON_A_CPU, PromptLevels
from tests.cache.full_memory import FullMemory
from tests.oracles import PRECISE, TOLERANCE, relative_error

LENGTHS = st.lists(
    st.sampled_from([1, 2, 63, 64, 65, 100, 128, 129, 300, 512, 640, 4096, 5000]),
    min_size=2,
    max_size=12,
)


#: Those of a CPU, and those of a GPU with slow and with quick launches.
LEVELS = (ON_A_CPU, PromptLevels((), 1, 1e9), PromptLevels((), 1, 1.0))


@given(
    LENGTHS,
    st.sampled_from([1, 5, 64, 200, 3000]),
    st.sampled_from([(3, 3), (4, 2), (34, 17)]),
    st.sampled_from(LEVELS),
)
@settings(max_examples=60)
@pytest.mark.parametrize("dtype", [torch.float32, PRECISE])
def test_any_lengths_of_calls(dtype, lengths, taps, sizes, levels):
    with patch("futurefill_kernels.cache.open_prompt.prompt_levels", lambda device: levels):
        _any_lengths(dtype, lengths, taps, *sizes)


def _any_lengths(dtype, lengths, taps, channels, groups):
    g = torch.Generator().manual_seed(taps)
    h = torch.randn(groups, taps, generator=g, dtype=dtype) / math.sqrt(taps)
    u = torch.randn(2, channels, sum(lengths), generator=g, dtype=dtype)
    expected = ff.causal_conv(u.to(PRECISE), h.to(PRECISE))
    shared, begin = Taps(h), lengths[0]
    streams = {0: OpenPrompt(u[..., :begin], shared, channels)}
    held = []
    for n in lengths[1:]:
        here = slice(begin, begin + n)
        if n == 100 and len(streams) == 1:  # the second row goes on first
            streams = {1 - k: one for k, one in enumerate(streams[0].apart()[::-1])}
        for first, stream in streams.items():
            rows = slice(first, first + len(stream.held))
            y = torch.full((len(stream.held), channels, n), torch.nan, dtype=dtype)
            assert all(stream.more(u[rows, :, here], y))
            assert relative_error(y, expected[rows, :, here]) < 30 * TOLERANCE[dtype]
            held += enumerate(stream.held, first)
        begin += n
    for row, x in held:  # what was held once is never written again
        assert torch.equal(channels_of(x, channels), u[row, :, : x.length])
    assert shared.nbytes
    shared.free()
    assert shared.nbytes == 0


@pytest.mark.parametrize(
    ("end", "n", "cheaper"),
    [(700, 65, True), (4097, 64, True), (4095, 64, False), (4096, 1, False), (700, 700, False)],
)
@pytest.mark.parametrize("dtype", [torch.float32, PRECISE])
def test_positions_behind_a_prompt(dtype, end, n, cheaper):
    """The stream's own next outputs, or None where a convolution costs less."""
    g = torch.Generator().manual_seed(end)
    h = torch.randn(2, 5000, generator=g, dtype=dtype) / 70
    u = torch.randn(2, 4, end, generator=g, dtype=dtype)
    prompt = OpenPrompt(u[..., :333], Taps(h), 4)
    y = torch.empty(2, 4, end - 333, dtype=dtype)
    assert all(prompt.more(u[..., 333:], y))
    found = prompt.future(n)
    assert (found is not None) == cheaper
    if found is not None:
        expected = ff.future_fill(u.to(PRECISE), h.to(PRECISE), n)
        assert relative_error(found, expected) < 30 * TOLERANCE[dtype]


@pytest.mark.parametrize("sizes", [(512,), (700, 1, 64, 333), (64,), (2048, 17)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_calls_with_gates_and_steps_after_them(impl, dtype, sizes):
    """Two of three rows, grouped filters, skip; one token more for every row."""
    g = torch.Generator().manual_seed(len(sizes))
    h, skip = torch.randn(2, 4000, generator=g) / 60, torch.randn(4, generator=g)
    u, pre, post = (torch.randn(2, 4, 3001, generator=g).to(dtype) for _ in range(3))
    cache = ff.FutureFillCache(
        h, 3, 40, channels=4, skip=skip, dtype=dtype, state_dtype=torch.float32, impl=impl
    )
    wide = (pre.to(PRECISE) * u.to(PRECISE), h.to(PRECISE), skip.to(PRECISE))
    expected = post.to(PRECISE) * ff.causal_conv(*wide)
    found, t = [], 0
    for size in itertools.cycle(sizes):
        here = slice(t, min(t + size, 3000))
        gates = {"pre": pre[..., here], "post": post[..., here]}
        found.append(cache.prefill(u[..., here], rows=[2, 0], **gates))
        t = here.stop
        if t == 3000:
            break
    last = {"pre": pre[..., t].contiguous(), "post": post[..., t].contiguous()}
    found.append(cache.step(u[..., t].contiguous(), rows=[2, 0], **last)[..., None])
    limit = 2e-6 if dtype == torch.float32 else 5e-3
    assert relative_error(torch.cat(found, -1), expected) < limit


def test_memory_of_a_long_prompt(impl):
    """At most 24 bytes for a position and channel of float32."""
    cache = ff.FutureFillCache(torch.randn(16, 1 << 14), 1, 64, impl=impl, dtype=torch.float32)
    before = cache.nbytes
    for n, total in ((512, 0), *((512, 512 * k) for k in range(1, 33))):
        cache.prefill(torch.randn(1, 16, n))
        groups = 16 * 16 * 4096  # spectra and transforms of a group of the largest kept blocks
        assert cache.nbytes - before <= 24 * 16 * (total + n) + groups
    for _ in range(2):  # the first of them can be taken back, with the prompt
        cache.step(torch.randn(1, 16))
    assert cache.nbytes == before


@given(st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=15)
@pytest.mark.parametrize("dtype", [torch.float32, PRECISE])
def test_whatever_comes_between_calls(impl, dtype, data):
    """Ragged rows; calls that are taken back, clones, saves, orders and resets, then steps."""
    taps, layers, rows = 300, 2, 3
    g = torch.Generator().manual_seed(data.draw(st.integers(0, 99), "seed"))
    h = [torch.randn(2, taps, generator=g, dtype=dtype) / 17 for _ in range(layers)]
    made = partial(
        ff.FutureFillCache, h, rows, 12, channels=4, plan=ff.Plan(12, (2, 4)), impl=impl,
        dtype=dtype,
    )  # fmt: skip
    cache, limit = made(), 30 * TOLERANCE[dtype]
    seen = [[torch.zeros(4, 0, dtype=PRECISE)] * rows for _ in range(layers)]

    def new(*shape):
        return torch.randn(*shape, generator=g, dtype=dtype)

    def check(layer, row, y, x):
        seen[layer][row] = torch.cat([seen[layer][row], x.to(PRECISE)], -1)
        right = ff.causal_conv(seen[layer][row][None], h[layer].to(PRECISE))[0]
        assert relative_error(y, right[:, -x.shape[1] :]) < limit

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
            cache = made()
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


@pytest.mark.parametrize("dtype", [torch.float32, PRECISE])
def test_a_row_that_holds_what_another_one_opened(dtype):
    """Rows 2 and 1 go on together; then row 4 is what row 1 was."""
    g = torch.Generator().manual_seed(0)
    h, first = torch.randn(2, 50, generator=g, dtype=dtype), (2, 2, 144)
    u = torch.randn(*first, generator=g, dtype=dtype)
    cache = ff.FutureFillCache(h, 5, 4, dtype=dtype)
    for here in u.split((100, 44), 2):
        cache.prefill(here, rows=[2, 1])
    cache.reorder([0, 4, 2, 3, 1])
    more = torch.randn(5, 2, 3, generator=g, dtype=dtype)
    y = cache.prefill(more)
    for row, before in ((0, u[:1, :, :0]), (2, u[:1]), (4, u[1:])):
        expected = ff.causal_conv(torch.cat([before, more[row, None]], 2), h)[..., -3:]
        assert relative_error(y[row], expected[0]) < 10 * TOLERANCE[dtype]


@pytest.mark.cpu_only("the message has the CPU's bytes")
def test_a_prompt_beyond_the_memory_is_refused_and_can_go_on(monkeypatch):
    cache = ff.FutureFillCache(torch.ones(2, 8), 1, 8)
    u = torch.randn(1, 2, 300)
    cache.prefill(u[..., :200])
    with monkeypatch.context() as patch:
        patch.setattr("futurefill_kernels.planning.memory.free_bytes", lambda: 100)
        patch.setattr("futurefill_kernels.planning.memory.ASKED_FROM", 0)
        with pytest.raises(MemoryError, match=r"an open prompt needs \d+ bytes, cpu has 100"):
            cache.prefill(u[..., 200:250])
    y = cache.prefill(u[..., 200:])
    assert relative_error(y, ff.causal_conv(u, torch.ones(2, 8))[..., 200:]) < 1e-6


@pytest.mark.cpu_only("whose allocations are made to fail")
@pytest.mark.parametrize("width", [40, 60])
def test_a_layer_that_runs_out_of_memory_is_repeated(width, monkeypatch):
    """Rows that it had taken already are not taken twice."""
    torch.manual_seed(0)
    h, u = torch.randn(2, 4, 90), torch.randn(2, 3, 4, 100 + width)
    expected = ff.causal_conv(u[1], h[1])[..., 100:]
    name = "futurefill_kernels.cache.open_prompt.check_room_for"
    for n in itertools.count():
        cache = ff.FutureFillCache(list(h), 3, 9)
        for layer in range(2):
            cache.prefill(u[layer, ..., :100], layer)
        cache.prefill(u[0, ..., 100:], 0)
        calls = itertools.count()

        def fails(*arguments, calls=calls, n=n):
            if next(calls) == n:
                raise MemoryError("none left")

        with monkeypatch.context() as patch:
            patch.setattr(name, fails)
            try:
                cache.prefill(u[1, ..., 100:], 1)
            except MemoryError:
                pass
            else:
                break
        assert relative_error(cache.prefill(u[1, ..., 100:], 1), expected) < 1e-6
        now = torch.randn(2, 3, 4)
        for layer in range(2):
            inputs = torch.cat([u[layer], now[layer, ..., None]], -1)
            y = cache.step(now[layer], layer)
            assert relative_error(y, ff.causal_conv(inputs, h[layer])[..., -1]) < 1e-5
    assert n > 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_first_call_whose_layer_runs_out_of_memory_is_repeated(dtype):
    torch.manual_seed(0)
    h, u = torch.randn(2, 4, 30).to(dtype), torch.randn(2, 3, 4, 12).to(dtype)
    for number in itertools.count():
        cache, expected = (
            ff.FutureFillCache(list(h), 3, 9, impl="reference", dtype=dtype) for _ in "ab"
        )
        for c in (cache, expected):
            c.prefill(u[0, ..., :8], 0)
        full = FullMemory(number)
        try:
            with full:
                cache.prefill(u[1, ..., :8], 1)
        except MemoryError:
            cache.prefill(u[1, ..., :8], 1)
        expected.prefill(u[1, ..., :8], 1)
        for part in (u[..., 8:], u[..., :1]):
            for layer in range(2):
                assert torch.equal(
                    cache.prefill(part[layer], layer), expected.prefill(part[layer], layer)
                )
        assert torch.equal(cache.state_dict()["in_prompt"], expected.state_dict()["in_prompt"])
        if full.left >= 0:
            break
    assert number > 3
