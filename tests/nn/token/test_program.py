"""Programs of models: layout, rows for the op, the same lists in C++, and what the op refuses."""

from __future__ import annotations

import dataclasses
import re
import struct
from pathlib import Path

import pytest
import torch

from futurefill_kernels import native
from futurefill_kernels.nn.token import program
from futurefill_kernels.nn.token.builder import build
from futurefill_kernels.nn.token.program import INSTRUCTIONS, WIDTH, Buffer, encode

from .models import CONFIGS, make_model

SOURCE = Path(__file__).parents[3] / "csrc" / "bindings" / "cpu_token.cpp"
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


def test_opcodes_are_those_of_the_engine():
    (names,) = re.findall(r"enum Opcode : int64_t \{ ([^}]*) \};", SOURCE.read_text())
    assert names.split(", ") == [f"k{i.__name__}" for i in INSTRUCTIONS]


@pytest.mark.parametrize("record", [Buffer, *INSTRUCTIONS])
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
            program.Gate(x, y, 5),
            program.Advance(),
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
        [4, 1, 2, 3, 4, 5, 0, 0, 0, 0, 0],
        [5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    ]
    assert encode([]).shape == (0, WIDTH)


@pytest.mark.parametrize("order", [2, 3])
def test_a_segment_ends_where_a_long_convolution_comes(order):
    config = CONFIGS[0]
    model = make_model(config, order=order)
    token = build(model, 3, 16)
    mixers = [block.mixer for block in model.blocks]
    assert [conv.filter for conv in token.convs] == [f for m in mixers for f in m.filters]
    assert list(token.rings) == [m.short_conv for m in mixers]
    names = [[type(i).__name__ for i in segment] for segment in token.segments]
    mixer = ["Norm", "Dense", "ShortConv"]
    mlp = ["Dense", "Norm", "Dense", "Gate", "Dense"]
    between = [[]] * (order - 2)
    assert names == [
        *(["Embed", *mixer], *between, [*mlp, *mixer], *between),
        [*mlp, "Norm", "Dense", "Advance"],
    ]
    for first, second in zip(token.convs, token.convs[1:], strict=False):
        chained = first.post is None
        assert (second.u == first.y) == chained
    assert [conv.post is None for conv in token.convs] == ([True] * (order - 2) + [False]) * 2


def test_a_program_has_the_dtype_of_its_model():
    model = make_model(CONFIGS[0])
    token = build(model, 3, 16)
    double = build(model.double(), 3, 16)
    assert (token.weights.dtype, double.weights.dtype) == (torch.float32, torch.float64)
    assert torch.equal(token.weights.double(), double.weights)
    (norm,) = {i.eps for s in double.segments for i in s if isinstance(i, program.Norm)}
    assert norm == torch.finfo(torch.float64).eps


def test_a_program_is_of_its_model_alone():
    model = make_model(CONFIGS[1])
    first, second = build(model, 2, 8), build(model, 2, 8)
    assert first.segments == second.segments
    assert torch.equal(first.weights, second.weights)
    assert first.scratch == second.scratch


def run(segment, *, ids=((1,), (2,)), weights=64, scratch=64, seen=(0, 0)):
    """Rows or instructions on zeros. Returns scratch."""
    rows = segment if isinstance(segment, torch.Tensor) else encode(segment)
    values = torch.zeros(scratch)
    torch.ops.futurefill_kernels.token_segment(
        rows, torch.tensor(ids), torch.zeros(weights), values, torch.tensor(seen)
    )
    return values


@pytest.mark.skipif(
    native.cpu_unavailable_reason() is not None,
    reason=f"no CPU kernels: {native.cpu_unavailable_reason()}",
)
class TestRefused:
    """A wrong program raises and touches nothing outside weights and scratch."""

    @pytest.mark.parametrize("opcode", [-1, 6])
    def test_opcode(self, opcode):
        rows = encode([program.Advance()])
        rows[0, 0] = opcode
        with pytest.raises(RuntimeError, match=rf"expected an opcode in 0 \.\. 5, got {opcode}"):
            run(rows)

    @pytest.mark.parametrize("width", [WIDTH - 1, WIDTH + 1])
    def test_width(self, width):
        with pytest.raises(RuntimeError, match=f"program with size {WIDTH} in dimension 1"):
            run(torch.zeros(1, width, dtype=torch.int64))

    def instructions(self) -> list[program.Instruction]:
        """One of each that fits into 64 weights and 64 values of scratch, for two rows."""
        self.panel = panel = torch.ops.futurefill_kernels.dense_panel()
        self.room = 2 * panel + 8
        return [
            program.Embed(Buffer(0, 8), 0, 8, 8),
            program.Norm(Buffer(0, 8), Buffer(16, 8), 0, 8, 1e-5),
            program.Dense(Buffer(0, 2), Buffer(8, panel), 0, None, 2, 5, panel, False),
            program.ShortConv(Buffer(0, 4), 8, 16, 20, 0, 4, 2, 2),
            program.Gate(Buffer(0, 8), Buffer(16, 8), 4),
        ]

    def test_offsets(self):
        for instruction in self.instructions():
            sizes = {"weights": max(64, self.room), "scratch": max(64, self.room)}
            run([instruction], **sizes)
            offsets = {"table": "weights", "scale": "weights", "weight": "weights"}
            if isinstance(instruction, program.ShortConv):
                offsets |= dict.fromkeys(("y", "line", "ring"), "scratch")
            for name, place in offsets.items():
                if not hasattr(instruction, name):
                    continue
                for wrong in (-1, sizes[place], 2**62):
                    changed = dataclasses.replace(instruction, **{name: wrong})
                    with pytest.raises(
                        RuntimeError,
                        match=rf"values from offset {wrong} on inside {place}, got {sizes[place]}",
                    ):
                        run([changed], **sizes)

    def test_buffers(self):
        for instruction in self.instructions():
            size = max(64, self.room)
            for field in dataclasses.fields(instruction):
                if field.type != "Buffer":
                    continue
                buffer = getattr(instruction, field.name)
                for wrong, match in (
                    (Buffer(-1, buffer.stride), "from offset -1 on inside scratch"),
                    (Buffer(size - 1, buffer.stride), f"from offset {size - 1} on inside scratch"),
                    (Buffer(buffer.offset, size), f"on inside scratch, got {size} values in all"),
                    (Buffer(buffer.offset, -1), "expected a stride of at least 0, got -1"),
                ):
                    changed = dataclasses.replace(instruction, **{field.name: wrong})
                    with pytest.raises(RuntimeError, match=match):
                        run([changed], weights=size, scratch=size)

    def test_bias(self):
        dense = dataclasses.replace(self.instructions()[2], bias=64)
        with pytest.raises(RuntimeError, match=f"expected {self.panel} values from offset 64 on"):
            run([dense], weights=64 + self.panel - 1, scratch=self.room)

    def test_weights_of_another_panel(self):
        dense = dataclasses.replace(self.instructions()[2], panel=self.panel + 1)
        match = rf"panels of {self.panel} outputs \(\w+\), got panels of {self.panel + 1}"
        with pytest.raises(RuntimeError, match=match):
            run([dense], scratch=self.room)

    def test_projections_and_taps(self):
        conv = self.instructions()[3]
        for projections in (0, 3):
            with pytest.raises(RuntimeError, match=f"got 4 channels for {projections} projections"):
                run([dataclasses.replace(conv, projections=projections)])
        with pytest.raises(RuntimeError, match="expected taps >= 1, got 0"):
            run([dataclasses.replace(conv, taps=0)])

    def test_ids(self):
        embed = self.instructions()[0]
        for wrong in (-1, 8):
            with pytest.raises(RuntimeError, match=rf"expected ids in 0 \.\. 7, got {wrong}"):
                run([embed], ids=((1,), (wrong,)))

    def test_other_dtypes_and_sizes(self):
        op, rows = torch.ops.futurefill_kernels.token_segment, encode([program.Advance()])
        ids, values, seen = torch.tensor([[1], [2]]), torch.zeros(64), torch.tensor([0, 0])
        with pytest.raises(RuntimeError, match="weights and scratch of dtype float32"):
            op(rows, ids, values.double(), values, seen)
        with pytest.raises(RuntimeError, match="weights and scratch of dtype float32"):
            op(rows, ids, values, values.double(), seen)
        with pytest.raises(RuntimeError, match="expected ids of dtype int64"):
            op(rows, ids.int(), values, values, seen)
        with pytest.raises(RuntimeError, match="expected seen with size 2"):
            op(rows, ids, values, values, seen[:1])
