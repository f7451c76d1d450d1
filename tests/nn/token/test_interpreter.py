"""The engine against the interpreter, and the interpreter against the model."""

from __future__ import annotations

import pytest
import torch

from futurefill_kernels import DecodingCache, native
from futurefill_kernels.nn.token import interpreter, program
from futurefill_kernels.nn.token.builder import build
from futurefill_kernels.nn.token.program import encode

from ...oracles import TOLERANCE, relative_error
from .models import CONFIGS, make_model

needs_engine = pytest.mark.skipif(
    native.cpu_unavailable_reason() is not None,
    reason=f"no CPU kernels: {native.cpu_unavailable_reason()}",
)


def undefined(instruction, scratch):
    """What an instruction may leave as it likes, a view of scratch."""
    if isinstance(instruction, program.ShortConv):
        return scratch[instruction.line : instruction.line + instruction.channels]
    return scratch[:0]


def inputs(instruction, scratch, batch):
    """A short convolution's last inputs, a view of scratch."""
    count = batch * instruction.taps * instruction.channels
    return scratch[instruction.inputs : instruction.inputs + count]


@needs_engine
@pytest.mark.parametrize("taps", [1, 2, 3, 4])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize(
    ("config", "order"), [(CONFIGS[0], 3), (CONFIGS[1], 2), (CONFIGS[3], 2), (CONFIGS[4], 2)]
)
def test_every_instruction_does_what_the_interpreter_says(config, order, batch, taps):
    ops = torch.ops.futurefill_kernels
    model = make_model(config, order=order, short_taps=taps)
    token = build(model, batch, ops.dense_panel())
    weights = token.weights.double()
    scratch = torch.zeros(token.scratch)
    progress = torch.zeros(1, dtype=torch.int64)
    for _ in range(2 * taps + 1):
        ids = torch.randint(config.vocabulary, (batch, 1))
        for number, segment in enumerate(token.segments):
            for instruction in segment:
                expected = scratch.double()
                before = expected.clone()
                interpreter.run_segment([instruction], ids, weights, expected)
                ops.token_segment(encode([instruction]), ids, token.weights, scratch, progress)
                undefined(instruction, expected).copy_(undefined(instruction, scratch))
                same = expected == before
                assert torch.equal(scratch[same].double(), expected[same])
                if isinstance(instruction, program.Embed):
                    assert torch.equal(scratch.double(), expected)
                if isinstance(instruction, program.ShortConv):
                    assert torch.equal(
                        inputs(instruction, scratch, batch).double(),
                        inputs(instruction, expected, batch),
                    )
                assert relative_error(scratch[~same], expected[~same]) < TOLERANCE[torch.float32], (
                    instruction
                )
            if number < len(token.convs):  # what a long convolution gives does not matter
                token.convs[number].views(scratch, batch)[3].normal_()
    assert progress.item() == (2 * taps + 1) * sum(map(len, token.segments))


def direct_convolution(batch, dtype):
    """Long convolutions by their definition, with the history of every filter."""
    history = {}

    def convolve(conv, u, pre, post):
        x = u.clone() if pre is None else pre * u
        past = history.setdefault(conv.filter, [])
        past.insert(0, x)
        taps = conv.filter.taps(len(past)).to(dtype)  # (D, t)
        y = sum(taps[:, lag] * x_then for lag, x_then in enumerate(past))
        if conv.filter.skip is not None:
            y = y + conv.filter.skip * x
        return y if post is None else post * y

    return convolve


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("panel", [8, 16])
@pytest.mark.parametrize(
    ("config", "order", "taps"),
    [*((CONFIGS[0], *sizes) for sizes in ((2, 3), (3, 1), (2, 2), (3, 4))), (CONFIGS[3], 2, 3)],
)
def test_the_interpreters_tokens_are_those_of_the_model(config, order, taps, panel, dtype):
    batch = 3
    model = make_model(config, order=order, short_taps=taps).to(dtype)
    ids = torch.randint(config.vocabulary, (batch, 12))
    token = build(model, batch, panel)
    scratch = token.weights.new_zeros(token.scratch)
    convolve = direct_convolution(batch, dtype)
    got = torch.stack(
        [
            interpreter.run_token(token, ids[:, t : t + 1], scratch, convolve).clone()
            for t in range(12)
        ],
        1,
    )
    cache = DecodingCache(model, batch, 11, impl="reference", fused=False)
    cached = torch.cat([model(ids[:, t : t + 1], cache=cache) for t in range(12)], 1)
    # a model's float32 rounding grows through its layers
    tolerance = 1e-12 if dtype is torch.float64 else 1e-5
    assert relative_error(got, cached) < tolerance
    assert relative_error(got, model(ids)) < tolerance
