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


DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]


def copy_of(memory, dtype):
    """The same with scratch in the dtype; rounded places stay rounded."""
    return program.Memory(memory.weights, memory.scratch.to(dtype, copy=True), memory.io.clone())


@needs_engine
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("config", "order", "taps", "rows"),
    [
        (CONFIGS[0], 3, 3, [1, 3, 0, 2, 4]),
        (CONFIGS[0], 2, 1, [0]),
        (CONFIGS[1], 2, 4, None),
        (CONFIGS[1], 3, 2, [2, 0]),
        (CONFIGS[3], 2, 3, None),
        (CONFIGS[4], 2, 3, [4, 1]),
    ],
)
def test_every_instruction_does_what_the_interpreter_says(config, order, rows, taps, dtype):
    ops, batch = torch.ops.futurefill_kernels, 3 if rows is None else 5
    model = make_model(config, order=order, short_taps=taps).to(dtype)
    token = build(model, batch, ops.dense_panel(dtype == torch.float64))
    memory = token.memory()
    # arithmetic is of scratch; what is stored is rounded once more
    stored = {torch.bfloat16: 2**-8, torch.float16: 2**-11}.get(dtype, 0)
    computed = TOLERANCE[memory.scratch.dtype]
    progress = torch.zeros(1, dtype=torch.int64)
    chosen = None if rows is None else torch.tensor(rows)
    for _ in range(taps + 2):
        ids = torch.randint(config.vocabulary, (batch if rows is None else len(rows), 1))
        for number, segment in enumerate(token.segments):
            for instruction in segment:
                expected, before = copy_of(memory, torch.float64), copy_of(memory, torch.float64)
                run = range(batch) if rows is None else rows
                interpreter.run_segment([instruction], ids, list(run), expected)
                places = (memory.weights, memory.scratch, memory.io)
                ops.token(encode([instruction]), ids, chosen, *places, progress)
                changes = 0
                for got, wanted, old, rounding in (
                    (memory.scratch.double(), expected.scratch, before.scratch, 0),
                    (memory.io, expected.io, before.io, stored),
                ):
                    same = wanted == old
                    assert torch.equal(got[same], wanted[same])
                    changes += int((~same).sum())
                    error = relative_error(got[~same].double(), wanted[~same].double())
                    assert error <= computed + rounding, instruction
                    if isinstance(instruction, program.Embed | program.Load):
                        assert torch.equal(got, wanted)
                assert changes > 0
                if isinstance(instruction, program.ShortConv):
                    count = batch * taps * instruction.channels
                    inputs = slice(instruction.inputs, instruction.inputs + count)
                    assert torch.equal(memory.io[inputs], expected.io[inputs])
            if number < len(token.convs):  # what a long convolution gives does not matter
                token.convs[number].views(memory.io, len(ids))[3].normal_()
    assert progress.item() == (taps + 2) * sum(map(len, token.segments))


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
    memory, rows = token.memory(), list(range(batch))
    convolve = direct_convolution(batch, dtype)
    got = torch.stack(
        [
            interpreter.run_token(token, ids[:, t : t + 1], rows, memory, convolve).clone()
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


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("outputs", "inputs", "panel"), [(1, 3, 8), (16, 1, 16), (33, 5, 16)])
def test_packed_weights_come_out_in_order(outputs, inputs, panel, dtype):
    weight = torch.arange(1.0, outputs * inputs + 1).view(outputs, inputs).to(dtype)
    panels = program.packed(weight, panel)
    assert panels.shape == (-(-outputs // panel), inputs, panel)
    rows = program.unpacked(panels, program.in_turns(weight)).mT.flatten(0, 1)
    assert torch.equal(rows[:outputs], weight)
    assert not rows[outputs:].any()
    if dtype == torch.bfloat16 and panel == 16:  # two numbers of 32 bits
        assert panels[0, 0, :4].tolist() == rows[[0, 8, 1, 9], 0].tolist()
    elif panel == 16:
        assert panels[0, 0, :4].tolist() == rows[:4, 0].tolist()
