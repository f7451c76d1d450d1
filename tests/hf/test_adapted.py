"""A model of public code as one of transformers: generate, folders, what is shared and precise."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

transformers = pytest.importorskip(
    "transformers", minversion="5", reason="ff.hf needs transformers: pip install '.[hf]'"
)

import futurefill_kernels as ff  # noqa: E402
from bench.harness import public_code  # noqa: E402
from bench.harness.public_models import hyena_dna  # noqa: E402
from futurefill_kernels import hf  # noqa: E402
from tests.adapting import standins  # noqa: E402
from tests.hf.test_generation import CACHE  # noqa: E402

pytestmark = pytest.mark.cpu_only("stand-ins of public code")
VOCABULARY, LONGEST = standins.VOCABULARY, standins.LONGEST


class Config(transformers.PreTrainedConfig):
    model_type = "genome"

    def __init__(self, vocab_size=VOCABULARY, operators=("hyena-2", "hyena-3"), **kwargs):
        self.vocab_size, self.operators = vocab_size, list(operators)
        super().__init__(**kwargs)


class Genome(nn.Module):
    """What people have: tied weights, one module under two names, ids to an object with logits."""

    def __init__(self, operators):
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, standins.WIDTH)
        self.layers = nn.ModuleList(standins.OPERATORS[name]() for name in operators)
        for layer in self.layers:
            if hasattr(layer, "filter_fn"):
                layer.filter_fn.same_net = layer.filter_fn.net
        self.head = nn.Linear(standins.WIDTH, VOCABULARY, bias=False)
        with torch.no_grad():
            self.embedding.weight /= self.embedding.weight.norm(dim=1, keepdim=True)
        self.head.weight = self.embedding.weight

    def forward(self, ids):
        x = self.embedding(ids)
        for layer in self.layers:
            y = nn.functional.rms_norm(layer(x), x.shape[-1:])
            x = nn.functional.rms_norm(x + 3 * y, x.shape[-1:])
        return (8 * self.head(x),)


class GenomeForCausalLM(hf.AdaptedForCausalLM):
    config_class = Config

    def build(self, config):
        return ff.adapt(Genome(config.operators).eval())


def make(*operators, dtype=torch.float64):
    torch.manual_seed(0)
    model = GenomeForCausalLM(Config(operators=operators or ("hyena-2", "hyena-3"))).to(dtype)
    return model.eval()


def prompts(rows=2, length=7):
    return torch.randint(VOCABULARY - 1, (rows, length), generator=torch.Generator().manual_seed(1))


def generate(model, ids, **options):
    torch.manual_seed(3)
    if not options.get("use_cache", True):
        options.pop("prompt_lookup_num_tokens", None)  # which cannot draft without
    fixed = {
        "no_repeat_ngram_size": 2,
        "do_sample": False,
        "max_new_tokens": 30,
        "pad_token_id": VOCABULARY - 1,
    }
    return model.generate(ids, **{**fixed, **options})


MODES = {
    "greedy": {},
    "beams": {"num_beams": 4, "num_return_sequences": 2},
    "sampling": {"do_sample": True, "num_return_sequences": 2},
    "lookup": {"prompt_lookup_num_tokens": 4},
}
STU = ("stu-tensorised", "stu-full-plus")


@pytest.mark.parametrize("operators", [("hyena-2", "hyena-3"), STU], ids="+".join)
@pytest.mark.parametrize("mode", MODES)
def test_a_mode_gives_what_recomputation_gives(mode, operators):
    model, ids = make(*operators), prompts(1 if mode == "lookup" else 2)
    new = generate(model, ids, **MODES[mode])
    assert torch.equal(new, generate(model, ids, use_cache=False, **MODES[mode]))
    assert len(set(new[0, 7:].tolist())) > 2


@torch.no_grad()
def test_greedy_tokens_are_those_of_the_model_s_own_forward():
    torch.manual_seed(0)
    original = Genome(("hyena-2",)).double().eval()
    model = GenomeForCausalLM(Config(operators=["hyena-2"]), ff.adapt(original)).eval()
    whole = prompts()
    for _ in range(30):
        whole = torch.cat([whole, original(whole)[0][:, -1].argmax(-1, keepdim=True)], 1)
    assert torch.equal(generate(model, prompts(), no_repeat_ngram_size=0), whole)
    assert list(original.state_dict()) == [n.removeprefix("model.") for n in model.state_dict()]


@pytest.mark.parametrize("operators", [("hyena-2", "hyena-3"), STU], ids="+".join)
@pytest.mark.parametrize("size", ["1GB", "2KB"])
def test_a_folder_gives_the_model_back(operators, size, tmp_path):
    model, ids = make(*operators), prompts()
    model.save_pretrained(tmp_path, max_shard_size=size)
    assert len(list(tmp_path.glob("*.safetensors"))) == (
        1 if size == "1GB" else pytest.approx(5, 4)
    )
    torch.manual_seed(0)  # the stand-in of an STU draws its fixed filters
    loaded = GenomeForCausalLM.from_pretrained(tmp_path)
    assert loaded.dtype == torch.float64
    assert loaded.model.head.weight is loaded.model.embedding.weight
    old, new = model.state_dict(), loaded.state_dict()
    assert old.keys() == new.keys()
    assert all(torch.equal(old[name], new[name]) for name in old)
    with torch.no_grad():
        torch.testing.assert_close(loaded(ids).logits, model(ids).logits)
    assert torch.equal(generate(loaded, ids), generate(model, ids))


def test_weights_under_the_original_s_own_names(tmp_path):
    model, ids = make("hyena-2"), prompts()
    named = {name.removeprefix("model."): x for name, x in model.state_dict().items()}
    model.save_pretrained(tmp_path, state_dict={n: x.clone() for n, x in named.items()})
    loaded = GenomeForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(generate(loaded, ids), generate(model, ids))


@pytest.mark.parametrize("asked", [None, torch.bfloat16, torch.float16], ids=str)
def test_half_precision_keeps_filters_in_float32(asked, tmp_path):
    model, ids = make("hyena-2", "stu-tensorised", dtype=torch.float32), prompts()
    taps = model.model.layers[0].convs[0].taps(LONGEST)
    if asked is None:
        model.bfloat16()
    model.save_pretrained(tmp_path)
    loaded = GenomeForCausalLM.from_pretrained(
        tmp_path, **({} if asked is None else {"dtype": asked})
    )
    dtype = torch.bfloat16 if asked is None else asked
    assert loaded.dtype == loaded.model.embedding.weight.dtype == dtype
    filters = loaded.model.layers[0].filter_fn
    assert {x.dtype for x in filters.state_dict().values()} == {torch.float32}
    assert loaded.model.layers[1].phi.dtype == torch.float32
    assert torch.equal(loaded.model.layers[0].convs[0].taps(LONGEST), taps)
    with torch.no_grad():
        cache = hf.StreamCache(loaded, 20)
        streamed = loaded(ids, **{CACHE: cache}).logits
        assert streamed.dtype == dtype
        full = loaded(ids).logits
        assert (streamed - full).abs().max() < 0.03 * full.abs().max()


def test_copies_are_independent():
    model, ids = make("hyena-2"), prompts()
    expected, other = generate(model, ids), copy.deepcopy(model)
    assert torch.equal(generate(other, ids), expected)
    with torch.no_grad():
        other.model.layers[0].filter_fn.bias.neg_()
        other.model.embedding.weight.neg_()
    assert torch.equal(generate(model, ids), expected)
    assert not torch.equal(generate(other, ids), expected)
    assert torch.equal(generate(other, ids), generate(other, ids, use_cache=False))


def test_a_prompt_longer_than_the_filter_changes_nothing():
    model = make("hyena-2")
    cache = hf.StreamCache(model, 200)
    for call in (
        lambda: model(prompts(1, LONGEST + 1), **{CACHE: cache}),
        lambda: generate(model, prompts(1, LONGEST + 1)),
    ):
        with pytest.raises(ValueError, match=f"at most {LONGEST} positions .HyenaOperator"):
            call()
    assert cache.get_seq_length() == 0
    assert torch.equal(generate(model, prompts(1), **{CACHE: cache}), generate(model, prompts(1)))


class NoBuild(hf.AdaptedForCausalLM):
    config_class = Config


class NoModule(NoBuild):
    def build(self, config):
        return None


@pytest.mark.parametrize(
    ("make_it", "error", "message"),
    [
        (lambda: NoBuild(Config()), TypeError, "NoBuild must define build"),
        (lambda: NoModule(Config()), TypeError, "build to return a module .* got NoneType"),
        (lambda: GenomeForCausalLM(Config(7)), ValueError, "vocab_size = 23, .* got 7"),
        (lambda: GenomeForCausalLM(Config(), nn.Linear(3, 3)), ValueError, "have an embedding"),
    ],
)
def test_what_is_no_model_is_refused(make_it, error, message):
    with pytest.raises(error, match=message):
        make_it()


def test_weights_of_another_model_are_refused(tmp_path):
    make("hyena-2").save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="do not match its configuration"):
        GenomeForCausalLM.from_pretrained(tmp_path, config=Config(operators=["stu-full"]))


@pytest.mark.skipif(
    public_code.missing("hyena-dna") is not None, reason=str(public_code.missing("hyena-dna"))
)
@pytest.mark.parametrize("mode", MODES)
def test_hyena_dna_s_own_code(mode, tmp_path):
    class HyenaDNA(hf.AdaptedForCausalLM):
        config_class = Config

        def build(self, config):
            return ff.adapt(hyena_dna(2, scale=60.0).eval())

    torch.manual_seed(0)
    model = HyenaDNA(Config(vocab_size=12)).double().eval()
    model.save_pretrained(tmp_path)
    loaded = HyenaDNA.from_pretrained(tmp_path)
    ids = prompts(1 if mode == "lookup" else 2) % 12
    expected = generate(model, ids, use_cache=False, **MODES[mode])
    for each in (model, loaded):
        assert torch.equal(generate(each, ids, **MODES[mode]), expected)
