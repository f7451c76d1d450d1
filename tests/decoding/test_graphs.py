"""Graphed decoding: one replay per token, fills behind it, refusals. A stand-in for a CUDA graph
runs the captured call again, with the books kept as at a replay.
"""

from __future__ import annotations

import contextlib

import pytest
import torch

import futurefill_kernels as ff
from futurefill_kernels.decoding.graphs import GraphedStep
from futurefill_kernels.decoding.model_cache import DecodingCache
from futurefill_kernels.implementations import reference, select
from futurefill_kernels.nn.language_model import LanguageModel, LanguageModelConfig
from futurefill_kernels.planning.capabilities import Capabilities


class Recorder:
    """``reference`` with its launches written down."""

    def __init__(self, launches):
        self.launches = launches
        self.capabilities = Capabilities("recorder", "any")
        self.cannot_run = lambda device, dtype, plan: []
        self.make_layout, self.make_spectra = reference.make_layout, reference.make_spectra

    def make_step(self, state):
        step = reference.make_step(state)

        def recorded(u, pre, post, y, rows, layer, advance):
            self.launches.append(("step", layer))
            step(u, pre, post, y, rows, layer, advance)

        return recorded

    def fill(self, state, level, rows):
        self.launches.append(("fill", level.block))
        reference.fill(state, level, rows)

    def fill_share(self, state, level, rows, begin, end):
        reference.fill_share(state, level, rows, begin, end)

    def prompt_kernels(self):
        return None


@pytest.fixture
def launches(monkeypatch):
    found: list[tuple[str, int]] = []
    monkeypatch.setitem(select.IMPLEMENTATIONS, "recorder", Recorder(found))
    return found


def small_model(layers=2):
    torch.manual_seed(0)
    config = LanguageModelConfig(
        vocabulary=11, context_length=64, channels=8, layers=layers, mlp_hidden=16, filter_hidden=8
    )
    return LanguageModel(config).eval()


def again(call):
    """capture: the call itself is what a replay repeats."""
    return call


@torch.no_grad()
def test_graphed_steps_equal_plain_steps(launches):
    model, prompt = small_model(), torch.randint(0, 11, (2, 5))
    plan = ff.Plan(40, (4, 8, 32))
    caches = [DecodingCache(model, 2, 40, plan=plan, impl="recorder") for _ in range(2)]
    for cache in caches:
        model(prompt, cache=cache)
        model(prompt[:, :1], cache=cache)
    graphed = GraphedStep(model, caches[0], prompt[:, :1], capture=again)
    for t in range(39):
        ids = torch.randint(0, 11, (2, 1))
        torch.testing.assert_close(graphed(ids), model(ids, cache=caches[1]))
        assert caches[0].positions.tolist() == [t + 2, t + 2]
        for state in caches[0]._short.values():
            assert state._tokens.tolist() == [t + 7, t + 7]
    with pytest.raises(ValueError, match="max_new_tokens = 40"):
        graphed(ids)
    assert caches[0].positions.tolist() == [40, 40]


@torch.no_grad()
def test_counts_follow_what_happens_between_replays(launches):
    """A plain step or a reset between replays reaches the device's token counts."""
    model, ids = small_model(), torch.randint(0, 11, (2, 1))
    cache, plain = (DecodingCache(model, 2, 40, impl="recorder") for _ in range(2))
    for c in (cache, plain):
        model(torch.tensor([[1, 2, 3], [4, 5, 6]]), cache=c)
        model(ids, cache=c)
    graphed = GraphedStep(model, cache, ids, capture=again)
    graphed(ids), model(ids, cache=plain)
    model(ids, cache=cache), model(ids, cache=plain)
    torch.testing.assert_close(graphed(ids), model(ids, cache=plain))
    for c in (cache, plain):
        c.reorder([1, 0])
    torch.testing.assert_close(graphed(ids), model(ids, cache=plain))


@torch.no_grad()
def test_launches_per_token_of_24_layers(launches):
    """24 steps in layer order, then at most one fill, which serves every layer."""
    torch.manual_seed(1)
    plan = ff.Plan(64, (4, 8, 16, 32))
    cache = ff.FutureFillCache(
        [torch.randn(8, 64) for _ in range(24)], 2, 64, plan=plan, impl="recorder"
    )
    for t in range(64):
        launches.clear()
        for layer in range(24):
            cache.step(torch.randn(2, 8), layer)
        assert launches[:24] == [("step", layer) for layer in range(24)]
        due = next(iter(plan.levels_at(t)), None)
        assert launches[24:] == ([] if due is None else [("fill", plan.levels[due].block)])


@torch.no_grad()
def test_a_fill_is_no_part_of_the_graph(launches):
    model, ids = small_model(layers=3), torch.zeros(1, 1, dtype=torch.int64)
    cache = DecodingCache(model, 1, 16, plan=ff.Plan(16, (2, 8)), impl="recorder")
    model(ids.expand(1, 3), cache=cache)
    model(ids, cache=cache)
    inside: list[int] = []

    def capture(call):
        def replay():
            before = len(launches)
            call()
            inside.append(len(launches) - before)

        return replay

    graphed = GraphedStep(model, cache, ids, capture=capture)
    launches.clear()
    graphed(ids)  # position 1 -> 2: the block of 2 is complete
    layers = len([name for name, _ in launches if name == "step"])
    assert inside == [layers]
    assert launches[layers:] == [("fill", 2)]


@torch.no_grad()
def test_refusals():
    model, ids = small_model(), torch.zeros(1, 1, dtype=torch.int64)
    cache = DecodingCache(model, 1, 8, impl="reference")
    with pytest.raises(RuntimeError, match=r"need a CUDA device.*would be baked into the graph"):
        GraphedStep(model, cache, ids)
    with pytest.raises(RuntimeError, match="before every row has made one"):
        GraphedStep(model, cache, ids, capture=again)
    model(ids, cache=cache)
    model(ids, cache=cache)
    graphed = GraphedStep(model, cache, ids, capture=again)
    with pytest.raises(ValueError, match=r"expected ids \(1, 1\)"):
        graphed(ids.expand(2, 1))
    with pytest.raises(RuntimeError, match="cannot be captured"):
        ff.decode(model, ids, 4, impl="reference", cuda_graph=True)
    with pytest.raises(ValueError, match="cuda_graph needs a model"):
        ff.decode(torch.ones(2, 4), torch.ones(1, 2, 1), 2, cuda_graph=True)
    with pytest.raises(ValueError, match="fill_stream needs a CUDA device"):
        ff.FutureFillCache(torch.ones(2, 4), 1, 4, fill_stream=object())


class SideStreams:
    """Stand-ins for CUDA streams that record who waits and what was launched on which."""

    def __init__(self, monkeypatch, launches):
        self.calls: list[object] = []
        self.side, self.main = self.Stream("side", self.calls), self.Stream("main", self.calls)
        monkeypatch.setattr(torch.cuda, "stream", self.on)
        monkeypatch.setattr(torch.cuda, "current_stream", lambda device=None: self.main)
        self.kept: list[torch.Tensor] = []  # tensors whose memory waits for the side stream
        monkeypatch.setattr(
            torch.Tensor, "record_stream", lambda x, stream: self.kept.append(x), raising=False
        )
        self._launches = launches

    class Stream:
        def __init__(self, name, calls):
            self.name, self.calls = name, calls

        def wait_stream(self, other):
            self.calls.append(f"{self.name} waits for {other.name}")

    @contextlib.contextmanager
    def on(self, stream):
        before = len(self._launches)
        yield
        self.calls.append((stream.name, self._launches[before:]))


def test_decode_passes_a_side_stream_on(launches, monkeypatch):
    """Of a model and of filters: every fill runs on it, and what follows a fill waits for it."""
    streams = SideStreams(monkeypatch, launches)
    made: list[ff.FutureFillCache] = []
    init = ff.FutureFillCache.__init__

    def on_the_side(self, *args, fill_stream=None, **options):
        assert fill_stream is streams.side
        init(self, *args, **options)
        self._fill_stream = fill_stream  # the check wants a CUDA device
        self._keep_for_fills()
        made.append(self)

    plan = ff.Plan(9, (2, 4))
    model, ids = small_model(layers=2), torch.tensor([[1, 2, 3]])
    h, prompt = torch.randn(3, 9), torch.randn(1, 3, 4)
    expected = [ff.decode(m, p, 9, plan=plan) for m, p in ((model, ids), (h, prompt))]
    monkeypatch.setattr(ff.FutureFillCache, "__init__", on_the_side)
    for (m, p), result in zip(((model, ids), (h, prompt)), expected, strict=True):
        streams.calls.clear()
        got = ff.decode(m, p, 9, plan=plan, impl="recorder", fill_stream=streams.side)
        torch.testing.assert_close(got, result)
        fill = ["side waits for main", ("side", [("fill", 2)]), "main waits for side"]
        wide = ["side waits for main", ("side", [("fill", 4)]), "main waits for side"]
        # 8 steps: nothing follows the last one's fill, the state's memory waits for it
        assert streams.calls == [*fill, *wide, *fill, *wide[:2]]
    assert len(made) == 2
    for cache in made:
        assert any(x is cache._state.ring for x in streams.kept)


def test_side_streams_of_some_rows_and_of_clones(launches, monkeypatch):
    """A clone waits for a fill that is under way; the rows of a fill outlive it."""
    streams = SideStreams(monkeypatch, launches)
    cache = ff.FutureFillCache(torch.randn(3, 8), 2, 8, plan=ff.Plan(8, (2, 4)), impl="recorder")
    cache._fill_stream = streams.side
    for _ in range(2):
        cache.step(torch.randn(1, 3), rows=[1])
    assert [x.tolist() for x in streams.kept] == [[1]]
    streams.calls.clear()
    other = cache.clone()
    assert streams.calls == ["main waits for side"]
    assert any(x is other._state.ring for x in streams.kept)
    u = torch.randn(1, 3)
    assert torch.equal(cache.step(u, rows=[1]), other.step(u, rows=[1]))


def test_fills_on_a_side_stream_are_joined(launches, monkeypatch):
    """The side stream waits for the step, and the next step for the side stream."""
    calls: list[str] = []

    class Stream:
        def __init__(self, name):
            self.name = name

        def wait_stream(self, other):
            calls.append(f"{self.name} waits for {other.name}")

    @contextlib.contextmanager
    def on(stream):
        calls.append(f"on {stream.name}")
        yield
        calls.append(f"off {stream.name}")

    monkeypatch.setattr(torch.cuda, "stream", on)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device=None: Stream("main"))
    cache = ff.FutureFillCache(torch.randn(3, 8), 1, 8, plan=ff.Plan(8, (2, 4)), impl="recorder")
    cache._fill_stream = Stream("side")
    u = torch.randn(3, 8)
    h = cache._filters[0]
    y = []
    for t in range(8):
        calls.clear()
        y.append(cache.step(u[None, :, t]))
        joins = ["main waits for side"] if t and t % 2 == 0 else []
        fills = ["side waits for main", "on side", "off side"] if t in (1, 3, 5) else []
        assert calls == joins + fills
    torch.testing.assert_close(torch.stack(y, 2), ff.causal_conv(u[None], h))


def test_a_state_beyond_the_memory_is_refused_before_it_is_allocated():
    filters = torch.ones(1, 4)
    with pytest.raises(MemoryError, match=r"the state needs \d+ bytes, cpu has \d+"):
        ff.FutureFillCache(filters, 1 << 20, 1 << 20, channels=64, plan=ff.Plan(1 << 20, (1024,)))
