"""Graphed decoding: one replay per token, fills behind it, refusals. A stand-in for a CUDA graph
runs the captured call again, with the books kept as at a replay.
"""

from __future__ import annotations

import pytest
import torch

import futurefill_kernels as ff
from futurefill_kernels.decoding.graphs import GraphedStep
from futurefill_kernels.decoding.model_cache import DecodingCache
from futurefill_kernels.nn.language_model import LanguageModel, LanguageModelConfig


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
        for state, plain in zip(*(c._short.values() for c in caches), strict=True):
            assert torch.equal(state.inputs, plain.inputs)
    with pytest.raises(ValueError, match="max_new_tokens = 40"):
        graphed(ids)
    assert caches[0].positions.tolist() == [40, 40]


@torch.no_grad()
def test_a_captured_call_takes_nothing_from_the_host(launches, monkeypatch):
    """Inside a capture no tensor can be made of host values."""
    model = small_model()
    cache = DecodingCache(model, 2, 12, impl="recorder", fused=False)
    ids = torch.zeros(2, 1, dtype=torch.int64)
    with torch.no_grad():
        model(ids.expand(2, 5), cache=cache)
        model(ids, cache=cache)

        def capture(call):
            def replay():
                with monkeypatch.context() as inside:
                    for name in ("tensor", "as_tensor", "from_numpy"):
                        inside.setattr(torch, name, refused)
                    call()

            return replay

        graphed = GraphedStep(model, cache, ids, capture=capture)
        for _ in range(3):
            assert torch.isfinite(graphed(ids)).all()


def refused(*arguments, **options):
    raise AssertionError("a tensor is made from host values inside the capture")


@torch.no_grad()
def test_replays_follow_what_happens_between_them(launches):
    """A plain step or another order of the rows."""
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
