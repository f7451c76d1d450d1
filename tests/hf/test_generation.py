"""``generate`` with a StreamCache gives what recomputation gives, in every mode."""

from __future__ import annotations

import copy
import inspect
from dataclasses import fields

import pytest
import torch

transformers = pytest.importorskip(
    "transformers", minversion="5", reason="ff.hf needs transformers: pip install '.[hf]'"
)

import futurefill_kernels as ff  # noqa: E402
from futurefill_kernels import hf  # noqa: E402
from tests.hf.models import VOCABULARY, make  # noqa: E402

GREEDY = {"do_sample": False, "max_new_tokens": 40, "eos_token_id": VOCABULARY - 1}
CACHE = hf.generation.CACHE


def prompts(rows=2, length=7, seed=1):
    return torch.randint(40, (rows, length), generator=torch.Generator().manual_seed(seed))


def generate(model, ids, **options):
    torch.manual_seed(3)
    return model.generate(ids, **{**GREEDY, "pad_token_id": VOCABULARY - 1, **options})


MODES = {
    "greedy": {},
    "sampling": {"do_sample": True, "num_return_sequences": 2, "temperature": 0.8},
    "beams": {"num_beams": 4},
    "beams, all returned": {"num_beams": 4, "num_return_sequences": 4, "length_penalty": 0.5},
    "beam sampling": {"num_beams": 3, "do_sample": True},
    "penalties": {"repetition_penalty": 1.3, "no_repeat_ngram_size": 2},
}


@pytest.mark.parametrize("padded", [False, True], ids=["equal", "left padded"])
@pytest.mark.parametrize("mixer", ["hyena", "stu"])
@pytest.mark.parametrize("mode", MODES)
def test_a_mode_gives_what_recomputation_gives(mode, mixer, padded):
    model, ids, options = make(mixer), prompts(), dict(MODES[mode])
    if padded:
        options["attention_mask"] = torch.ones_like(ids)
        options["attention_mask"][0, :3] = 0
        ids[0, :3] = VOCABULARY - 1
    new = generate(model, ids, **options)
    assert torch.equal(new, generate(model, ids, use_cache=False, **options))
    assert len(set(new[0, 7:].tolist())) > 2


def test_a_padded_row_is_what_it_is_alone():
    model, ids = make(), prompts()
    mask = torch.ones_like(ids)
    mask[0, :3] = 0
    ids[0, :3] = VOCABULARY + 7  # no id at all
    new = generate(model, ids, attention_mask=mask)
    assert torch.equal(new[:1, 3:], generate(model, ids[:1, 3:]))


def test_prompts_in_chunks():
    model, ids = make(), prompts(length=23)
    mask = torch.ones_like(ids)
    mask[0, :3] = 0
    chunked = generate(model, ids, prefill_chunk_size=5, attention_mask=mask)
    assert torch.equal(chunked, generate(model, ids, use_cache=False, attention_mask=mask))


@pytest.mark.parametrize("padding", [0, 3])
@pytest.mark.parametrize("length", [1, 9])
def test_prompt_lookup(length, padding):
    model = make()
    ids = prompts(1, 4).repeat(1, 4)[:, : length + padding]
    mask = torch.ones_like(ids)
    mask[:, :padding] = 0
    drafted = generate(model, ids, prompt_lookup_num_tokens=5, attention_mask=mask)
    assert torch.equal(drafted, generate(model, ids, use_cache=False, attention_mask=mask))


@pytest.mark.parametrize("seed", [0, 1])
def test_an_assistant(seed):
    model, assistant, ids = make(), make("stu" if seed else "hyena", seed), prompts(1)
    with pytest.raises(ValueError, match="max_cache_len, the longest sequence"):
        generate(model, ids, assistant_model=assistant)
    assistant.generation_config.max_cache_len = 60
    drafted = generate(model, ids, assistant_model=assistant)
    assert torch.equal(drafted, generate(model, ids, use_cache=False))


def test_streamers_and_stopping_criteria():
    model, ids, seen = make(), prompts(1), []

    class Streamer(transformers.generation.streamers.BaseStreamer):
        def put(self, value):
            seen.extend(value.flatten().tolist())

        def end(self):
            seen.append(None)

    def enough(input_ids, scores, **kwargs):
        return torch.full((len(input_ids),), input_ids.shape[1] >= 20)

    criteria = transformers.StoppingCriteriaList([enough])
    new = generate(model, ids, streamer=Streamer(), stopping_criteria=criteria)
    assert new.shape == (1, 20)
    assert seen == [*new[0].tolist(), None]


def test_a_conversation_goes_on_with_its_cache():
    model, ids = make(), prompts(1)
    cache = hf.StreamCache(model, 100)
    first = generate(model, ids, max_new_tokens=10, **{CACHE: cache})
    more = torch.cat([first, prompts(1, 5, seed=2)], 1)
    second = generate(model, more, max_new_tokens=10, **{CACHE: cache})
    assert torch.equal(second, generate(model, more, max_new_tokens=10, use_cache=False))


def test_its_options_are_those_of_a_decoding_cache():
    model, ids = make(), prompts()
    model.float()
    options = {"state_dtype": torch.bfloat16, "filters_dtype": torch.bfloat16, "memory": "small"}
    cache = hf.StreamCache(model, 60, impl="reference", **options)
    new = generate(model, ids, max_new_tokens=20, **{CACHE: cache})
    decoder = ff.Decoder(model.stream_model, 2, 53, impl="reference", **options)
    expected = decoder(ids, 20, stop_ids=[VOCABULARY - 1], pad_id=VOCABULARY - 1)
    assert torch.equal(new[:, 7:], expected[:, : new.shape[1] - 7])
    inside = inspect.signature(ff.DecodingCache).parameters
    sizes = {"model", "batch_size", "max_new_tokens", "rollback"}
    assert set(hf.stream_cache.OPTIONS) == set(inside) - sizes


def test_one_prompt_for_several_streams():
    model, ids = make(), prompts(1, 9)
    prefix = hf.StreamCache(model, 80)
    with torch.no_grad():
        model(ids[:, :6], **{CACHE: prefix})
    for seed in (1, 2):
        whole = torch.cat([ids[:, :6], prompts(1, 3, seed=seed)], 1)
        new = generate(model, whole, **{CACHE: copy.deepcopy(prefix)})
        assert torch.equal(new, generate(model, whole, use_cache=False))
    assert prefix.get_seq_length() == 6


@pytest.mark.parametrize("keep", [0, 1, 3, torch.tensor([0, 4])], ids=str)
def test_logits_of_some_columns(keep):
    model, ids = make(), prompts()
    mask = torch.ones_like(ids)
    mask[0, :3] = 0
    with torch.no_grad():
        cache = hf.StreamCache(model, 20)
        made = model(ids, mask, logits_to_keep=keep, **{CACHE: cache})
        full = model(ids, mask, logits_to_keep=keep).logits
        alone = [model(ids[:1, 3:]).logits[0], model(ids[1:]).logits[0]]
    columns = torch.arange(7)[-keep:] if isinstance(keep, int) else keep
    assert getattr(made, CACHE) is cache
    for row, first in enumerate((3, 0)):
        inside = columns >= first
        expected = alone[row][columns[inside] - first]
        torch.testing.assert_close(made.logits[row, inside], expected)
        torch.testing.assert_close(full[row, inside], expected)


def test_a_loss_with_gradients():
    model, ids = make().train(), prompts()
    loss = model(ids, labels=ids).loss
    expected = torch.nn.functional.cross_entropy(
        model.model(ids)[:, :-1].flatten(0, 1).float(), ids[:, 1:].flatten()
    )
    torch.testing.assert_close(loss.float(), expected)
    loss.backward()
    assert all(p.grad is not None for p in model.parameters())


def bytes_of(cache):
    return {
        name: getattr(inner.state, name).clone()
        for inner in cache.stream.state.caches
        for name in (f.name for f in fields(inner.state))
        if isinstance(getattr(inner.state, name), torch.Tensor)
    }


REFUSED = {
    "another model's cache": (lambda m, i, c: make()(i, **{CACHE: c}), "another model"),
    "keys and values": (
        lambda m, i, c: m(i, **{CACHE: transformers.DynamicCache()}), "to be a StreamCache"),
    "generate with keys and values": (
        lambda m, i, c: generate(m, i, **{CACHE: transformers.DynamicCache()}), "a StreamCache"),
    "static": (lambda m, i, c: generate(m, i, cache_implementation="static"), "only cache"),
    "vocabulary": (lambda m, i, c: m(i + VOCABULARY, **{CACHE: c}), "0 .. 49 .the vocabulary"),
    "negative ids": (lambda m, i, c: m(i - VOCABULARY, **{CACHE: c}), "the vocabulary.*got -"),
    "floats": (lambda m, i, c: m(i.float(), **{CACHE: c}), "integer dtype"),
    "rows": (lambda m, i, c: m(i[:1], **{CACHE: c}), "2 rows, those of the cache, got 1"),
    "no ids": (lambda m, i, c: m(None, **{CACHE: c}), "input_ids"),
    "mask": (lambda m, i, c: m(i, torch.ones(2, 3), **{CACHE: c}), "attention_mask .2, 7."),
    "empty row": (lambda m, i, c: m(i, torch.zeros(2, 7), **{CACHE: c}), "in every row"),
    "no room": (lambda m, i, c: m(prompts(2, 70), **{CACHE: c}), "at most"),
    "use_cache alone": (lambda m, i, c: m(i, use_cache=True), "needs cache=StreamCache"),
    "attentions": (lambda m, i, c: m(i, output_attentions=True, **{CACHE: c}), "attentions"),
    "fewer rows": (lambda m, i, c: c.batch_select_indices(torch.tensor([0])), "use reorder_cache"),
    "more rows": (lambda m, i, c: c.batch_repeat_interleave(2), "repeat input_ids"),
    "keys": (lambda m, i, c: c.update(i, i, 0), "not keys and values"),
    "a layer of keys": (
        lambda m, i, c: c.stream.lazy_initialization(i, i), "not keys and values",
    ),
    "crop": (lambda m, i, c: c.crop(-1), "rollback"),
    "recording late": (lambda m, i, c: c.stream.activate_past_recording(), "begin to record"),
    "a model without streams": (lambda m, i, c: hf.StreamCache(m.model, 9), "stream_model"),
    "an option": (lambda m, i, c: hf.StreamCache(m, 9, rollback=2), "options plan, .*got rollback"),
    "max_length": (lambda m, i, c: hf.StreamCache(m, 0), "max_length >= 1, got 0"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
@torch.no_grad()
def test_a_refused_call_changes_nothing(case):
    call, message = REFUSED[case]
    model, ids = make(), prompts()
    cache = hf.StreamCache(model, 30)
    model(ids, **{CACHE: cache})
    model(ids[:, :1], **{CACHE: cache})
    before = bytes_of(cache)
    with pytest.raises((ValueError, TypeError), match=message):
        call(model, ids, cache)
    after = bytes_of(cache)
    assert all(torch.equal(before[n], after[n]) for n in before)
    assert cache.get_seq_length() == 8
