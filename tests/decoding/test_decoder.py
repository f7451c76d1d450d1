"""Decoder: every request gives what a plain loop gives, launched or captured, and leaves the cache
where the plain loop leaves it.
"""

from __future__ import annotations

import pytest
import torch

import futurefill_kernels as ff
from futurefill_kernels.decoding.sampling import RandomSampler, greedy
from tests.decoding.models import MODELS, make
from tests.decoding.requests import (
    PLAN,
    STEPS,
    StopHereError,
    plain,
    prompts_of,
    rows_as_if_fed,
)

SAMPLERS = {
    "greedy": greedy,
    "temperature": RandomSampler(0.9, seed=5),
    "top-k": RandomSampler(0.9, top_k=7, seed=6),
    "top-p": RandomSampler(1.1, top_p=0.9, seed=[9, 8, 7]),
    "own": lambda logits: (-logits).argmax(-1),
}


@pytest.mark.parametrize("name", MODELS)
def test_tokens_of_every_model(decoder_of, name):
    model, prompts = make(name), prompts_of(3, 9, 1)
    assert torch.equal(decoder_of(model, 3)(prompts), plain(model, prompts, STEPS))
    one = decoder_of(model, 1)(prompts[1][None])
    assert torch.equal(one, plain(model, prompts[1:2], STEPS))
    assert len(set(one[0].tolist())) > 3


@pytest.mark.parametrize("name", SAMPLERS)
def test_tokens_of_every_sampler(decoder_of, name):
    """Of a sampler that the graph holds, and of one that runs behind it."""
    model, prompts, sampler = make("hyena-3"), prompts_of(2, 5, 3), SAMPLERS[name]
    if name == "own" and decoder_of.captured:
        decoder = decoder_of(model, 3, cuda_graph=None)
    else:
        decoder = decoder_of(model, 3)
    expected = plain(model, prompts, STEPS, sampler)
    for _ in range(2):  # a sampler that is used again repeats
        assert torch.equal(decoder(prompts, sampler=sampler), expected)


def test_tokens_with_stops(decoder_of):
    model, prompts = make("stu"), prompts_of(4, 2, 6)
    free = plain(model, prompts, STEPS)
    decoder = decoder_of(model, 3)
    for stops in ([int(free[0, 3])], [int(free[0, 0])], [int(free[1, 15]), int(free[2, 9])]):
        new = decoder(prompts, stop_ids=stops, pad_id=7)
        assert torch.equal(new, plain(model, prompts, STEPS, stop_ids=stops, pad_id=7))
    stops = free[:, 11].tolist()  # every row ends
    heard = []
    new = decoder(prompts, stop_ids=stops, pad_id=7, callback=lambda ids, t: heard.append(ids))
    expected = plain(model, prompts, STEPS, stop_ids=stops, pad_id=7)
    assert torch.equal(new, expected)
    last = len(heard) - 1
    assert last <= 11
    assert torch.stack(heard, 1).tolist() == expected[:, : last + 1].tolist()
    rows_as_if_fed(decoder, model, prompts, expected[:, :last])


@pytest.mark.parametrize("steps", [1, 2, 3, 11, STEPS])
def test_fewer_prompts_and_tokens_than_there_is_room_for(decoder_of, steps):
    model, prompts = make("long-conv"), prompts_of(5, 2)
    decoder = decoder_of(model, 4)
    heard = []
    new = decoder(prompts, steps, callback=lambda ids, t: heard.append((t, ids.tolist())))
    expected = plain(model, prompts, steps)
    assert torch.equal(new, expected)
    assert heard == [(t, expected[:, t].tolist()) for t in range(steps)]
    rows_as_if_fed(decoder, model, prompts, expected[:, :-1])


@pytest.mark.parametrize("name", ["language-model", "stu", "hyena-3"])
def test_requests_of_every_implementation(impl, name):
    """In float32, launched or by real graphs, as the implementation and the device have it."""
    model, prompts = make(name).float(), prompts_of(3, 7, 2)
    free = ff.decode(model, prompts, STEPS, impl="reference")
    decoder = ff.Decoder(model, 4, STEPS, impl=impl)
    for options in (
        {},
        {"callback": lambda ids, t: None},
        {"sampler": RandomSampler(0.8, top_k=20, top_p=0.95, seed=[3, 2, 1])},
        {"sampler": lambda logits: (-logits).argmax(-1)},
        {"stop_ids": free[:, 9].tolist(), "pad_id": 7},
    ):
        expected = ff.decode(model, prompts, STEPS, impl="reference", **options)
        for _ in range(2):
            assert torch.equal(decoder(prompts, **options), expected)

    def callback(ids, t):
        if t == 6:
            raise StopHereError

    with pytest.raises(StopHereError):
        decoder(prompts, callback=callback)
    rows_as_if_fed(decoder, model, prompts, free[:, :6], tolerance=1e-3)


def test_unused_rows_keep_no_request_running(decoder_of):
    model, prompts = make("stu"), prompts_of(4)
    stop = int(plain(model, prompts, 4)[0, 3])
    heard = []
    decoder_of(model, 3)(prompts, stop_ids=[stop], callback=lambda ids, t: heard.append(t))
    assert heard[-1] <= 3


def test_no_tokens(decoder_of):
    decoder = decoder_of(make("stu"), 2)
    assert decoder(prompts_of(3, 4), 0).shape == (2, 0)
    assert decoder(prompts_of(3), 0).shape == (1, 0)


def test_changed_weights_are_noticed_once_per_request(decoder_of):
    model, prompts = make("hyena-3"), prompts_of(3, 5)
    decoder = decoder_of(model, 2)
    before = decoder(prompts)
    cache = decoder.cache
    decoder(prompts)
    assert decoder.cache is cache
    with torch.no_grad():
        model.mixers[0].filters[0].output.weight.mul_(3.0)
    changed = decoder(prompts)
    assert torch.equal(changed, plain(model, prompts, STEPS))
    assert not torch.equal(changed, before)
    assert decoder.cache is not cache
    model.head.weight = torch.nn.Parameter(-model.head.weight.detach())  # another tensor
    assert torch.equal(decoder(prompts), plain(model, prompts, STEPS))


def test_requests_in_inference_mode_and_out_of_it(decoder_of):
    model, prompts = make("stu"), prompts_of(3, 6)
    options = {"sampler": RandomSampler(0.8, seed=1), "stop_ids": [5]}
    expected = plain(model, prompts, STEPS, **options)
    with torch.inference_mode():
        decoder = decoder_of(model, 2)
        assert torch.equal(decoder(prompts, **options), expected)
    assert torch.equal(decoder(prompts, **options), expected)


def test_prompt_spectra_are_kept_from_request_to_request(decoder_of):
    model, prompts = make("stu"), prompts_of(12, 11)
    decoder = decoder_of(model, 2, keep_prompt_spectra=True)
    for _ in range(2):
        assert torch.equal(decoder(prompts, 9), plain(model, prompts, 9))
        kept = decoder.cache.memory().filters["prompts"]
    with torch.no_grad():  # other weights: none of the old ones are read
        for parameter in model.parameters():
            parameter.mul_(1.1)
    assert torch.equal(decoder(prompts, 9), plain(model, prompts, 9))
    assert decoder.cache.memory().filters["prompts"] == kept > 0


def test_decode_reuses_a_decoder(decoder_of):
    model, prompts = make("stu"), prompts_of(3, 6)
    decoder = decoder_of(model, 2)
    expected = plain(model, prompts, 9)
    assert torch.equal(ff.decode(decoder, prompts, 9), expected)
    padded = torch.nn.utils.rnn.pad_sequence(prompts, batch_first=True)
    assert torch.equal(ff.decode(decoder, padded, 9, lengths=[3, 6]), expected)
    with pytest.raises(ValueError, match="plan, impl belong to its making"):
        ff.decode(decoder, prompts, 9, plan=PLAN, impl="cpu")
    options = {
        "cuda_graph": False, "spectra_dtype": torch.float32, "state_dtype": torch.float32,
        "filters_dtype": torch.bfloat16, "memory": "small",
    }  # fmt: skip
    for call in (ff.decode, ff.iterate):
        for name, value in options.items():
            with pytest.raises(ValueError, match=f"{name} belong to its making"):
                call(decoder, prompts, 9, **{name: value})


def test_progress_counts_tokens(decoder_of, capsys):
    decoder_of(make("stu"), 1)(prompts_of(3), 6, progress=True)
    assert "/6" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("prompts", "steps", "options", "error", "message"),
    [
        (3, 5, {}, ValueError, "at most batch_size = 2 prompts, got 3"),
        (2, 21, {}, ValueError, r"max_new_tokens in 0 \.\. 20, .* got 21"),
        (2, -1, {}, ValueError, r"max_new_tokens in 0 \.\. 20, .* got -1"),
        (2, 5, {"sampler": RandomSampler(seed=[1, 2, 3])}, ValueError, r"\(2,\), got \(3,\)"),
        (2, 5, {"stop_ids": [50]}, ValueError, r"ids in 0 \.\. 49 .* got 50"),
        (2, 5, {"pad_id": -1}, ValueError, r"ids in 0 \.\. 49 .* got -1"),
        (2, 5, {"lengths": [1, 1]}, ValueError, "a list has its own"),
    ],
)
def test_bad_requests_change_nothing(decoder_of, prompts, steps, options, error, message):
    model, good = make("stu"), prompts_of(3, 6)
    decoder = decoder_of(model, 2)
    new = decoder(good, 9)
    with pytest.raises(error, match=message):
        decoder(prompts_of(*range(1, prompts + 1)), steps, **options)
    rows_as_if_fed(decoder, model, good, new[:, :-1])
