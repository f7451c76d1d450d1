"""A model that is changed behind its cache: the fused token steps aside, or the call is refused."""

from __future__ import annotations

import copy
import re

import pytest
import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

import futurefill_kernels as ff
from futurefill_kernels.nn.language_model import LanguageModel, LanguageModelConfig

CONFIG = LanguageModelConfig(50, 64, channels=8, layers=2, mlp_hidden=16)


@pytest.fixture(autouse=True)
def _no_grad():
    with torch.no_grad():
        yield


@pytest.fixture
def model():
    torch.manual_seed(0)
    return LanguageModel(CONFIG).eval()


@pytest.fixture
def ids():
    return torch.randint(50, (2, 20), generator=torch.Generator().manual_seed(1))


@pytest.fixture
def cache(model, ids):
    """After a prompt of 8 and two fused tokens."""
    cache = ff.DecodingCache(model, 2, 30)
    if cache.fused is None:
        pytest.skip(f"no fused token here: {'; '.join(cache.not_fused)}")
    model(ids[:, :8], cache=cache)
    for t in (8, 9):
        model(ids[:, t : t + 1], cache=cache)
    assert cache.not_fused == []
    return cache


class LowRank(nn.Module):
    def __init__(self, base):
        super().__init__()
        self.base = base
        self.down, self.up = nn.Linear(16, 2, bias=False), nn.Linear(2, 8, bias=False)

    def forward(self, x):
        return self.base(x) + self.up(self.down(x))


def patch(model):
    model.blocks[0].mlp.forward = torch.zeros_like


def low_rank(model):
    torch.manual_seed(3)
    model.blocks[1].mlp.down = LowRank(model.blocks[1].mlp.down)


def write(model):
    model.blocks[1].mlp.down.weight.mul_(2)


def replace(model):
    weight = model.blocks[0].mlp.down.weight
    model.blocks[0].mlp.down.weight = nn.Parameter(weight.neg(), requires_grad=False)


def move(model):
    weight = model.blocks[0].mlp.gate_up.weight
    weight.data = weight.data * 3


def assign(model):
    state = {k: v * 1.5 if "mlp" in k else v for k, v in model.state_dict().items()}
    filters = [k for k in state if "mixer" in k]
    model.load_state_dict({k: v for k, v in state.items() if k not in filters}, strict=False)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (patch, "blocks.0.mlp has forward hooks or a forward of its own"),
        (low_rank, "blocks.1.mlp.down is .*LowRank, not Linear"),
        (write, "blocks.1.mlp.down.weight has been written to"),
        (replace, "blocks.0.mlp.down.weight has been replaced"),
        (move, "blocks.0.mlp.gate_up.weight has moved in memory"),
        (assign, "blocks.0.mlp.gate_up.weight has been written to"),
        (
            lambda m: m.norm.register_forward_hook(lambda module, args, y: 2 * y),
            "norm has forward hooks",
        ),
        (
            lambda m: m.register_forward_hook(lambda module, args, y: 2 * y),
            "the model has forward hooks",
        ),
        (
            lambda m: m.blocks[1].mlp.register_forward_pre_hook(lambda module, args: (-args[0],)),
            "blocks.1.mlp has forward hooks",
        ),
    ],
)
def test_changes_are_noticed_at_the_next_call(model, cache, ids, change, reason):
    before = copy.deepcopy(model)
    change(model)
    step = model(ids[:, 10:11], cache=cache)
    assert any(re.search(reason, r) for r in cache.not_fused), cache.not_fused
    # the same token of a cache that has seen the same and never fuses
    layerwise = ff.DecodingCache(before, 2, 30, fused=False)
    before(ids[:, :10], cache=layerwise)
    change(before)
    torch.testing.assert_close(step, before(ids[:, 10:11], cache=layerwise), rtol=0, atol=1e-5)


def test_hooks_that_come_and_go(model, cache, ids):
    seen = []
    handle = model.blocks[1].mlp.register_forward_hook(lambda *a: seen.append(1))
    model(ids[:, 10:11], cache=cache)
    assert len(seen) == 1
    handle.remove()
    assert cache.not_fused == []
    model(ids[:, 11:12], cache=cache)
    assert len(seen) == 1


@pytest.mark.parametrize(
    "register", [register_module_forward_hook, register_module_forward_pre_hook]
)
def test_hooks_of_all_modules(model, cache, ids, register):
    seen = []
    handle = register(lambda module, *a: seen.append(module))
    try:
        model(ids[:, 10:11], cache=cache)
        assert cache.not_fused == ["hooks of all modules are registered"]
        assert set(seen) == set(model.modules()) - {model.blocks} - {
            m for b in model.blocks for f in b.mixer.filters for m in f.children()
        } - {b.mixer.filters for b in model.blocks}
    finally:
        handle.remove()
    assert cache.not_fused == []


FILTER = "blocks.1.mixer.filters.0"
FILTER_CHANGES = {
    f"{FILTER}.output.weight": lambda weight: weight.mul_(2),
    f"{FILTER}.skip": lambda weight: weight.zero_(),
    "blocks.0.mixer.short_conv.weight": lambda weight: weight.add_(1),
}


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("name", FILTER_CHANGES)
def test_a_call_after_filters_have_changed_is_refused(model, ids, name, fused):
    cache = ff.DecodingCache(model, 2, 30, fused=fused)
    model(ids[:, :8], cache=cache)
    FILTER_CHANGES[name](model.get_parameter(name))
    for width in (1, 3):
        with pytest.raises(ValueError, match=f"{name} has been .* make a new cache"):
            model(ids[:, 8 : 8 + width], cache=cache)
    assert cache.positions.tolist() == [0, 0]
    cache = ff.DecodingCache(model, 2, 30, fused=fused)
    model(ids[:, :8], cache=cache)
    step = model(ids[:, 8:9], cache=cache)
    torch.testing.assert_close(step, model(ids[:, :9])[:, 8:], rtol=0, atol=1e-4)


def test_what_does_not_matter_keeps_the_token_fused(model, cache, ids):
    model.note = "of the user's"
    model.blocks[0].train()
    ff.DecodingCache(model.blocks[0], 1, 4)  # watches a part
    assert cache.not_fused == []
    expected = model(ids)[:, 10:11]
    torch.testing.assert_close(model(ids[:, 10:11], cache=cache), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "change", [patch, low_rank, write, replace, move, lambda m: m.blocks[0].mlp.train()]
)
def test_a_decoder_notices_at_the_next_request(model, ids, change):
    decoder = ff.Decoder(model, 2, 9)
    decoder(ids)
    cache = decoder.cache
    decoder(ids)
    assert decoder.cache is cache
    change(model)
    assert torch.equal(decoder(ids), ff.Decoder(model, 2, 9)(ids))
    assert decoder.cache is not cache


def test_a_decoder_notices_hooks(model, ids):
    decoder = ff.Decoder(model, 2, 9)
    before = decoder(ids)
    for sign in (-1, 1):
        handle = model.norm.register_forward_hook(lambda module, args, y, sign=sign: sign * y)
        found = decoder(ids)
        assert decoder.cache.not_fused
        handle.remove()
        assert torch.equal(found, before) == (sign == 1)
    assert torch.equal(decoder(ids), before)
