"""What the launchers of csrc/cuda launch, asked of their own C++ (launch_shapes.cpp)."""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from futurefill_kernels.level import Level
from futurefill_kernels.state.tensors import StreamState
from tests.emulation.cuda_compile import SOURCES

#: ``IoType`` of csrc/cuda/params.h
IO_TYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
#: ``Memory`` of csrc/cuda/fill_config.h: shared memory of an SM of sm_86, sm_80 and sm_90
MEMORIES = ("100 KB", "164 KB", "228 KB")
_DIMENSIONS = 6


@dataclass(frozen=True)
class CudaLaunch:
    """One launch. kernel: a C++ expression in ``file``. arguments: pointers, and structs' bytes."""

    file: str
    kernel: str
    grid: tuple[int, int, int]
    threads: int
    shared: int
    arguments: tuple[int | bytes, ...]


@lru_cache(maxsize=1)
def _library() -> ctypes.CDLL:
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "launch_shapes.so"
        source = Path(__file__).with_suffix(".cpp")
        command = [os.environ.get("CXX", "c++"), "-std=c++17", "-shared", "-fPIC", f"-I{SOURCES}"]
        subprocess.run([*command, "-o", library, source], check=True)
        return ctypes.CDLL(str(library))


def _number(name: str, *numbers: int) -> int:
    function = _library()[name]
    function.restype = ctypes.c_int64
    return int(function(*map(ctypes.c_int64, numbers)))


def _json(name: str, *arguments: Sequence[int] | int) -> dict[str, Any]:
    function = _library()[name]
    function.restype = ctypes.c_char_p
    text = function(
        *(
            ctypes.c_int64(a) if isinstance(a, int) else (ctypes.c_int64 * len(a))(*a)
            for a in arguments
        )
    )
    if text is None:
        raise ValueError(f"{name} has no such kernel")
    found = json.loads(text)
    assert isinstance(found, dict)
    return found


def _launch(name: str, *arguments: Sequence[int] | int) -> CudaLaunch:
    found = _json(name, *arguments)
    values = [bytes.fromhex(a) if isinstance(a, str) else a for a in found.pop("arguments")]
    return CudaLaunch(**found | {"grid": tuple(found["grid"])}, arguments=tuple(values))


def _rows(*tensors: Tensor | None) -> list[int]:
    """``TensorRow`` of launch_shapes.cpp for every tensor."""
    numbers: list[int] = []
    for x in tensors:
        shape, strides = ((), ()) if x is None else (x.shape, x.stride())
        numbers.append(0 if x is None else x.data_ptr())
        for sizes in (shape, strides):
            numbers += [*sizes, *[0] * (_DIMENSIONS - len(sizes))]
    return numbers


def _state(state: StreamState) -> tuple[list[int], int, int]:
    """The tensors, channels per filter, and the plan's length."""
    tensors = (
        *(state.ring, state.open_block, state.kept, state.spectra, state.taps, state.skip),
        *(state.positions, state.token_at, state.undo, state.history),
    )
    rows = [*_rows(*tensors), IO_TYPES[state.ring.dtype]]
    return rows, state.layout.channels // state.layout.groups, state.length


def _level(level: Level) -> list[int]:
    return [
        *(level.block, level.transform, level.radix, level.n_spectra),
        *(level.kept_offset, level.spectra_offset, level.late, level.extra),
    ]


def future_fill(
    state: StreamState, level: Level, rows: Tensor | None, first: int, last: int, memory: int
) -> CudaLaunch:
    """Of channels first .. last-1, on an SM with MEMORIES[memory]."""
    tensors, *sizes = _state(state)
    return _launch("future_fill", tensors, _rows(rows), _level(level), *sizes, first, last, memory)


def early_fill(
    state: StreamState, level: Level, rows: Tensor | None, first: int, last: int, memory: int
) -> CudaLaunch:
    """As future_fill, of a level whose spectra lie in tiles."""
    tensors, *sizes = _state(state)
    return _launch("early_fill", tensors, _rows(rows), _level(level), *sizes, first, last, memory)


def long_fill(
    state: StreamState,
    level: Level,
    rows: Tensor | None,
    scratch: Tensor,
    twist: Tensor,
    first_layer: int,
    first_channel: int,
    *,
    memory: int,
) -> list[CudaLaunch]:
    """The three passes over scratch (layers, R, n, width, 2)."""
    tensors, *sizes = _state(state)
    given = (tensors, _rows(scratch, twist, rows), _level(level), *sizes)
    return [_launch("long_fill", *given, first_layer, first_channel, memory, i) for i in range(3)]


def history(state: StreamState, rows: Tensor | None) -> CudaLaunch:
    """Of all layers."""
    tensors, *sizes = _state(state)
    return _launch("history", tensors, _rows(rows), *sizes)


def apply_step(
    state: StreamState,
    u: Tensor,
    pre: Tensor | None,
    post: Tensor | None,
    y: Tensor,
    rows: Tensor | None,
    layer: int,
    advance: bool,
) -> CudaLaunch:
    """One token of one layer."""
    tensors, *sizes = _state(state)
    given = _rows(u, pre, post, y, rows)
    return _launch("apply_step", tensors, given, IO_TYPES[u.dtype], *sizes, layer, int(advance))


def prefill_inputs(*tensors: Tensor | None) -> CudaLaunch:
    """Of the op's tensors u, pre, lengths, x, held."""
    u = tensors[0]
    assert u is not None
    return _launch("prefill_inputs", _rows(*tensors), IO_TYPES[u.dtype])


def prefill_outputs(*tensors: Tensor | None, layer: int, first_channel: int) -> CudaLaunch:
    """Of the op's tensors z, u, pre, post, skip, y, prompt_fill, ring, rows, starts, ends."""
    u, ring = tensors[1], tensors[7]
    assert u is not None
    assert ring is not None
    types = IO_TYPES[u.dtype], IO_TYPES[ring.dtype]
    return _launch("prefill_outputs", _rows(*tensors), *types, layer, first_channel)


def fill_config(block: int, memory: int = 1) -> SimpleNamespace:
    """``FillConfig`` of a block size, with what it derives: width, group, threads, shared_bytes."""
    return SimpleNamespace(**_json("fill_configuration", block, memory))


def node_config(points: int, memory: int = 1) -> SimpleNamespace:
    """Likewise of a node of three passes."""
    return SimpleNamespace(**_json("node_configuration", points, memory))


def least_memory(block: int, memory: int) -> int:
    """The least memory, an index into MEMORIES, that has the same configuration."""
    return _number("least_memory", block, memory)


def least_node_memory(points: int, memory: int) -> int:
    """Likewise of a node."""
    return _number("least_node_memory", points, memory)


def memories(block: int) -> list[int]:
    """Indices into MEMORIES for which a block has a configuration of its own."""
    return [m for m in range(len(MEMORIES)) if least_memory(block, m) == m]


def memory_of(shared_bytes: int) -> int:
    """Index into MEMORIES of a device, by the shared memory of an SM."""
    return _number("memory_of_bytes", shared_bytes)
