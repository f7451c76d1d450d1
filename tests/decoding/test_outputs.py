"""What models return, and of which positions of a prompt logits are made."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

import futurefill_kernels as ff
from tests.decoding.models import make

PROMPTS = [torch.tensor([3, 1, 4]), torch.tensor([1, 5, 9, 2, 6]), torch.tensor([7])]
TWO = torch.ones(2, 3, dtype=torch.int64)


class Wrapped(nn.Module):
    """Returns the logits of a model inside of something."""

    def __init__(self, wrap):
        super().__init__()
        self.inner, self.wrap = make("hyena-3"), wrap

    def forward(self, ids, cache=None):
        return self.wrap(self.inner(ids, cache=cache))


WRAPS = {
    "object": lambda logits: SimpleNamespace(logits=logits),
    "tuple": lambda logits: (logits, None),
    "dictionary": lambda logits: {"logits": logits},
}


@pytest.mark.parametrize("wrap", WRAPS)
def test_logits_inside_of_something(wrap):
    expected = ff.decode(make("hyena-3"), PROMPTS, 9)
    assert torch.equal(ff.decode(Wrapped(WRAPS[wrap]), PROMPTS, 9), expected)
    assert torch.equal(ff.Decoder(Wrapped(WRAPS[wrap]), 4, 9)(PROMPTS), expected)


@pytest.mark.parametrize(
    ("wrap", "error", "message"),
    [
        (lambda logits: None, TypeError, "got NoneType"),
        (lambda logits: SimpleNamespace(scores=logits), TypeError, "got SimpleNamespace"),
        (lambda logits: (), TypeError, "a tuple that begins with them, got tuple"),
        (lambda logits: logits[0], ValueError, r"logits \(B, T, V\), got \(5, 50\)"),
    ],
)
def test_other_outputs_are_refused(wrap, error, message):
    decoder = ff.Decoder(Wrapped(wrap), 3, 9)
    with pytest.raises(error, match=message):
        decoder(PROMPTS)
    assert decoder.cache.positions.tolist() == [0, 0, 0]


@pytest.mark.parametrize("prompts", [PROMPTS, PROMPTS[:1], torch.stack([PROMPTS[0]] * 2)])
def test_a_language_model_makes_logits_of_the_last_positions(monkeypatch, prompts):
    model = make("language-model")
    expected = [(p, model(p[None])[0, -1].argmax()) for p in prompts]
    seen = []
    linear = nn.functional.linear
    monkeypatch.setattr(
        nn.functional, "linear",
        lambda x, weight, bias=None: (
            seen.append(x.shape) if weight is model.embedding.weight else None,
            linear(x, weight, bias),
        )[1],
    )  # fmt: skip
    new = ff.decode(model, prompts, 2)
    assert new[:, 0].tolist() == [int(token) for _, token in expected]
    assert {shape[1] for shape in seen} == {1}


def test_a_forward_that_takes_logits_to_keep_is_told_of_the_positions():
    asked = []

    class Keeps(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = make("hyena-3")

        def forward(self, ids, cache=None, logits_to_keep=0):
            logits = self.inner(ids, cache=cache)
            if isinstance(logits_to_keep, torch.Tensor):
                asked.append(logits_to_keep.tolist())
                return logits[:, logits_to_keep]
            return logits

    assert torch.equal(ff.decode(Keeps(), PROMPTS, 9), ff.decode(make("hyena-3"), PROMPTS, 9))
    assert asked == [[0, 2, 4]]


def test_prompts_under_an_attention_mask():
    model = make("stu")
    expected = ff.decode(model, PROMPTS, 9)
    ids, mask = torch.full((3, 8), 49), torch.zeros(3, 8, dtype=torch.int64)
    for row, (prompt, start) in enumerate(zip(PROMPTS, (5, 0, 4), strict=True)):
        ids[row, start : start + len(prompt)] = prompt
        mask[row, start : start + len(prompt)] = 1
    for given in (mask, mask.bool(), mask.double()):
        assert torch.equal(ff.decode(model, ids, 9, attention_mask=given), expected)
    decoder = ff.Decoder(model, 3, 9)
    assert torch.equal(torch.stack(list(decoder.iterate(ids, attention_mask=mask)), 1), expected)


@pytest.mark.parametrize(
    ("prompt", "mask", "options", "message"),
    [
        (TWO, torch.ones(2, 4), {}, r"attention_mask \(B, P\) = \(2, 3\) .*\(2, 4\)"),
        (TWO, [[1, 1, 1]] * 2, {}, r"attention_mask .* got list"),
        (TWO, torch.tensor([[1, 1, 0], [1, 0, 1]]), {}, "one run of each row, not in row 1"),
        (TWO, torch.zeros(2, 3), {}, "one run of each row, not in row 0"),
        (TWO, torch.ones(2, 3), {"lengths": [2, 2]}, "expected one of them"),
        (PROMPTS, torch.ones(3, 5), {}, "a list needs none"),
    ],
)  # fmt: skip
def test_bad_masks(prompt, mask, options, message):
    with pytest.raises(ValueError, match=message):
        ff.Decoder(make("stu"), 3, 9)(prompt, 3, attention_mask=mask, **options)


def test_masks_and_stops_need_a_model():
    for options in ({"attention_mask": torch.ones(1, 5)}, {"stop": [[1]]}):
        with pytest.raises(ValueError, match="need a model; filters take next_input"):
            ff.decode(torch.ones(2, 4), torch.ones(1, 2, 5), 3, **options)
