"""Programs of models: layout, rows for the op, the same lists in C++, and what the op refuses."""

from __future__ import annotations

import dataclasses
import re
import struct
from pathlib import Path

import pytest
import torch

from futurefill_kernels import FutureFillCache, native, ops
from futurefill_kernels.nn.token import program
from futurefill_kernels.nn.token.builder import build
from futurefill_kernels.nn.token.program import INSTRUCTIONS, WIDTH, Buffer, StreamStep, encode

from .models import CONFIGS, make_model

SOURCE = Path(__file__).parents[3] / "csrc" / "bindings" / "cpu_token.cpp"
needs_source = pytest.mark.skipif(
    not SOURCE.exists(), reason="the C++ sources are not beside the installed package's tests"
)
C_TYPES = {
    "Buffer": "Buffer", "int": "int64_t", "int | None": "int64_t", "bool": "int64_t",
    "float": "double",
}  # fmt: skip


def structs() -> dict[str, list[tuple[str, str]]]:
    """Every plain struct of the C++ source as (type, field) pairs in order."""
    found = {}
    for name, body in re.findall(r"^struct (\w+) \{([^(){}]*)\};", SOURCE.read_text(), re.M):
        fields = re.findall(r"(\w+) ([\w, ]+);", body)
        found[name] = [(kind, f) for kind, names in fields for f in names.split(", ")]
    return found


@needs_source
def test_opcodes_are_those_of_the_engine():
    (names,) = re.findall(r"enum Opcode : int64_t \{([^}]*)\};", SOURCE.read_text())
    assert re.findall(r"\w+", names) == [f"k{i.__name__}" for i in (*INSTRUCTIONS, StreamStep)]


@needs_source
@pytest.mark.parametrize("record", [Buffer, *INSTRUCTIONS, StreamStep])
def test_fields_are_those_of_the_engine(record):
    expected = [(C_TYPES[f.type], f.name) for f in dataclasses.fields(record)]
    assert structs().get(record.__name__, []) == expected


def test_rows():
    x, y = Buffer(1, 2), Buffer(3, 4)
    rows = encode(
        [
            program.Embed(y, 5, 6, 7),
            program.Norm(x, y, 5, 6, 0.25),
            program.Dense(x, y, 5, None, 7, 8, 9, True),
            program.Dense(x, y, 5, 6, 7, 8, 9, False),
            program.ShortConv(x, 3, 4, 5, 6, 7, 8, 9),
            program.Gate(x, y, 5, True),
            program.Load(x, y, 5),
            program.Store(x, y, 5),
            program.Add(x, y, 5),
            StreamStep(1, 2, 3, None, 4, 5, 6),
        ]
    )
    (quarter,) = struct.unpack("q", struct.pack("d", 0.25))
    assert rows.dtype == torch.int64
    assert rows.tolist() == [
        [0, 3, 4, 5, 6, 7, 0, 0, 0, 0, 0],
        [1, 1, 2, 3, 4, 5, 6, quarter, 0, 0, 0],
        [2, 1, 2, 3, 4, 5, -1, 7, 8, 9, 1],
        [2, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0],
        [3, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0],
        [4, 1, 2, 3, 4, 5, 1, 0, 0, 0, 0],
        [5, 1, 2, 3, 4, 5, 0, 0, 0, 0, 0],
        [6, 1, 2, 3, 4, 5, 0, 0, 0, 0, 0],
        [7, 1, 2, 3, 4, 5, 0, 0, 0, 0, 0],
        [8, 1, 2, 3, -1, 4, 5, 6, 0, 0, 0],
    ]
    assert encode([]).shape == (0, WIDTH)


@pytest.mark.parametrize("order", [2, 3])
def test_a_segment_ends_where_a_long_convolution_comes(order):
    config = CONFIGS[0]
    model = make_model(config, order=order)
    token = build(model, 3, 16)
    mixers = [block.mixer for block in model.blocks]
    assert [conv.filter for conv in token.convs] == [f for m in mixers for f in m.filters]
    assert list(token.short_inputs) == [m.short_conv for m in mixers]
    names = [[type(i).__name__ for i in segment] for segment in token.segments]
    mixer = ["Norm", "Dense", "ShortConv"]
    mlp = ["Load", "Dense", "Norm", "Dense", "Gate", "Dense"]
    between = [[]] * (order - 2)
    assert names == [
        *(["Embed", *mixer], *between, [*mlp, *mixer], *between),
        [*mlp, "Norm", "Dense"],
    ]
    for first, second in zip(token.convs, token.convs[1:], strict=False):
        chained = first.post is None
        assert (second.u == first.y) == chained
    assert [conv.post is None for conv in token.convs] == ([True] * (order - 2) + [False]) * 2


def test_segments_of_an_stu_model():
    model = make_model(CONFIGS[3])
    token = build(model, 3, 16)
    assert [conv.filter for conv in token.convs] == [b.mixer.filter for b in model.blocks]
    assert all(conv.pre is None and conv.post is None for conv in token.convs)
    assert token.short_inputs == {}
    names = [[type(i).__name__ for i in segment] for segment in token.segments]
    mixer, mlp = ["Norm", "Dense", "Store"], ["Add", "Norm", "Dense", "Gate", "Dense"]
    assert names == [
        ["Embed", *mixer], [*mlp, *mixer], [*mlp, *mixer], [*mlp, "Norm", "Dense"]
    ]  # fmt: skip


@pytest.mark.parametrize("config", [CONFIGS[0], CONFIGS[3]])
def test_a_gate_has_its_models_activation(config):
    segments = build(make_model(config), 3, 16).segments
    gates = {i.gelu for s in segments for i in s if isinstance(i, program.Gate)}
    assert gates == {config.activation == "gelu"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_memory_has_the_dtype_of_its_model_and_of_its_arithmetic(dtype):
    memory = build(make_model(CONFIGS[0]).to(dtype), 3, 16).memory()
    assert memory.weights.dtype == memory.io.dtype == dtype
    assert memory.scratch.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert memory.nbytes == sum(x.nbytes for x in (memory.weights, memory.scratch, memory.io))


def test_a_program_is_the_same_in_every_dtype():
    model = make_model(dataclasses.replace(CONFIGS[0], norm_eps=1e-5))
    token = build(model, 3, 16)
    double = build(model.double(), 3, 16)
    assert torch.equal(token.weights.double(), double.weights)
    for program_, expected in ((token, 1e-5), (double, 1e-5)):
        (eps,) = {i.eps for s in program_.segments for i in s if isinstance(i, program.Norm)}
        assert eps == expected
    model.norm.eps = None
    last = [i for i in build(model, 3, 16).segments[-1] if isinstance(i, program.Norm)][-1]
    assert last.eps == torch.finfo(torch.float64).eps


def test_a_program_is_of_its_model_alone():
    model = make_model(CONFIGS[1])
    first, second = build(model, 2, 8), build(model, 2, 8)
    assert first.segments == second.segments
    assert torch.equal(first.weights, second.weights)
    assert (first.scratch, first.io) == (second.scratch, second.io)


needs_engine = pytest.mark.skipif(
    native.cpu_unavailable_reason() is not None,
    reason=f"no CPU kernels: {native.cpu_unavailable_reason()}",
)
SIZE = 128  # of weights, scratch and io, enough for the instructions below with two rows


def run(segment, *, ids=((1,), (2,)), rows=None):
    """Run rows of a program or instructions on zeros."""
    code = segment if isinstance(segment, torch.Tensor) else encode(segment)
    chosen = None if rows is None else torch.tensor(rows)
    op = torch.ops.futurefill_kernels.token
    op(code, torch.tensor(ids), chosen, *torch.zeros(3, SIZE), torch.zeros(1, dtype=torch.int64))


def fitting(kind):
    """An instruction that fits."""
    panel = torch.ops.futurefill_kernels.dense_panel(False)  # at most 32
    return {
        program.Embed: program.Embed(Buffer(0, 8), 0, 8, 8),
        program.Norm: program.Norm(Buffer(0, 8), Buffer(16, 8), 0, 8, 1e-5),
        program.Dense: program.Dense(Buffer(0, 2), Buffer(8, panel), 0, 64, 2, 5, panel, False),
        program.ShortConv: program.ShortConv(Buffer(0, 4), 8, 20, 0, 4, 2, 2, 2),
        program.Gate: program.Gate(Buffer(0, 8), Buffer(16, 8), 4, False),
        program.Load: program.Load(Buffer(0, 8), Buffer(16, 8), 4),
        program.Store: program.Store(Buffer(0, 8), Buffer(16, 8), 4),
        program.Add: program.Add(Buffer(0, 8), Buffer(16, 8), 4),
    }[kind]


@needs_engine
@pytest.mark.parametrize("kind", INSTRUCTIONS)
def test_what_fits_runs(kind):
    run([fitting(kind)])


@needs_engine
@pytest.mark.parametrize("opcode", [-1, len(INSTRUCTIONS) + 1])
def test_unknown_opcodes_are_refused(opcode):
    rows = encode([fitting(program.Gate)])
    rows[0, 0] = opcode
    with pytest.raises(RuntimeError, match=rf"expected an opcode in 0 \.\. 8, got {opcode}"):
        run(rows)


@needs_engine
@pytest.mark.parametrize("width", [WIDTH - 1, WIDTH + 1])
def test_rows_of_another_width_are_refused(width):
    with pytest.raises(RuntimeError, match=f"program with size {WIDTH} in dimension 1"):
        run(torch.zeros(1, width, dtype=torch.int64))


@needs_engine
@pytest.mark.parametrize("wrong", [-1, SIZE, 2**62])
@pytest.mark.parametrize(
    ("kind", "field", "place"),
    [
        (program.Embed, "table", "weights"),
        (program.Norm, "scale", "weights"),
        (program.Dense, "weight", "weights"),
        (program.Dense, "bias", "weights"),
        (program.ShortConv, "weight", "weights"),
        (program.ShortConv, "y", "io"),
        (program.ShortConv, "inputs", "io"),
    ],
)
def test_offsets_outside_are_refused(kind, field, place, wrong):
    changed = dataclasses.replace(fitting(kind), **{field: wrong})
    if (field, wrong) == ("bias", -1):
        return run([changed])  # none
    match = rf"values from offset {wrong} on inside {place}, got {SIZE} values in all"
    with pytest.raises(RuntimeError, match=match):
        run([changed])


@needs_engine
@pytest.mark.parametrize(
    ("kind", "field"),
    [(k, f.name) for k in INSTRUCTIONS for f in dataclasses.fields(k) if f.type == "Buffer"],
)
def test_buffers_outside_are_refused(kind, field):
    instruction = fitting(kind)
    buffer = getattr(instruction, field)
    io = (kind, field) in [(program.Load, "x"), (program.Store, "y"), (program.Add, "x")]
    place = "io" if io else "scratch"
    for wrong, match in (
        (Buffer(-1, buffer.stride), f"from offset -1 on inside {place}"),
        (Buffer(SIZE - 1, buffer.stride), f"from offset {SIZE - 1} on inside {place}"),
        (Buffer(buffer.offset, SIZE), f"on inside {place}, got {SIZE} values in all"),
        (Buffer(buffer.offset, -1), "expected a stride of at least 0, got -1"),
    ):
        with pytest.raises(RuntimeError, match=match):
            run([dataclasses.replace(instruction, **{field: wrong})])


@needs_engine
@pytest.mark.parametrize("field", ["u", "pre", "post", "y"])
def test_a_stream_steps_inside_io_alone(field):
    step = StreamStep(1, 0, 0, 8, 16, 24, 4)
    with pytest.raises(RuntimeError, match=f"8 values from offset {SIZE - 7} on inside io"):
        run([dataclasses.replace(step, **{field: SIZE - 7})])
    with pytest.raises(RuntimeError, match="expected the address of a bound stream, got 0"):
        run([dataclasses.replace(step, stream=0)])


@needs_engine
@pytest.mark.parametrize("rows", [None, (1, 0)])
def test_a_stream_steps_as_its_cache_does(rows):
    filters = torch.randn(2, 5, 30)
    cache = FutureFillCache(list(filters), 2, 20)
    other = cache.clone()
    address = ops.bind(other.state, torch.zeros(0))
    io, places = torch.randn(4, 10), torch.zeros(2, SIZE)
    progress = torch.tensor([0])
    chosen = None if rows is None else torch.tensor(rows)
    try:
        code = encode([StreamStep(address, i, 0, 10, 20 if i else None, 30, 5) for i in (0, 1)])
        for step in range(9):
            u, pre, post, y = (x.view(2, 5) for x in io)
            for layer, gate in ((0, None), (1, post)):
                expected = cache.step(u, layer, pre=pre, post=gate, rows=rows)
            ids = torch.zeros(2, 1, dtype=torch.int64)
            torch.ops.futurefill_kernels.token(code, ids, chosen, *places, io.view(-1), progress)
            assert torch.equal(y, expected)
            assert progress.item() == 2 * (step + 1)
        error = encode([StreamStep(address, 2, 0, None, None, 30, 5)])
        with pytest.raises(RuntimeError, match=r"expected layer in 0 \.\. 1, got 2"):
            torch.ops.futurefill_kernels.token(error, ids, None, *places, io.view(-1), progress)
    finally:
        ops.unbind(address)


@needs_engine
def test_weights_of_another_panel_are_refused():
    dense = fitting(program.Dense)
    match = rf"panels of {dense.panel} outputs \(\w+\), got panels of {dense.panel + 1}"
    with pytest.raises(RuntimeError, match=match):
        run([dataclasses.replace(dense, panel=dense.panel + 1)])


@needs_engine
def test_projections_and_taps_are_checked():
    conv = fitting(program.ShortConv)
    for projections in (0, 3):
        with pytest.raises(RuntimeError, match=f"got 4 channels for {projections} projections"):
            run([dataclasses.replace(conv, projections=projections)])
    with pytest.raises(RuntimeError, match="expected taps >= 1, got 0"):
        run([dataclasses.replace(conv, taps=0)])


@needs_engine
def test_rows_outside_the_batch_are_refused():
    conv = fitting(program.ShortConv)
    run([conv], rows=(1, 0))
    for wrong in (-1, 2):
        with pytest.raises(RuntimeError, match=rf"expected rows in 0 \.\. 1, got {wrong}"):
            run([conv], rows=(0, wrong))
    with pytest.raises(RuntimeError, match="expected at most 2 rows, got 3"):
        run([conv], ids=((1,), (2,), (3,)))
    with pytest.raises(RuntimeError, match="expected rows with size 2 in dimension 0"):
        run([conv], rows=(1,))


@needs_engine
@pytest.mark.parametrize("wrong", [-1, 8])
def test_ids_outside_the_vocabulary_are_refused(wrong):
    with pytest.raises(RuntimeError, match=rf"expected ids in 0 \.\. 7, got {wrong}"):
        run([fitting(program.Embed)], ids=((1,), (wrong,)))


@needs_engine
def test_other_dtypes_and_sizes_are_refused():
    op, code = torch.ops.futurefill_kernels.token, encode([fitting(program.Gate)])
    ids, values, progress = torch.tensor([[1], [2]]), torch.zeros(SIZE), torch.tensor([0])
    double, half = values.double(), values.bfloat16()
    for weights, scratch, io, match in (
        (double, values, double, "scratch of dtype float64"),
        (half, double, half, "scratch of dtype float32"),
        (half, half, half, "scratch of dtype float32"),
        (half, values, values, "io of the dtype of weights"),
        (ids[:, 0], values, values, "weights of a floating point dtype"),
    ):
        with pytest.raises(RuntimeError, match=f"expected {match}"):
            op(code, ids, None, weights, scratch, io, progress)
    with pytest.raises(RuntimeError, match="expected ids of dtype int64"):
        op(code, ids.int(), None, values, values, values, progress)
    with pytest.raises(RuntimeError, match="expected rows of dtype int64"):
        op(code, ids, ids[:, 0].int(), values, values, values, progress)
    with pytest.raises(RuntimeError, match="expected progress with size 1"):
        op(code, ids, None, values, values, values, torch.tensor([0, 0]))


@needs_engine
def test_a_refused_segment_has_moved_nothing():
    op = torch.ops.futurefill_kernels.token
    conv, late = fitting(program.ShortConv), program.Add(Buffer(-1, 8), Buffer(16, 8), 4)
    ids, weights, scratch, io = torch.tensor([[1], [2]]), *torch.ones(3, SIZE)
    progress = torch.tensor([5])
    with pytest.raises(RuntimeError, match="from offset -1 on inside io"):
        op(encode([conv, late]), ids, None, weights, scratch, io, progress)
    assert torch.equal(io, torch.ones(SIZE))
    op(encode([conv]), ids, None, weights, scratch, io, progress)
    assert not torch.equal(io, torch.ones(SIZE))
    assert torch.equal(scratch, torch.ones(SIZE))
    assert progress.item() == 6
