"""Weights, filters, activations and caches of different precision, and models that are loaded late.

What one dtype gives in both modes is in the mixers' own tests.
"""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import futurefill_kernels as ff
from futurefill_kernels.nn.filters import LongFilter
from tests.decoding.models import MODELS, make
from tests.nn.mixers import CHANNELS, MIXERS, TOLERANCE, Stack, check_equal, run_split

HALF = (torch.bfloat16, torch.float16)
#: largest error of a mixer, relative to its largest output, against double precision
HALF_ERROR = {torch.bfloat16: 3e-2, torch.float16: 4e-3}


def filters_in(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    for module in model.modules():
        if isinstance(module, LongFilter):
            module.to(dtype)
    return model


def check_both_modes(model, x, dtype):
    """Prompt, a token, a chunk, tokens."""
    parallel = model(x)
    assert parallel.dtype == dtype
    cache = ff.DecodingCache(model, len(x), x.shape[1] - 7)
    streamed = run_split(model, x, [7, 8, 20, *range(21, x.shape[1])], cache)
    assert streamed.dtype == dtype
    check_equal(streamed, parallel)
    return cache


@torch.no_grad()
@pytest.mark.parametrize("dtype", HALF, ids=str)
@pytest.mark.parametrize("name", MIXERS)
def test_half_precision_is_as_good_as_its_dtype(name, dtype):
    torch.manual_seed(0)
    model = MIXERS[name]().to(dtype)
    x = torch.randn(2, 40, CHANNELS, dtype=dtype)
    expected = copy.deepcopy(model).double()(x.double())
    error = (model(x).double() - expected).abs().max() / expected.abs().max()
    print(f"{error:.2e}")
    assert error < HALF_ERROR[dtype]


@torch.no_grad()
@pytest.mark.parametrize("dtype", [*HALF, torch.float64], ids=str)
@pytest.mark.parametrize("name", [n for n in MIXERS if not n.startswith("long-conv")])
def test_float32_filters_beside_other_weights(name, dtype):
    torch.manual_seed(0)
    model = filters_in(MIXERS[name]().to(dtype), torch.float32)
    cache = check_both_modes(model, torch.randn(2, 40, CHANNELS, dtype=dtype), dtype)
    assert cache.caches[0].dtype == dtype


@torch.no_grad()
@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_float32_filters_alone_take_narrower_inputs(dtype):
    torch.manual_seed(0)
    model = ff.nn.LongConv(CHANNELS, 64)
    cache = check_both_modes(model, torch.randn(2, 40, CHANNELS, dtype=dtype), dtype)
    assert cache.caches[0].dtype == torch.float32


@torch.no_grad()
@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_wider_activations_widen_the_cache(dtype):
    """A residual stream in float32 in a model of half precision, and gates wider than inputs."""
    torch.manual_seed(0)

    class Wide(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Linear(CHANNELS, CHANNELS)
            self.mixers = nn.ModuleList(ff.nn.LongConv(CHANNELS, 64) for _ in range(2))

        def forward(self, x, cache=None):
            x = self.mixers[0](self.first(x), cache)
            gate, u = x.float().transpose(1, 2), x.transpose(1, 2)
            y = self.mixers[1].filter(u, cache, pre=gate, post=gate)
            return y.transpose(1, 2)

    model = Wide().to(dtype)
    x = torch.randn(2, 40, CHANNELS, dtype=dtype)
    cache = check_both_modes(model, x, dtype)
    assert cache.caches[0].dtype == torch.float32


@torch.no_grad()
def test_float64_activations_beside_float32_state_are_refused():
    model = ff.nn.LongConv(CHANNELS, 64)
    cache = ff.DecodingCache(model, 1, 8)
    x = torch.randn(1, 5, CHANNELS)
    with pytest.raises(TypeError, match=r"model\.double\(\)"):
        model(x.double(), cache)
    again = torch.cat([x, x[:, :1]], 1)
    check_equal(run_split(model, again, [5], cache), model(again))


@torch.no_grad()
@pytest.mark.parametrize("dtype", HALF, ids=str)
@pytest.mark.parametrize("name", MIXERS)
def test_autocast_leaves_filters_alone_and_both_modes_agree(name, dtype):
    torch.manual_seed(0)
    model, x = MIXERS[name](), torch.randn(2, 40, CHANNELS)
    filters = [m for m in model.modules() if isinstance(m, LongFilter)]
    cpu = torch.device("cpu")
    expected = [f.taps_on(64, cpu, torch.float32) for f in filters]
    with torch.autocast(x.device.type, dtype):
        for f, taps in zip(filters, expected, strict=True):
            assert torch.equal(f.taps_on(64, cpu, torch.float32), taps)
        parallel = model(x)
        cache = ff.DecodingCache(model, 2, 33)
        streamed = run_split(model, x, [7, 8, 20, *range(21, 40)], cache)
    assert streamed.dtype == parallel.dtype
    error = (streamed.double() - parallel.double()).abs().max() / parallel.double().abs().max()
    assert error < TOLERANCE[dtype]


@torch.no_grad()
@pytest.mark.parametrize("mixed", [False, True])
def test_a_model_decodes_inside_autocast_and_out_of_it(mixed):
    torch.manual_seed(0)
    model, ids = ff.nn.load_model(), torch.tensor([list(b"def f(x")])
    plain = ff.decode(model, ids, 6)
    if mixed:
        model = filters_in(model.bfloat16(), torch.float32)
    decoder = ff.Decoder(model, 1, 6)
    for _ in range(2):
        with torch.autocast(ids.device.type, torch.bfloat16):
            expected = ff.decode(model, ids, 6)
            assert torch.equal(decoder(ids), expected)
            logits = torch.cat([model(ids), model(ids)], 1)[:, -1]
            cache = ff.DecodingCache(model, 1, 6)
            model(ids[:, :-1], cache=cache)
            step = model(ids[:, -1:], cache=cache)[:, 0]
            assert step.dtype == logits.dtype == torch.bfloat16
            check_equal(step, logits)
        if not mixed:
            assert torch.equal(decoder(ids), plain)


MADE_LATE = {
    **MIXERS, "stack": Stack, "implicit-filter": lambda: ff.nn.ImplicitFilter(CHANNELS, 64),
}  # fmt: skip


@torch.no_grad()
@pytest.mark.parametrize("name", MADE_LATE)
def test_modules_made_on_meta_and_loaded_later(name, device):
    torch.manual_seed(0)
    model = MADE_LATE[name]().to(device)
    with torch.device("meta"):
        late = MADE_LATE[name]()
    late = late.to_empty(device=device)
    for tensor in [*late.parameters(), *late.buffers()]:
        tensor.fill_(float("nan"))
    late.load_state_dict(model.state_dict())
    if isinstance(model, LongFilter):
        x = torch.randn(1, CHANNELS, 20, device=device)
        assert torch.equal(late(x), model(x))
        return
    x = torch.randn(1, 20, CHANNELS, device=device)
    assert torch.equal(late(x), model(x))
    pieces = [run_split(m, x, range(5, 20), ff.DecodingCache(m, 1, 15)) for m in (model, late)]
    assert torch.equal(*pieces)


@torch.no_grad()
@pytest.mark.parametrize("name", MODELS)
def test_language_models_made_on_meta_and_loaded_later(name):
    model, ids = make(name), torch.randint(50, (2, 9))
    with torch.device("meta"):
        late = MODELS[name]().double()
    late = late.to_empty(device=ids.device)
    late.load_state_dict(model.state_dict())
    assert torch.equal(ff.decode(late, ids, 7), ff.decode(model, ids, 7))


def test_nothing_is_derived_before_weights_come():
    """A tensor that is not saved is lost between meta and load_state_dict."""
    for name, build in {**MADE_LATE, **MODELS}.items():
        model = build()
        saved = model.state_dict().keys()
        assert {n for n, _ in [*model.named_parameters(), *model.named_buffers()]} <= saved, name


def test_buffers_of_a_filter_keep_their_precision():
    class Buffered(LongFilter):
        def __init__(self):
            super().__init__(CHANNELS, 20)
            self.register_buffer("h", torch.randn(CHANNELS, 20, dtype=torch.float32))

        def taps(self, length):
            return self.h[:, :length]

    model = Buffered()
    before = model.h.clone()
    for dtype in (torch.float16, torch.float64, torch.float32):
        model.to(dtype)
        assert torch.equal(model.h, before)
        assert model.skip.dtype == dtype
    assert model.to("meta").h.device.type == "meta"
