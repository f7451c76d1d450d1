import numpy as np
import pytest
import torch
from torch import nn

import futurefill_kernels as ff
from futurefill_kernels import nn as ffnn
from futurefill_kernels.nn.filters import fft_conv

CHANNELS, CONTEXT = 6, 64

MIXERS = {
    "long-conv": lambda: ffnn.LongConv(CHANNELS, CONTEXT),
    "long-conv-groups-no-skip": lambda: ffnn.LongConv(CHANNELS, CONTEXT, groups=2, skip=False),
    "long-conv-short-filter": lambda: ffnn.LongConv(CHANNELS, 9),
    "hyena-2": lambda: ffnn.Hyena(CHANNELS, CONTEXT),
    "hyena-3": lambda: ffnn.Hyena(CHANNELS, CONTEXT, order=3),
    "hyena-1-tap": lambda: ffnn.Hyena(CHANNELS, CONTEXT, short_taps=1),
    "hyena-5-taps": lambda: ffnn.Hyena(CHANNELS, CONTEXT, short_taps=5),
    "stu-tensorised": lambda: ffnn.STU(CHANNELS, CONTEXT, filters=4),
    "stu-full": lambda: ffnn.STU(CHANNELS, CONTEXT, filters=3, tensorised=False),
}
TOLERANCE = {torch.float32: 2e-5, torch.float64: 1e-12}


class Stack(nn.Module):
    """Different mixers in one model: several streams in one cache."""

    def __init__(self) -> None:
        super().__init__()
        self.mixers = nn.ModuleList(MIXERS[name]() for name in ("hyena-2", "stu-full", "hyena-3"))

    def forward(self, x, cache=None):
        for mixer in self.mixers:
            x = x + mixer(x, cache)
        return x


@pytest.fixture(autouse=True)
def _no_grad():
    torch.manual_seed(0)
    with torch.no_grad():
        yield


def run_split(model, x, splits, cache):
    """Outputs of consecutive calls over x (B, T, D), cut at the given positions."""
    ends = [*splits, x.shape[1]]
    pieces = [model(x[:, a:b], cache) for a, b in zip([0, *splits], ends, strict=True)]
    return torch.cat(pieces, 1)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("name", [*MIXERS, "stack"])
def test_prefill_and_steps_equal_the_parallel_form(name, dtype):
    model = (Stack() if name == "stack" else MIXERS[name]()).to(dtype)
    x = torch.randn(3, 47, CHANNELS, dtype=dtype)
    cache = ff.DecodingCache(model, 3, 30)
    streamed = run_split(model, x, range(17, 47), cache)
    error = (streamed - model(x)).abs().max().item()
    print(f"{name} {dtype}: max difference {error:.2e}")
    assert error < TOLERANCE[dtype]
    assert cache.positions.tolist() == [30, 30, 30]


@pytest.mark.parametrize("seed", range(8))
def test_any_split_into_prompt_chunks_and_steps(seed):
    rng = np.random.default_rng(seed)
    model = Stack().double()
    x = torch.randn(2, 40, CHANNELS, dtype=torch.float64)
    splits = sorted(rng.choice(np.arange(1, 40), size=rng.integers(1, 39), replace=False).tolist())
    streamed = run_split(model, x, splits, ff.DecodingCache(model, 2, 40))
    torch.testing.assert_close(streamed, model(x), rtol=0, atol=1e-12)


def test_logits_of_the_language_model_in_both_modes():
    config = ffnn.LanguageModelConfig(
        vocabulary=50, context_length=CONTEXT, channels=16, layers=3, mlp_hidden=24
    )
    ids = torch.randint(50, (2, 50))
    for dtype, tolerance in TOLERANCE.items():
        model = ffnn.LanguageModel(config).to(dtype)
        cache = ff.DecodingCache(model, 2, 45)
        streamed = run_split(model, ids, range(5, 50), cache)
        error = (streamed - model(ids)).abs().max().item()
        print(f"{dtype}: max difference in logits {error:.2e}")
        assert error < tolerance


def test_right_padded_prompts_continue_as_if_alone():
    model = Stack().double()
    lengths = [1, 7, 4]
    x = torch.randn(3, 20, CHANNELS, dtype=torch.float64)
    cache = ff.DecodingCache(model, 3, 13)
    padded = x[:, :7].clone()
    for row, n in enumerate(lengths):
        padded[row, n:] = 99.0
    with cache.select(lengths=lengths):
        prompt = model(padded, cache)
    # every row continues with its own sequence from its own end
    steps = [
        model(torch.stack([x[b, n + t] for b, n in enumerate(lengths)])[:, None], cache)
        for t in range(13)
    ]
    for b, n in enumerate(lengths):
        alone = model(x[b : b + 1, : n + 13])[0]
        torch.testing.assert_close(prompt[b, :n], alone[:n], rtol=0, atol=1e-12)
        torch.testing.assert_close(
            torch.stack([y[b, 0] for y in steps]), alone[n:], rtol=0, atol=1e-12
        )


def test_rows_step_reset_and_restart_on_their_own():
    model = MIXERS["hyena-2"]().double()
    x = torch.randn(2, 20, CHANNELS, dtype=torch.float64)
    cache = ff.DecodingCache(model, 2, 12)
    model(x[:, :5], cache)
    with cache.select(rows=[1]):
        late = torch.cat([model(x[1:, t : t + 1], cache) for t in range(5, 9)], 1)
    torch.testing.assert_close(late, model(x[1:])[:, 5:9], rtol=0, atol=1e-12)
    cache.reset(rows=[1])
    assert cache.positions.tolist() == [0, 0]
    with cache.select(rows=[1]):
        first = model(x[:1, :3], cache)
    torch.testing.assert_close(first, model(x[:1])[:, :3], rtol=0, atol=1e-12)
    both = model(torch.stack([x[0, 5], x[0, 3]])[:, None], cache)
    torch.testing.assert_close(both[:, 0], model(x[:1])[0, [5, 3]], rtol=0, atol=1e-12)


def test_clone_reorder_and_reset():
    model = Stack().double()
    x = torch.randn(3, 20, CHANNELS, dtype=torch.float64)
    cache = ff.DecodingCache(model, 3, 12)
    run_split(model, x[:, :11], range(8, 11), cache)
    other = cache.clone()
    other.reorder([2, 2, 0])
    swapped = x[[2, 2, 0]]
    y = run_split(model, swapped[:, 11:], range(1, 9), other)
    torch.testing.assert_close(y, model(swapped)[:, 11:], rtol=0, atol=1e-12)
    y = run_split(model, x[:, 11:], range(1, 9), cache)
    torch.testing.assert_close(y, model(x)[:, 11:], rtol=0, atol=1e-12)
    cache.reset()
    y = run_split(model, x[:, :15], range(10, 15), cache)
    torch.testing.assert_close(y, model(x[:, :15]), rtol=0, atol=1e-12)


def test_state_does_not_grow_with_the_prompt():
    model = MIXERS["hyena-3"]()
    sizes = set()
    for prompt in (1, 10, 1000):
        cache = ff.DecodingCache(model, 2, 16)
        model(torch.randn(2, prompt, CHANNELS), cache)
        model(torch.randn(2, 1, CHANNELS), cache)
        sizes.add(cache.nbytes)
    assert len(sizes) == 1


def test_filters_of_equal_shape_share_a_stream():
    cache = ff.DecodingCache(Stack(), 1, 8)
    assert [stream.layers for stream in cache._streams] == [3, 1]


def test_a_rejected_call_changes_nothing():
    model = Stack().double()
    x = torch.randn(2, 10, CHANNELS, dtype=torch.float64)
    cache = ff.DecodingCache(model, 2, 3)
    run_split(model, x[:, :8], range(6, 8), cache)
    with pytest.raises(ValueError, match="expected inputs of 2 rows"):
        model(x[:1, :1], cache)
    with pytest.raises(ValueError, match=r"at most 1 more positions in row 0 .* got 2"):
        model(x[:, 8:], cache)
    with torch.enable_grad(), pytest.raises(ValueError, match="autograd-free"):
        model(x[:, 8:9].clone().requires_grad_(), cache)
    y = model(x[:, 8:9], cache)
    torch.testing.assert_close(y, model(x)[:, 8:9], rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match="at most 0 more positions"):
        model(x[:, 9:], cache)


def test_calls_out_of_order_are_refused():
    model = Stack()
    cache = ff.DecodingCache(model, 1, 4)
    x = torch.randn(1, 4, CHANNELS)
    with pytest.raises(ValueError, match=r"order of model\.modules"):
        model.mixers[1](x, cache)
    model.mixers[0](x, cache)
    with pytest.raises(ValueError, match="clone needs a finished call"):
        cache.clone()
    cache.reset()
    model(x, cache)


def test_a_model_without_mixers_is_refused():
    with pytest.raises(ValueError, match=r"Linear has no ff\.nn mixers"):
        ff.DecodingCache(nn.Linear(2, 2), 1, 4)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ffnn.Hyena(4, 8, order=1), "order >= 2, got 1"),
        (lambda: ffnn.Hyena(4, 8, short_taps=0), "taps >= 1, got 0"),
        (lambda: ffnn.LongConv(4, 8, groups=3), "divide channels = 4, got 3"),
        (lambda: ffnn.LongConv(4, 0), "context_length >= 1, got 0"),
        (lambda: ffnn.STU(4, 8, filters=9), "count <= length = 8, got 9"),
    ],
)
def test_impossible_sizes_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(("length", "taps", "groups"), [(1, 1, 1), (13, 5, 3), (5, 13, 6)])
def test_fft_conv_is_the_package_s_parallel_form_and_has_its_gradient(length, taps, groups):
    u = torch.randn(2, 6, length, dtype=torch.float64)
    h = torch.randn(groups, taps, dtype=torch.float64)
    torch.testing.assert_close(fft_conv(u, h), ff.causal_conv(u, h))
    with torch.enable_grad():
        assert torch.autograd.gradcheck(fft_conv, (u.requires_grad_(), h.requires_grad_()))


def test_training_reaches_every_parameter():
    with torch.enable_grad():
        model = Stack()
        model(torch.randn(1, 12, CHANNELS)).square().sum().backward()
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


def test_spectral_filters_are_the_scaled_eigenvectors():
    index = torch.arange(1, 65, dtype=torch.float64)
    total = index[:, None] + index
    hankel = 2 / (total**3 - total)
    values, vectors = torch.linalg.eigh(hankel)
    expected = (vectors[:, -10:] * values[-10:] ** 0.25).flip(1).T
    found = ffnn.spectral_filters(64, 10)
    signs = (found * expected).sum(1).sign()[:, None]
    torch.testing.assert_close(found * signs, expected, rtol=0, atol=1e-9)


def test_stu_branches_written_out():
    """Both forms against plus and minus branches as the paper states them."""
    x = torch.randn(1, 20, CHANNELS, dtype=torch.float64)
    sign = (1 - 2 * (torch.arange(20) % 2)).double()
    u = x.transpose(1, 2)

    def branches(h, u):
        return fft_conv(u, h), sign * fft_conv(sign * u, h)

    full = MIXERS["stu-full"]().double()
    phi = ffnn.spectral_filters(CONTEXT, 3).float().double()
    plus, minus = zip(*(branches(phi[k : k + 1], u) for k in range(3)), strict=True)
    weights = full.proj.weight.T.reshape(6, CHANNELS, CHANNELS)
    terms = [y.transpose(1, 2) @ w for y, w in zip([*plus, *minus], weights, strict=True)]
    torch.testing.assert_close(full(x), sum(terms), rtol=0, atol=1e-12)

    tensorised = MIXERS["stu-tensorised"]().double()
    h = tensorised.filter.mix @ ffnn.spectral_filters(CONTEXT, 4).float().double()
    plus, minus = branches(h, tensorised.proj(x).transpose(1, 2))
    torch.testing.assert_close(tensorised(x), (plus + minus).transpose(1, 2), rtol=0, atol=1e-12)
    assert tensorised.filter.taps(CONTEXT)[:, 1::2].abs().max() == 0
