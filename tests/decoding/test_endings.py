"""Rows end at ids, at sequences, at text and when the caller has enough."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import futurefill_kernels as ff
from futurefill_kernels.decoding.endings import Rows, held_back, make_ending
from tests.decoding import capturing
from tests.decoding.models import make

STEPS = 20
PLAN = ff.Plan(STEPS, (4, 8))
PROMPTS = [torch.tensor([3, 1, 4]), torch.tensor([1, 5, 9, 2, 6])]


@pytest.fixture(params=[False, True], ids=["launched", "captured"])
def decoder(request, monkeypatch):
    """Of a model whose tokens are launched, or captured."""
    capturing.install(monkeypatch)
    return ff.Decoder(
        make("stu"), 2, STEPS, plan=PLAN, impl="device-books", cuda_graph=request.param
    )


def letters(ids):
    return "".join(chr(97 + i % 26) for i in ids)


def ended(free, ends, pad=7):
    """Tokens (R, N) of rows that end after some of them."""
    expected = free.clone()
    for row, n in enumerate(ends):
        expected[row, n:] = pad
    return expected


def first(free, row, sequence):
    """How many tokens a row has when the sequence is complete, of all where it is not there."""
    ids = free[row].tolist()
    n = len(sequence)
    return next((i + n for i in range(len(ids) - n + 1) if ids[i : i + n] == sequence), len(ids))


def test_sequences_of_ids(decoder):
    free = decoder(PROMPTS)
    for at in (0, 5, STEPS - 3):
        stop = free[0, at : at + 3].tolist()
        expected = ended(free, [first(free, row, stop) for row in (0, 1)])
        assert torch.equal(decoder(PROMPTS, stop=[stop], pad_id=7), expected)
    assert torch.equal(decoder(PROMPTS, stop=[[free[0, 2].item(), 49, 49]]), free)


def test_text(decoder):
    free = decoder(PROMPTS)
    texts = [letters(row) for row in free.tolist()]
    stop = texts[1][6:9]
    expected = ended(free, [t.find(stop) + 3 if stop in t else STEPS for t in texts])
    new = decoder(PROMPTS, stop=stop, detokenize=letters, pad_id=7)
    assert torch.equal(new, expected)


def test_stops_of_both_kinds_and_what_the_callback_sees(decoder):
    free = decoder(PROMPTS)
    one, many = free[0, 4].item(), free[1, 7:9].tolist()
    ends = [
        min(first(free, row, [one]), first(free, row, many)) for row in (0, 1)
    ]  # fmt: skip
    heard = []
    new = decoder(
        PROMPTS, stop_ids=[one], stop=[many], pad_id=7, callback=lambda ids, t: heard.append(ids)
    )
    assert torch.equal(new, ended(free, ends))
    assert torch.equal(torch.stack(heard, 1), new[:, : max(ends)])
    assert decoder.cache.positions.tolist() == [max(ends) - 1] * 2


@pytest.mark.parametrize("at", [0, 1, 6, STEPS - 1])
def test_a_callback_that_returns_true_ends_the_generation(decoder, at):
    free = decoder(PROMPTS)
    for _ in range(2):
        heard = []
        new = decoder(PROMPTS, pad_id=7, callback=lambda ids, t, h=heard: h.append(t) or t == at)
        assert torch.equal(new, ended(free, [at + 1] * 2))
        assert heard == list(range(at + 1))
        assert decoder.cache.positions.tolist() == [at] * 2
    assert torch.equal(decoder(PROMPTS), free)
    assert torch.equal(decoder(PROMPTS, callback=lambda ids, t: 1), free)  # not True itself


def test_a_callback_ends_filters_too():
    h = torch.randn(4, 16, generator=torch.Generator().manual_seed(0)) / 4
    prompt = torch.randn(1, 4, 5, generator=torch.Generator().manual_seed(1))
    free = ff.decode(h, prompt, 9)
    new = ff.decode(h, prompt, 9, callback=lambda u, t: t == 3)
    assert torch.equal(new[..., :4], free[..., :4])
    assert not new[..., 4:].any()


def test_iterating(decoder):
    free = decoder(PROMPTS)
    found = list(decoder.iterate(PROMPTS))
    assert torch.equal(torch.stack(found, 1), free)
    stop = free[0, 3:5].tolist()
    expected = decoder(PROMPTS, stop=[stop], pad_id=7)
    found = torch.stack(list(ff.iterate(decoder, PROMPTS, STEPS, stop=[stop], pad_id=7)), 1)
    assert torch.equal(found, expected[:, : found.shape[1]])
    assert list(decoder.iterate(PROMPTS, 0)) == []


def test_an_iterator_that_is_left(decoder):
    free = decoder(PROMPTS)
    for at in (0, 5, STEPS - 1):
        for t, ids in enumerate(decoder.iterate(PROMPTS)):
            assert ids.tolist() == free[:, t].tolist()
            assert torch.is_grad_enabled()
            if t == 1:
                with pytest.raises(RuntimeError, match="inside another request"):
                    decoder(PROMPTS)
            if t == at:
                break
        assert decoder.cache.positions.tolist() == [at] * 2
    assert torch.equal(decoder(PROMPTS), free)


def test_what_is_wrong_is_said_before_the_first_token(decoder):
    with pytest.raises(ValueError, match="at most batch_size = 2 prompts, got 3"):
        decoder.iterate([*PROMPTS, PROMPTS[0]])
    with pytest.raises(TypeError, match="expected model to be a module or a Decoder, got Tensor"):
        ff.iterate(torch.zeros(2, 4), PROMPTS, 3)
    with pytest.raises(ValueError, match="max_new_tokens >= 0, got -1"):
        ff.iterate(make("stu"), PROMPTS, -1)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"stop": [[]]}, ValueError, "at least one id or character"),
        ({"stop": [""]}, ValueError, "at least one id or character"),
        ({"stop": [3]}, TypeError, r"sequences \(single ids are stop_ids\), got 3"),
        ({"stop": ["ab"]}, TypeError, "stop='ab' needs detokenize="),
        ({"stop": [[3, 50]]}, ValueError, r"ids in 0 \.\. 49 .* got 50"),
    ],
)
def test_bad_stops(decoder, options, error, message):
    new = decoder(PROMPTS, 5)
    with pytest.raises(error, match=message):
        decoder(PROMPTS, 5, **options)
    assert decoder.cache.positions.tolist() == [4, 4]
    assert torch.equal(decoder(PROMPTS, 5), new)


def test_text_of_several_bytes_for_a_character():
    stop = "é→"
    ending = make_ending((), stop, lambda ids: bytes(ids).decode(errors="replace"), 0)
    rows, data = Rows(ending, 1), f"aé-→é{stop}b".encode()
    for at, byte in enumerate(data):
        assert rows.ended == (at == len(data) - 1)
        rows.see(np.array([byte, 1]))
    assert rows.counts == [len(data) - 1]


def test_what_may_be_the_beginning_of_a_stop_is_held_back():
    stops = ["\n\n", "end"]
    for text, size in {"": 0, "a": 0, "a\n": 1, "xe": 1, "xen": 2, "en d": 0, "n": 0}.items():
        assert held_back(text, stops) == size
    assert held_back("abc", []) == 0
