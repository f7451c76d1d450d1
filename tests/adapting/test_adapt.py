"""Adapted models against their own forward, and what cannot be adapted."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

import futurefill_kernels as ff
from futurefill_kernels.adapting.twin import FilterOf
from tests.adapting.standins import (
    LONGEST,
    OPERATORS,
    STU,
    VOCABULARY,
    WIDTH,
    GConv,
    HyenaOperator,
    Last,
    LongConv,
    Model,
    SafariHyena,
    make,
)
from tests.nn.mixers import TOLERANCE, check_equal, run_split

pytestmark = pytest.mark.cpu_only("stand-ins of public code")
MIXED = ("hyena-3", "stu-full", "long-conv", "safari-2", "stu-tensorised")


@pytest.fixture(autouse=True)
def _no_grad():
    with torch.no_grad():
        yield


def random_ids(rows=2, length=40):
    generator = torch.Generator().manual_seed(1)
    return torch.randint(VOCABULARY, (rows, length), generator=generator)


@pytest.mark.parametrize("names", [*((n,) for n in OPERATORS), MIXED], ids="+".join)
def test_prompt_chunks_and_steps_are_the_model_s_own_forward(names):
    model, ids = make(*names), random_ids()
    expected = model(ids).logits
    adapted = ff.adapt(model)
    check_equal(adapted(ids), expected)
    cache = ff.DecodingCache(adapted, 2, 35)
    check_equal(run_split(adapted, ids, [5, 9, 10, 17, *range(18, 40)], cache), expected)


@pytest.mark.parametrize("names", [*((n,) for n in OPERATORS), MIXED], ids="+".join)
def test_greedy_tokens_are_those_of_full_recomputation(names):
    model, ids = make(*names), random_ids(2, 8)
    whole = ids
    for _ in range(30):
        whole = torch.cat([whole, model(whole).logits[:, -1].argmax(-1, keepdim=True)], 1)
    expected = whole[:, 8:]
    assert len(expected.unique()) > 1
    adapted = ff.adapt(model)
    assert torch.equal(ff.decode(adapted, ids, 30), expected)
    ragged = [ids[0], ids[1, :3]]
    alone = ff.decode(adapted, ids[1:, :3], 20)
    assert torch.equal(ff.decode(adapted, ragged, 20)[1:], alone)
    decoder = ff.Decoder(adapted, 2, 30)
    for _ in range(2):
        assert torch.equal(decoder(ids), expected)


def test_the_original_stays_as_it_was_and_weights_are_shared():
    model, ids = make(*MIXED), random_ids()
    before, expected = [type(m) for m in model.modules()], model(ids).logits
    adapted = ff.adapt(model)
    assert [type(m) for m in model.modules()] == before
    assert torch.equal(model(ids).logits, expected)
    assert adapted.model.embedding is model.embedding
    shared = {p.data_ptr() for p in model.parameters()}
    assert {p.data_ptr() for p in adapted.parameters()} == shared
    names = [f"model.{name}" for name in model.state_dict()]
    assert list(adapted.state_dict()) == names
    model.blocks[0].filter_fn.bias += 1
    check_equal(adapted(ids), model(ids).logits)


def test_copies_are_independent():
    model, ids = make(*MIXED), random_ids()
    adapted = ff.adapt(model)
    expected = adapted(ids)
    for other in (copy.deepcopy(adapted), pickle.loads(pickle.dumps(adapted))):
        for module in adapted.modules():
            if isinstance(module, FilterOf):
                assert all(module._source[0] is not m._source[0] for m in _filters(other))
        for parameter in other.parameters():
            parameter.mul_(1.5)
        assert torch.equal(adapted(ids), expected)
        changed = copy.deepcopy(model)
        for parameter in changed.parameters():
            parameter.mul_(1.5)
        check_equal(other(ids), changed(ids).logits)


def _filters(model):
    return [m for m in model.modules() if isinstance(m, FilterOf)]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", OPERATORS)
def test_a_cast_keeps_filters_in_float32(name, dtype):
    model, ids = make(name).float(), random_ids()
    adapted = ff.adapt(model)
    cpu = torch.device("cpu")
    before = [f.taps_on(LONGEST, cpu, torch.float32) for f in _filters(adapted)]
    adapted.to(dtype)
    assert adapted.model.head.weight.dtype == dtype
    after = [f.taps_on(LONGEST, cpu, torch.float32) for f in _filters(adapted)]
    for x, y in zip(before, after, strict=True):
        # what an STU learns is a weight as any other
        assert (x - y).abs().max() <= (0.01 * x.abs().max() if "stu" in name else 0)
    whole = adapted(ids)
    assert whole.dtype == dtype
    streamed = run_split(adapted, ids, range(9, 40), ff.DecodingCache(adapted, 2, 31))
    assert (streamed.double() - whole.double()).abs().max() < (
        3 * TOLERANCE[dtype] * whole.double().abs().max()
    )


def test_a_hyena_filter_that_is_rounded_already_is_refused():
    with pytest.raises(ValueError, match="HyenaOperator with a filter in half precision"):
        ff.adapt(make("hyena-2").bfloat16())


def test_taps_bounds_what_is_kept():
    model, ids = make("hyena-2", "stu-full"), random_ids(1, 20)
    adapted = ff.adapt(model, taps=20)
    assert {f.context_length for f in _filters(adapted)} == {20}
    cache = ff.DecodingCache(adapted, 1, 15)
    check_equal(run_split(adapted, ids, range(5, 20), cache), model(ids).logits)
    with pytest.raises(ValueError, match="expected taps >= 1, got 0"):
        ff.adapt(model, taps=0)


def test_longer_sequences_than_the_operator_takes_are_refused():
    adapted = ff.adapt(make("hyena-2", "stu-full"))
    long = random_ids(1, LONGEST + 1)
    cache = ff.DecodingCache(adapted, 1, 8)
    for c in (None, cache):
        with pytest.raises(ValueError, match=f"at most {LONGEST} positions .*, got {LONGEST + 1}"):
            adapted(long, cache=c)
    check_equal(adapted(long[:, :9], cache=cache), adapted(long[:, :9]))
    windowed = ff.adapt(make("long-conv"))
    check_equal(windowed(long), make("long-conv")(long).logits)


class Own(nn.Module):
    """A convolution of one's own, channels last or first, filters shared by pairs of channels."""

    def __init__(self, channels_last, groups=WIDTH, endless=False):
        super().__init__()
        self.channels_last, self.endless = channels_last, endless
        self.rates = nn.Parameter(torch.rand(groups) + 0.2)
        self.register_buffer("order", torch.arange(31.0))

    def h(self, length):
        lags = torch.arange(length) if self.endless else self.order[:length]
        return torch.exp(-self.rates[:, None] * lags) * (1 + 0.5 * torch.cos(lags))

    def forward(self, x):
        x = x.mT if self.channels_last else x
        y = ff.reference.causal_conv(x, self.h(x.shape[2]).to(x.dtype))
        return y.mT if self.channels_last else y


def taps_of(module, length):
    return module.h(length)


@pytest.mark.parametrize("groups", [WIDTH, 3, 1])
@pytest.mark.parametrize("channels_last", [False, True])
def test_a_module_of_one_s_own(channels_last, groups):
    torch.manual_seed(0)
    model = Model(Last(Own(channels_last, groups), not channels_last), Own(True)).double().eval()
    ids = random_ids()
    adapted = ff.adapt(model, {Own: taps_of})
    assert {f.context_length for f in _filters(adapted)} == {31}
    cache = ff.DecodingCache(adapted, 2, 35)
    check_equal(run_split(adapted, ids, range(5, 40), cache), model(ids).logits)
    check_equal(pickle.loads(pickle.dumps(adapted))(ids), model(ids).logits)
    with pytest.raises(ValueError, match="is not the causal convolution with its taps"):
        ff.adapt(model, {Own: lambda module, length: module.h(length).flip(1)})


class TwoOutputs(Own):
    """An output that nothing can be read from."""

    def forward(self, x):
        return super().forward(x), x


class Text(nn.Module):
    """An operator, and an answer that holds no logits."""

    def __init__(self):
        super().__init__()
        self.inner = Own(True)

    def forward(self, x):
        self.inner(x)
        return "an answer"


def test_what_a_module_of_one_s_own_has_to_be():
    x = torch.randn(1, 13, WIDTH)
    with pytest.raises(ValueError, match="TwoOutputs to take and return one tensor"):
        ff.adapt(TwoOutputs(True), {TwoOutputs: taps_of}, example=x)
    for wrong, got in ((None, "NoneType"), (torch.ones(WIDTH), r"\(6,\)")):
        with pytest.raises(ValueError, match=rf"taps of Own \(G, at most 13\), got {got}"):
            ff.adapt(Own(True), {Own: lambda module, length, h=wrong: h}, example=x)
    with pytest.raises(TypeError, match="expected logits, or an output with logits, got str"):
        ff.adapt(Text(), {Own: taps_of}, example=x)


def test_a_filter_without_end_needs_taps():
    model, ids = Model(Own(True, endless=True)).double().eval(), random_ids(1, 30)
    with pytest.raises(ValueError, match="the taps of Own do not end"):
        ff.adapt(model, {Own: taps_of})
    adapted = ff.adapt(model, {Own: taps_of}, taps=30)
    check_equal(run_split(adapted, ids, range(9, 30), ff.DecodingCache(adapted, 1, 21)),
                model(ids).logits)  # fmt: skip


def test_a_model_without_an_embedding_needs_an_example_for_filters_of_one_s_own():
    model, x = Own(True).double(), torch.randn(1, 13, WIDTH, dtype=torch.float64)
    with pytest.raises(ValueError, match="expected example="):
        ff.adapt(model, {Own: taps_of})
    adapted = ff.adapt(model, {Own: taps_of}, example=x)
    check_equal(run_split(adapted, x, range(5, 13), ff.DecodingCache(adapted, 1, 8)), model(x))


def test_nothing_recognised_lists_the_modules():
    with pytest.raises(ValueError, match=r"torch\.nn\.modules\.linear\.Linear"):
        ff.adapt(Model(nn.Linear(WIDTH, WIDTH)))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("hyena",), TypeError, "model to be a module, got str"),
        ((Model(Own(True)), taps_of), TypeError, "filters to be a mapping .* got function"),
        (
            (Model(Own(True)), {Own(True): taps_of}),
            TypeError,
            "map classes of modules to functions",
        ),
        ((Model(Own(True)), {Own: 5}), TypeError, "map classes of modules .*Own.*: 5"),
        ((Model(Own(True)), {nn.Conv2d: taps_of}), ValueError, "name Conv2d: .* which has .*Own"),
        ((Model(HyenaOperator()), None, "9"), TypeError, "taps to be an integer, got '9'"),
        ((Model(HyenaOperator()), None, 2.5), TypeError, "taps to be an integer, got 2.5"),
    ],
)
def test_arguments_that_cannot_be_meant(arguments, error, message):
    with pytest.raises(error, match=message):
        ff.adapt(*arguments)


@pytest.mark.parametrize("example", [[1, 2], torch.zeros(9, dtype=torch.int64)])
def test_an_example_that_is_no_batch(example):
    with pytest.raises(TypeError, match=r"example to be a tensor \(1, T, ...\), got"):
        ff.adapt(Model(HyenaOperator()), example=example)


def test_a_cache_of_a_model_that_is_not_adapted_yet():
    with pytest.raises(ValueError, match=r"has no ff\.nn mixers, .*: ff\.adapt makes them"):
        ff.decode(Model(HyenaOperator()).eval(), random_ids(), 5)


def refused():
    bidirectional, uninitialised, hyper, twice, blocks = (
        LongConv(), GConv(), GConv(), LongConv(), LongConv()
    )  # fmt: skip
    bidirectional.bidirectional = hyper.hyper = blocks.block_fft_conv = True
    uninitialised.kernel_norm_initialized = torch.tensor(False)
    del twice.kernel
    twice.kernel = nn.Parameter(torch.randn(2, WIDTH, 2 * LONGEST))
    both = HyenaOperator()
    both.filter_fn.bidirectional = True
    autoregressive = STU()
    autoregressive.m_y = nn.Parameter(torch.zeros(3))
    return {
        "HyenaOperator with num_heads = 2": SafariHyena(num_heads=2),
        "HyenaOperator with num_blocks = 4": SafariHyena(num_blocks=4),
        "HyenaOperator with post_order_ffn = True": SafariHyena(post_order_ffn=True),
        "HyenaOperator with outer_mixing = True": SafariHyena(outer_mixing=True),
        "HyenaOperator with bidirectional = True": both,
        "LongConv with bidirectional = True": bidirectional,
        "LongConv with block_fft_conv = True": blocks,
        "LongConv with a kernel twice as long": twice,
        "GConv with no kernel_norm": uninitialised,
        "GConv with hyper_act": hyper,
        "STU with m_y": autoregressive,
        "STU with d_in_tile": STU(d_in_tile=2),
        "STU with use_ar_y": STU(use_ar_y=True),
    }


@pytest.mark.parametrize("message", list(refused()))
def test_what_does_not_decode_is_refused_by_class_and_option(message):
    model = Model(refused()[message]).eval()
    with pytest.raises(ValueError, match=message):
        ff.adapt(model)


def test_dropout_in_training_mode_is_refused():
    model = Model(HyenaOperator(dropout=0.1))
    with pytest.raises(ValueError, match=r"Dropout with p = 0\.1 in training mode"):
        ff.adapt(model)
    assert not ff.adapt(model.eval()).training


class Sums(nn.Module):
    """What attention and position embeddings do: other positions, and where one is."""

    def __init__(self, positions):
        super().__init__()
        self.positions = positions

    def forward(self, x):
        if self.positions:
            return torch.arange(x.shape[1])[:, None].to(x.dtype).expand(x.shape)
        return x.cumsum(1)


@pytest.mark.parametrize("positions", [False, True])
def test_what_else_looks_at_other_positions_is_noticed(positions):
    model = Model(OPERATORS["hyena-2"](), Sums(positions)).double().eval()
    with pytest.raises(ValueError, match="something besides the recognised operators"):
        ff.adapt(model)


def test_modules_that_are_called_with_rates_and_lengths():
    adapted = ff.adapt(LongConv())
    with pytest.raises(ValueError, match="without rate and lengths"):
        adapted(torch.randn(1, WIDTH, 5), lengths=[3])
