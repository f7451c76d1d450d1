import inspect

import pytest
import torch
from torch import nn

from futurefill_kernels import Decoder, DecodingCache, FutureFillCache, Plan, causal_conv
from futurefill_kernels import nn as ffnn
from futurefill_kernels.cache.fills import Fills
from futurefill_kernels.decoding.decode import decode, iterate
from futurefill_kernels.decoding.sampling import RandomSampler
from tests.oracles import PRECISE
from tests.recording import SideStreams


class Model(nn.Module):
    """Random weights whose greedy choices wander; small enough for the quadratic specification."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, 16)
        self.mixers = nn.ModuleList(ffnn.Hyena(16, 128) for _ in range(2))
        self.head = nn.Linear(16, 50)

    def forward(self, ids, cache=None):
        x = self.embedding(ids)
        for mixer in self.mixers:
            x = nn.functional.rms_norm(x + mixer(x, cache), (16,))
        return 8 * self.head(x)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return Model().to(PRECISE)


def greedy_without_a_cache(model, prompt, steps):
    """The specification: run the parallel form on everything so far, for every token."""
    ids = prompt[None]
    with torch.no_grad():
        for _ in range(steps):
            ids = torch.cat([ids, model(ids)[:, -1].argmax(-1, keepdim=True)], 1)
    return ids[0, len(prompt) :]


def test_greedy_equals_the_parallel_form(model):
    prompt = torch.randint(50, (2, 9))
    new = decode(model, prompt, 40)
    for row, ids in zip(new, prompt, strict=True):
        assert row.tolist() == greedy_without_a_cache(model, ids, 40).tolist()
    assert len(set(new[0].tolist())) > 3


@pytest.mark.parametrize("blocks", [(40,), (1,), (8,), (4, 8, 16), (3, 15)])
def test_every_plan_gives_the_same_tokens(model, blocks):
    prompt = torch.randint(50, (1, 5))
    expected = greedy_without_a_cache(model, prompt[0], 40)
    assert torch.equal(decode(model, prompt, 40, plan=Plan(40, blocks))[0], expected)


def test_prompts_of_different_length(model):
    prompts = [torch.randint(50, (n,)) for n in (1, 12, 5)]
    new = decode(model, prompts, 20)
    for row, ids in zip(new, prompts, strict=True):
        assert row.tolist() == greedy_without_a_cache(model, ids, 20).tolist()
    padded = torch.nn.utils.rnn.pad_sequence(prompts, batch_first=True, padding_value=999)
    assert torch.equal(decode(model, padded, 20, lengths=[1, 12, 5]), new)


def test_stop_ids_end_rows_on_their_own(model):
    prompts = [torch.randint(50, (n,)) for n in (4, 6)]
    free = decode(model, prompts, 30)
    stop = int(free[0, 3])
    heard = []
    new = decode(
        model, prompts, 30, stop_ids=[stop], pad_id=7, callback=lambda ids, t: heard.append(t)
    )
    for row, unstopped in zip(new.tolist(), free.tolist(), strict=True):
        end = unstopped.index(stop) + 1 if stop in unstopped else 30
        assert row == unstopped[:end] + [7] * (30 - end)
    both = decode(model, prompts[:1], 30, stop_ids=[stop], callback=lambda ids, t: heard.append(t))
    assert heard[-1] == free[0].tolist().index(stop)
    assert both.shape == (1, 30)


def test_callback_and_progress_see_every_token(model, capsys):
    heard = []
    new = decode(
        model, torch.tensor([[1], [2]]), 6, progress=True,
        callback=lambda ids, t: heard.append((t, ids.tolist())),
    )  # fmt: skip
    assert heard == [(t, new[:, t].tolist()) for t in range(6)]
    assert "/6" in capsys.readouterr().err


def test_a_seeded_sampler_repeats(model):
    prompt = torch.randint(50, (2, 4))
    runs = [decode(model, prompt, 15, sampler=RandomSampler(seed=s)) for s in (1, 1, 2)]
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


def test_no_tokens_asked_for(model):
    assert decode(model, torch.tensor([[1, 2]]), 0).shape == (1, 0)
    assert decode(torch.ones(3, 4), torch.ones(2, 3, 5), 0).shape == (2, 3, 0)


@pytest.mark.parametrize("groups", [6, 2])
def test_filters_generate_their_own_inputs(groups):
    torch.manual_seed(1)
    h = torch.randn(groups, 40, dtype=torch.float64) / 40
    prompt = torch.randn(2, 6, 7, dtype=torch.float64)
    new = decode(h, prompt, 30, next_input=torch.tanh)
    whole = torch.cat([prompt, new], 2)
    expected = torch.tanh(causal_conv(whole, h))[:, :, 6:-1]
    torch.testing.assert_close(new, expected, rtol=0, atol=1e-12)
    identity = decode(h, prompt, 3)
    torch.testing.assert_close(identity[:, :, 0], causal_conv(prompt, h)[:, :, -1])


@pytest.mark.parametrize("impl", ["auto", "reference"])
@pytest.mark.parametrize("function", [torch.relu, lambda y: y])
@pytest.mark.parametrize("steps", [1, 2, 300])
def test_named_inputs_are_those_of_a_function(impl, function, steps):
    torch.manual_seed(1)
    h = torch.randn(6, 90, dtype=PRECISE) / 9
    prompt = torch.randn(2, 6, 7, dtype=PRECISE)
    name = "relu" if function is torch.relu else "identity"
    expected = decode(h, prompt, steps, next_input=function, impl=impl, lengths=[4, 7])
    new = decode(h, prompt, steps, next_input=name, impl=impl, lengths=[4, 7])
    assert torch.equal(new, expected)
    seen = []
    again = decode(
        h, prompt, steps, next_input=name, impl=impl, lengths=[4, 7],
        callback=lambda u_t, t: seen.append(t),
    )  # fmt: skip
    assert torch.equal(again, expected)
    assert seen == list(range(steps))


KEPT = {
    "state_dtype": {"state_dtype": torch.bfloat16},
    "filters_dtype": {"filters_dtype": torch.bfloat16},
    "memory": {"memory": "small"},
    "all": {
        "state_dtype": torch.float16, "filters_dtype": torch.bfloat16, "memory": "small",
        "plan": Plan(40, (4, 8, 16)), "impl": "reference",
    },
}  # fmt: skip


@pytest.mark.parametrize("options", KEPT.values(), ids=KEPT)
def test_what_is_kept_is_chosen_as_of_a_cache(options, monkeypatch):
    """Of filters, of a model, and token by token."""
    made, init = [], FutureFillCache.__init__

    def record(self, *args, **given):
        init(self, *args, **given)
        made.append({name: given[name] for name in options})

    torch.manual_seed(1)
    h, prompt = torch.randn(6, 90) / 9, torch.randn(2, 6, 7)
    model = Model()
    monkeypatch.setattr(FutureFillCache, "__init__", record)
    new = decode(h, prompt, 40, **options)
    cache = FutureFillCache(h, 2, 40, **options)
    y = cache.prefill(prompt)[..., -1]
    for t in range(40):
        assert torch.equal(new[..., t], y)
        y = cache.step(y)
    expected = Decoder(model, 2, 40, **options)(IDS)
    assert torch.equal(decode(model, IDS, 40, **options), expected)
    assert torch.equal(torch.stack(list(iterate(model, IDS, 40, **options)), 1), expected)
    assert made == [options] * 5


def test_making_a_decoder_takes_the_same_options_everywhere():
    """Whoever makes one of these finds its options in the others."""

    def names(call):
        return set(inspect.signature(call).parameters)

    of_cache = names(DecodingCache) - {"model", "batch_size", "max_new_tokens"}
    assert of_cache - {"fused"} == names(FutureFillCache) & of_cache
    assert of_cache - {"fused"} <= names(Decoder)
    of_many_calls = {"batch_size", "rollback", "keep_prompt_spectra"}
    for call in (decode, iterate):
        assert names(Decoder) - of_many_calls <= names(call)
    assert names(Decoder.iterate) - {"self"} <= names(iterate)
    assert names(iterate) <= names(decode)


def test_other_names_of_inputs_are_refused():
    with pytest.raises(ValueError, match="a function, 'identity' or 'relu', got 'tanh'"):
        decode(torch.ones(3, 4), torch.ones(2, 3, 5), 2, next_input="tanh")


def test_filters_with_prompts_of_different_length():
    h = torch.randn(3, 20, dtype=torch.float64) / 20
    prompt = torch.randn(2, 3, 9, dtype=torch.float64)
    new = decode(h, prompt, 12, lengths=[4, 9])
    torch.testing.assert_close(new[:1], decode(h, prompt[:1, :, :4], 12))
    torch.testing.assert_close(new[1:], decode(h, prompt[1:], 12))


IDS = torch.tensor([[1, 2, 3]])


@pytest.mark.parametrize(
    ("prompt", "options", "error", "message"),
    [
        (torch.empty(1, 0, dtype=torch.int64), {}, ValueError, "empty prompt"),
        ([torch.tensor([1]), torch.tensor([]).long()], {}, ValueError, "empty prompt"),
        ([], {}, ValueError, "non-empty list of 1-D tensors"),
        (torch.tensor([1, 2]), {}, ValueError, r"prompt ids \(B, P\), got shape \(2,\)"),
        (torch.ones(1, 2), {}, TypeError, "integer dtype, got torch.float32"),
        (torch.tensor([[1, 50]]), {}, ValueError, r"ids in 0 \.\. 49 .* got 50"),
        (torch.tensor([[-1, 4]]), {}, ValueError, r"ids in 0 \.\. 49 .* got -1"),
        (IDS, {"stop_ids": [99]}, ValueError, r"ids in 0 \.\. 49 .* got 99"),
        (IDS, {"lengths": [0]}, ValueError, r"lengths \(1,\) in 1 \.\. 3, got \[0\]"),
        (IDS, {"lengths": [4]}, ValueError, r"lengths \(1,\) in 1 \.\. 3, got \[4\]"),
        ([IDS[0]], {"lengths": [3]}, ValueError, "a list has its own"),
        (IDS, {"next_input": torch.tanh}, ValueError, "next_input needs filters"),
        (IDS, {"plan": Plan(4, (2,))}, ValueError, "max_new_tokens = 5, got 4"),
        (IDS, {"impl": "fast"}, ValueError, "unknown impl 'fast'"),
    ],
)
def test_bad_model_calls_are_refused(model, prompt, options, error, message):
    with pytest.raises(error, match=message):
        decode(model, prompt, 5, **options)


@pytest.mark.parametrize(
    ("prompt", "options", "error", "message"),
    [
        (torch.ones(1, 3, 0), {}, ValueError, "prompt .* not empty, got"),
        (torch.ones(3, 4), {}, ValueError, r"prompt \(B, D, P\)"),
        ([torch.ones(3, 4)], {}, TypeError, r"prompt \(B, D, P\), got list"),
        (torch.ones(1, 4, 4), {}, ValueError, "multiple of G = 3, got 4"),
        (torch.ones(1, 3, 4), {"sampler": RandomSampler()}, ValueError, "need a model"),
    ],
)
def test_bad_filter_calls_are_refused(prompt, options, error, message):
    with pytest.raises(error, match=message):
        decode(torch.ones(3, 8), prompt, 5, **options)


def test_negative_max_new_tokens(model):
    with pytest.raises(ValueError, match="max_new_tokens >= 0, got -1"):
        decode(model, IDS, -1)


def test_decode_passes_a_side_stream_on(model, launches, monkeypatch):
    """Of a model and of filters: every fill runs on it, and what follows a fill waits for it."""
    streams = SideStreams(monkeypatch, launches)
    made: list[FutureFillCache] = []
    init = FutureFillCache.__init__

    def on_the_side(self, *args, fill_stream=None, **options):
        assert fill_stream is streams.side
        init(self, *args, **options)
        # the check wants a CUDA device
        self._fills = Fills(self.state, self.implementation, fill_stream)
        made.append(self)

    plan = Plan(9, (2, 4))
    ids = torch.tensor([[1, 2, 3]])
    h, prompt = torch.randn(3, 9), torch.randn(1, 3, 4)
    expected = [decode(m, p, 9, plan=plan) for m, p in ((model, ids), (h, prompt))]
    monkeypatch.setattr(FutureFillCache, "__init__", on_the_side)
    for (m, p), result in zip(((model, ids), (h, prompt)), expected, strict=True):
        streams.calls.clear()
        got = decode(m, p, 9, plan=plan, impl="recorder", fill_stream=streams.side)
        torch.testing.assert_close(got, result)
        fill = ["side waits for main", ("side", [("fill", 2)]), "main waits for side"]
        wide = ["side waits for main", ("side", [("fill", 4)]), "main waits for side"]
        # 8 steps: nothing follows the last one's fill, the state's memory waits for it
        assert streams.calls == [*fill, *wide, *fill, *wide[:2]]
    assert len(made) == 2
    for cache in made:
        assert any(x is cache.state.ring for x in streams.kept)
