"""Requests to ``decode`` and ``iterate`` that are refused, of models and of filters."""

from __future__ import annotations

import pytest
import torch

import futurefill_kernels as ff
from tests.bad_calls.refusals import expect_refusal, refusal
from tests.decoding.models import make

IDS = torch.tensor([[1, 2, 3], [4, 5, 6]])
U = torch.zeros(1, 2, 3)

MODEL = {
    "tokens": (lambda m: ff.decode(m, IDS, -1), "max_new_tokens >= 0", "-1"),
    "tokens as a float": (lambda m: ff.decode(m, IDS, 2.0), "max_new_tokens", "integer", "2.0"),
    "no model": (lambda m: ff.decode("model", IDS, 2), "model", "module or a Decoder", "str"),
    "next_input": (lambda m: ff.decode(m, IDS, 2, next_input="relu"), "next_input", "filters"),
    "iterate: tokens": (lambda m: ff.iterate(m, IDS, -1), "max_new_tokens >= 0", "-1"),
    "iterate: no model": (lambda m: ff.iterate(None, IDS, 2), "model", "Decoder", "NoneType"),
    "stop: single ids": (lambda m: ff.decode(m, IDS, 2, stop=[3]), "stop", "stop_ids", "got 3"),
    "stop: nothing": (lambda m: ff.decode(m, IDS, 2, stop=[b""]), "stop", "at least one"),
    "stop: text": (lambda m: ff.decode(m, IDS, 2, stop="end"), "stop='end'", "detokenize"),
    "stop: floats": (lambda m: ff.decode(m, IDS, 2, stop=[[0.5]]), "stop", "integers", "0.5"),
    "mask: of a list": (
        lambda m: ff.decode(m, list(IDS), 2, attention_mask=IDS), "attention_mask", "list",
    ),
    "mask: shape": (
        lambda m: ff.decode(m, IDS, 2, attention_mask=IDS[:1]),
        "attention_mask", "(2, 3)", "(1, 3)",
    ),
    "mask: no tensor": (
        lambda m: ff.decode(m, IDS, 2, attention_mask=[1, 1]), "attention_mask", "(2, 3)", "list",
    ),
    "mask: a hole": (
        lambda m: ff.decode(m, IDS, 2, attention_mask=torch.tensor([[1, 1, 1], [1, 0, 1]])),
        "attention_mask", "one run", "row 1",
    ),
    "mask: nothing": (
        lambda m: ff.decode(m, IDS, 2, attention_mask=0 * IDS), "attention_mask", "row 0",
    ),
    "mask and lengths": (
        lambda m: ff.Decoder(m, 2, 4)(IDS, lengths=[1, 1], attention_mask=IDS),
        "lengths and attention_mask", "one of them",
    ),
    "lengths of a list": (
        lambda m: ff.decode(m, list(IDS), 2, lengths=[1, 1]), "lengths", "list has its own",
    ),
    "an empty row": (lambda m: ff.decode(m, [IDS[0], IDS[0, :0]], 2), "empty prompt", "every row"),
    "a decoder's making": (
        lambda m: ff.decode(ff.Decoder(m, 2, 4), IDS, 2, plan=ff.Plan(4, (2,)), cuda_graph=False),
        "has been made", "plan", "cuda_graph",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", MODEL)
def test_a_refused_request_to_a_model(case):
    call, *parts = MODEL[case]
    expect_refusal(call, make("long-conv"), parts)


FILTERS = {
    "sampler": (lambda h: ff.decode(h, U, 2, sampler=ff.RandomSampler()), "sampler", "next_input"),
    "stop_ids": (lambda h: ff.decode(h, U, 2, stop_ids=[1]), "stop_ids", "need a model"),
    "cuda_graph": (lambda h: ff.decode(h, U, 2, cuda_graph=True), "cuda_graph", "model"),
    "a list": (lambda h: ff.decode(h, [U], 2), "prompt (B, D, P)", "list"),
    "a flat prompt": (lambda h: ff.decode(h, U[0], 2), "prompt (B, D, P)", "(2, 3)"),
    "nothing": (lambda h: ff.decode(h, U[..., :0], 2), "not empty", "(1, 2, 0)"),
    "next_input": (lambda h: ff.decode(h, U, 2, next_input="tanh"), "'relu'", "'tanh'"),
    "lengths": (lambda h: ff.decode(h, U, 2, lengths=[4]), "lengths", "1 .. 3", "[4]"),
    "iterate": (lambda h: ff.iterate(h, U, 2), "model", "Decoder", "Tensor"),
}


@pytest.mark.parametrize("case", FILTERS)
def test_a_refused_request_to_filters(case):
    call, *parts = FILTERS[case]
    expect_refusal(call, torch.randn(2, 30), parts)


class Answers(torch.nn.Module):
    """A mixer, and whatever is to be answered."""

    def __init__(self, answer):
        super().__init__()
        self.mixer, self.answer = ff.nn.LongConv(4, 16), answer

    def forward(self, ids, cache=None):
        self.mixer(torch.zeros(*ids.shape, 4), cache)
        return self.answer(ids)


@pytest.mark.parametrize(
    ("answer", "parts"),
    [
        (lambda ids: {"text": 1}, ("logits (B, T, V)", "dict")),
        (lambda ids: None, ("logits (B, T, V)", "NoneType")),
        (lambda ids: torch.zeros(2, 5), ("logits (B, T, V)", "(2, 5)")),
    ],
)
def test_what_is_no_logits(answer, parts):
    expect_refusal(lambda m: ff.decode(m, IDS, 2), Answers(answer), parts)


@pytest.mark.parametrize("impl", ["cuda", "triton"])
def test_an_implementation_that_cannot_run(impl):
    with refusal(f"impl='{impl}' cannot run on cpu", kind=RuntimeError):
        ff.FutureFillCache(torch.randn(2, 9), 1, 8, impl=impl)
