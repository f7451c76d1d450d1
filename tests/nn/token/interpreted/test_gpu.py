"""Fused tokens on a GPU against the layers one by one, both in Triton's interpreter."""

from __future__ import annotations

import os

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

if "TRITON_INTERPRET" not in os.environ:
    pytest.skip("runs with TRITON_INTERPRET=1, see test_gpu.py", allow_module_level=True)

import futurefill_kernels as ff
from futurefill_kernels import DecodingCache, Plan
from futurefill_kernels.decoding import graphs
from futurefill_kernels.implementations.triton_kernels.launch import Launch
from futurefill_kernels.nn import LanguageModel, LanguageModelConfig
from futurefill_kernels.nn.token import gpu_config
from futurefill_kernels.nn.token.gpu import FusedToken
from tests.fast import combinations
from tests.nn.token.models import make_model

F32, BF16 = torch.float32, torch.bfloat16
STEPS, PROMPT = 9, 3
PLAN = Plan(STEPS, (2, 4))  # blocks end and fills of every level come


@pytest.fixture(autouse=True)
def _few_programs(monkeypatch):
    """Few programs of several rows each: the interpreter's time goes by their number."""
    monkeypatch.setattr(gpu_config, "PROGRAMS", 2)
    torch.manual_seed(0)
    with torch.no_grad():
        yield


def make(mixer: str, dtype: torch.dtype = F32, layers: int = 2) -> LanguageModel:
    """A model of odd widths, every parameter away from its first value."""
    widths = {"vocabulary": 50, "context_length": 64, "channels": 33, "mlp_hidden": 17}
    activation = "gelu" if mixer == "stu" else "silu"
    config = LanguageModelConfig(
        **widths, layers=layers, mixer=mixer, spectral_filters=5, activation=activation
    )
    return make_model(config).to(dtype)


def caches(model, batch, plan=PLAN):
    found = [
        DecodingCache(model, batch, plan.length, plan=plan, impl="triton", fused=fused)
        for fused in (True, False)
    ]
    assert found[0].not_fused == []
    return found


def assert_close(got, expected, dtype=F32):
    """Sums in another order; with bfloat16 some of them are rounded to a neighbour."""
    tolerance = (2e-6 if dtype == F32 else 5e-2) * float(expected.abs().max())
    torch.testing.assert_close(got, expected, rtol=0, atol=tolerance)


def error(got, expected):
    return float((got.double() - expected.double()).norm())


@pytest.mark.parametrize(
    ("mixer", "batch", "dtype"),
    combinations(
        ["hyena", "stu"], [1, 3], [F32, BF16],
        fast={("hyena", 1, F32), ("stu", 1, BF16), ("stu", 3, F32)},
    ),
)  # fmt: skip
def test_fused_equals_layer_by_layer(mixer, batch, dtype):
    model = make(mixer, dtype)
    fused, plain = caches(model, batch)
    ids = torch.randint(50, (batch, PROMPT + STEPS))
    for cache in (fused, plain):
        model(ids[:, :PROMPT], cache=cache)
    steps = range(PROMPT, PROMPT + STEPS)
    got, expected = (
        torch.cat([model(ids[:, t : t + 1], cache=cache) for t in steps], 1)
        for cache in (fused, plain)
    )
    assert_close(got, expected, dtype)
    if dtype == BF16:  # rounded as often, but the interpreter cuts off where a device rounds
        exact = model.float()(ids)[:, PROMPT:]
        assert error(got, exact) < 3 * error(expected, exact)
    states = [cache.caches[0].state for cache in (fused, plain)]
    assert torch.equal(states[0].positions, states[1].positions)
    assert_close(states[0].ring, states[1].ring, dtype)
    with pytest.raises(ValueError, match="at most 0 more positions"):
        model(ids[:, :1], cache=fused)


@pytest.fixture
def launched(monkeypatch):
    """Names of the kernels that were launched; raises instead of launch ``fail[0]``."""
    names, fail, run = [], [], Launch.run

    def record(self):
        if len(names) in fail:
            raise KeyboardInterrupt
        names.append(self.kernel.__name__)
        run(self)

    monkeypatch.setattr(Launch, "run", record)
    return names, fail


class Products(TorchDispatchMode):
    """Counts matrix products."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function in (torch.ops.aten.mm.out, torch.ops.aten.addmm.out)
        return function(*args, **(kwargs or {}))


def started(model, batch, tokens=2):
    """A cache whose prompt and some tokens are over, and the ids of the next ones."""
    cache = caches(model, batch)[0]
    ids = torch.randint(50, (PROMPT + STEPS, batch, 1))
    model(ids[:PROMPT, :, 0].T, cache=cache)
    for t in range(PROMPT, PROMPT + tokens):
        model(ids[t], cache=cache)
    return cache, ids[PROMPT + tokens :]


@pytest.mark.parametrize(
    ("mixer", "per_layer"),
    [
        ("hyena", ["norm_mixer", "product_add", "norm_gate", "product_add"]),
        ("stu", ["norm_mixer", "norm_gate", "product_add"]),
    ],
)
def test_launches_of_a_token_of_one_row(mixer, per_layer, launched):
    model = make(mixer, layers=3)
    cache, ids = started(model, 1, tokens=0)
    cache.begin_token()
    launched[0].clear()
    with Products() as products, cache.capture():
        model(ids[0], cache=cache)
    expected = ["history", *3 * per_layer, "norm_logits"]
    assert launched[0] == [f"{name}_kernel" for name in expected]
    assert products.count == 0


@pytest.mark.parametrize(
    ("mixer", "per_layer", "products_per_layer"),
    [
        ("hyena", ["add_norm", "mixer", "add_norm", "gate"], 4),
        ("stu", ["add_norm", "mixer", "add_norm", "gate"], 3),
    ],
)
def test_launches_of_a_token_of_several_rows(mixer, per_layer, products_per_layer, launched):
    model = make(mixer, layers=2)
    cache, ids = started(model, 2, tokens=0)
    cache.begin_token()
    launched[0].clear()
    with Products() as products, cache.capture():
        model(ids[0], cache=cache)
    expected = ["history", *2 * per_layer, "add_norm"]
    assert launched[0] == [f"{name}_kernel" for name in expected]
    assert products.count == 2 * products_per_layer + 1


@pytest.mark.parametrize("batch", combinations([1, 2], fast=[1]))
def test_a_captured_token_keeps_no_books_and_has_fixed_addresses(batch):
    model = make("hyena")
    cache, ids = started(model, batch)
    other = cache.clone()
    expected = [model(token, cache=other) for token in ids[:3]]
    assert len({x.data_ptr() for x in expected}) == 3  # eager results are not overwritten
    cache.begin_token()
    token = ids[0].clone()
    with cache.capture():
        first = model(token, cache=cache)  # what a graph would replay
    assert cache.positions.tolist() == [2] * batch
    for t in range(3):
        if t > 0:
            cache.begin_token()
            token.copy_(ids[t])
            cache.fused(token)
        assert_close(first, expected[t])
        cache.finish_token()
        assert cache.positions.tolist() == [3 + t] * batch


@pytest.mark.parametrize("batch", combinations([1, 2], fast=[2]))
def test_a_clone_goes_its_own_way(batch):
    model = make("hyena")
    cache, ids = started(model, batch)
    other = cache.clone()
    expected = [model(token, cache=other) for token in ids[:2]]
    for token, logits in zip(ids[:2], expected, strict=True):
        assert torch.equal(model(token, cache=cache), logits)


@pytest.mark.parametrize(
    ("batch", "launch"), combinations([1, 2], range(1, 9), fast=[(1, 3), (2, 6)])
)
def test_a_token_that_stopped_inside_is_taken_back(launch, batch, launched):
    """Before any of its launches, whether or not the short convolutions before it have run."""
    model = make("hyena")
    cache, ids = started(model, batch)
    expected = [model(token, cache=other) for other in [cache.clone()] for token in ids[:2]]
    names, fail = launched
    fail.append(len(names) + launch)
    with pytest.raises(KeyboardInterrupt):
        model(ids[1], cache=cache)
    fail.clear()
    cache.abort()
    cache.fused.abort()  # nothing is left to take back
    for token, logits in zip(ids[:2], expected, strict=True):
        assert torch.equal(model(token, cache=cache), logits)


@pytest.mark.parametrize("batch", combinations([1, 2], fast=[1]))
def test_greedy_ids_of_the_last_token(batch):
    model = make("stu")
    cache, ids = started(model, batch)
    logits = model(ids[0], cache=cache)
    token = torch.full((batch, 1), -1)
    cache.fused.draw_greedy(token)
    assert torch.equal(token, logits[:, 0].argmax(-1, keepdim=True))


@pytest.mark.parametrize("batch", combinations([1, 2], fast=[2]))
def test_an_id_outside_the_vocabulary_gives_no_number(batch):
    model = make("hyena")
    cache, ids = started(model, batch)
    ids[0, -1] = 50
    logits = model(ids[0], cache=cache)
    assert bool(logits[-1].isnan().all())
    assert bool(logits[:-1].isfinite().all())


def test_weights_are_read_in_place():
    model = make("stu")
    cache, ids = started(model, 1)
    scratch = cache.fused.nbytes
    assert scratch < sum(p.nbytes for p in model.parameters())
    before = model(ids[0], cache=cache.clone())
    model.norm.weight.mul_(2)
    after = model(ids[0], cache=cache)
    assert_close(after, 2 * before)


def test_other_models_go_layer_by_layer():
    class Other(LanguageModel):
        pass

    model = Other(make("hyena").config).requires_grad_(False)
    cache = DecodingCache(model, 1, 4, impl="triton")
    assert cache.fused is None
    assert cache.not_fused == ["Other is not an ff.nn.LanguageModel"]


def test_decode_gives_the_tokens_of_the_layers():
    model = make("hyena")
    prompt = torch.randint(50, (2, 5))
    got = ff.decode(model, prompt, STEPS, plan=PLAN, impl="triton")
    assert torch.equal(got, ff.decode(model, prompt, STEPS, plan=PLAN, impl="reference"))


class Again:
    """Graphs without a GPU: a replay is the call again."""

    side = None

    def __init__(self, device):
        pass

    def warm(self, call):
        call()

    def capture(self, call):
        return call


@pytest.mark.parametrize("batch", combinations([1, 2], fast=[1]))
def test_a_decoder_replays_fused_tokens(monkeypatch, batch):
    """Greedy draws by the token's own search, sampled ones from its logits, with stops."""
    model = make("hyena")
    prompt = torch.randint(50, (batch, 5))
    monkeypatch.setattr(graphs, "cannot_capture", lambda cache, device: [])
    monkeypatch.setattr(graphs, "CudaGraphs", Again)
    decoder = ff.Decoder(model, batch, STEPS, plan=PLAN, impl="triton", cuda_graph=True)
    drawn = []
    draw = FusedToken.draw_greedy
    monkeypatch.setattr(
        FusedToken, "draw_greedy", lambda self, token: (drawn.append(1), draw(self, token))
    )
    expected = ff.decode(model, prompt, STEPS, plan=PLAN, impl="reference")
    for _ in range(2):
        assert torch.equal(decoder(prompt), expected)
    assert len(drawn) == 2 * (STEPS - 1)
    heard = []
    stops = expected[:, 4].tolist()
    options = {"sampler": ff.RandomSampler(seed=3), "stop_ids": stops}
    found = decoder(prompt, callback=lambda ids, t: heard.append(t), **options)
    assert torch.equal(
        found, ff.decode(model, prompt, STEPS, plan=PLAN, impl="reference", **options)
    )
    assert len(drawn) == 2 * (STEPS - 1)
    assert decoder.cache.positions.tolist() == [heard[-1]] * batch


@pytest.mark.parametrize("batch", combinations([1, 2], fast=[2]))
def test_all_launches_but_the_first_of_a_token_are_dependent(batch, monkeypatch):
    """Where a card can have such launches; they are only written down here."""
    monkeypatch.setattr("futurefill_kernels.nn.token.gpu_launches.can_depend", lambda device: True)
    found = []
    monkeypatch.setattr(Launch, "run", lambda launch: found.append(launch))
    cache = DecodingCache(make("hyena"), batch, STEPS, plan=PLAN, impl="triton")
    cache.fused(torch.zeros(batch, 1, dtype=torch.int64))
    history, first, *others = found
    assert history.kernel.__name__ == "history_kernel"
    assert "launch_pdl" not in first.options
    assert others
    assert all(launch.options["launch_pdl"] for launch in others)
    assert all(launch.constants["PDL"] for launch in (first, *others))
