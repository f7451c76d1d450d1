"""Runs the CUDA kernels' PTX in the emulator that FUTUREFILL_PTXEMU names, on CPU tensors."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from futurefill_kernels.implementations.cuda import make_layout, make_spectra
from futurefill_kernels.implementations.gpu_fill_by_fft import fill_by_fft
from futurefill_kernels.plan import Level, Plan
from futurefill_kernels.state.tensors import StreamState, allocate

ROOT = Path(__file__).parents[2]
SOURCES = ROOT / "csrc" / "cuda"
NVCC_FLAGS = ["-std=c++17", "-O3", "--expt-relaxed-constexpr"]

#: replacements (file, text, replacement), each applied once
Edits = tuple[tuple[str, str, str], ...]


def unavailable_reason() -> str | None:
    """Why the kernels cannot run here, or None."""
    if not (SOURCES / "future_fill.cu").exists():
        return "not run from a source tree"
    if not os.environ.get("FUTUREFILL_PTXEMU"):
        return "FUTUREFILL_PTXEMU does not name a PTX emulator"
    if shutil.which("nvcc") is None:
        return "no nvcc"
    return None


def emulator() -> Any:
    """The emulator's module."""
    folder = os.environ["FUTUREFILL_PTXEMU"]
    if folder not in sys.path:
        sys.path.append(folder)
    import ptxemu

    return ptxemu


@lru_cache(maxsize=64)
def module(name: str, arch: str = "sm_80", edits: Edits = ()) -> Any:
    """A kernel file compiled to PTX, with edits (planted faults) applied to the sources."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "cuda"
        shutil.copytree(SOURCES, tree)
        for file, text, replacement in edits:
            source = (tree / file).read_text()
            assert source.count(text) >= 1, f"{text!r} is not in {file}"
            (tree / file).write_text(source.replace(text, replacement, 1))
        out = Path(folder) / "out.ptx"
        command = [
            "nvcc",
            *NVCC_FLAGS,
            "-lineinfo",
            f"-arch={arch}",
            "-ptx",
            "-o",
            out,
            tree / name,
        ]
        subprocess.run(command, check=True, capture_output=True)
        return emulator().Module(out.read_text())


def _members(kind: type, names: str) -> list[tuple[str, type]]:
    return [(name, kind) for name in names.split()]


class FillConfig(ctypes.Structure):
    """The configuration of csrc/cuda/fill_config.h with what it derives."""

    _fields_ = [
        (field, ctypes.c_int)
        for field in (
            "points",
            "middle",
            "last",
            "channels",
            "min_blocks",
            "split",
            "units",
            "staged",
            "group",
            "width",
            "threads",
            "shared_bytes",
        )
    ]


@lru_cache(maxsize=1)
def _config_library() -> ctypes.CDLL:
    code = f"""
    #include "{SOURCES}/fill_config.h"
    #include "{SOURCES}/step_config.h"
    extern "C" int step_rows(int64_t n_rows, int64_t channels) {{
      return futurefill::cuda::step_rows(n_rows, channels);
    }}
    extern "C" int step_threads(int64_t taps) {{ return futurefill::cuda::step_threads(taps); }}
    extern "C" int config_memory(int block, int memory) {{
      return futurefill::cuda::config_memory(block, memory);
    }}
    extern "C" void fill_config(int block, int memory, int* out) {{
      const auto c = futurefill::cuda::fill_config(block, memory);
      const int values[] = {{c.points, c.middle, c.last, c.channels, c.min_blocks, c.split,
                             c.units, c.staged, c.group(), c.width(), c.threads(),
                             c.shared_bytes()}};
      for (int i = 0; i < 12; ++i) out[i] = values[i];
    }}
    """
    with tempfile.TemporaryDirectory() as folder:
        source, library = Path(folder) / "config.cpp", Path(folder) / "config.so"
        source.write_text(code)
        compiler = os.environ.get("CXX", "c++")
        subprocess.run(
            [compiler, "-std=c++17", "-shared", "-fPIC", "-o", library, source], check=True
        )
        return ctypes.CDLL(str(library))


#: shared memory of an SM of sm_86, sm_80 and sm_90, in the order of csrc/cuda/fill_config.h
MEMORIES = ("100 KB", "164 KB", "228 KB")


def config_memory(block: int, memory: int) -> int:
    """The least memory, an index into MEMORIES, that has the same configuration."""
    return int(_config_library().config_memory(block, memory))


def memories(block: int) -> list[int]:
    """Indices into MEMORIES for which a block has a configuration of its own."""
    return [m for m in range(len(MEMORIES)) if config_memory(block, m) == m]


def fill_config(block: int, memory: int = 1) -> FillConfig:
    """How a block size is launched; memory: index into MEMORIES."""
    config = FillConfig()
    _config_library().fill_config(block, memory, ctypes.byref(config))
    return config


def step_config(n_rows: int, channels: int, taps: int) -> tuple[int, int]:
    """Batch rows and threads per thread block of a step."""
    library = _config_library()
    rows = library.step_rows(ctypes.c_int64(n_rows), ctypes.c_int64(channels))
    return rows, library.step_threads(ctypes.c_int64(taps))


class FillShape(ctypes.Structure):
    """``FillShape`` of csrc/cuda/launch.h."""

    _fields_ = [
        (field, ctypes.c_int64)
        for field in (
            "ring_layer",
            "ring_row",
            "kept_layer",
            "kept_row",
            "spectra_layer",
            "lanes",
            "filter_lanes",
            "length",
        )
    ] + [
        (field, ctypes.c_int32)
        for field in (
            "channels",
            "channels_per_filter",
            "first_channel",
            "last_channel",
            "batch",
            "radix",
            "n_spectra",
            "late",
            "extra",
            "unused",
        )
    ]


class ProductShape(ctypes.Structure):
    """``ProductShape`` of csrc/cuda/launch.h."""

    _fields_ = [
        (field, ctypes.c_int64)
        for field in (
            "kept_row",
            "lanes",
            "filter_lanes",
            "length",
            "block",
            "transform",
            "width",
        )
    ] + [
        (field, ctypes.c_int32)
        for field in (
            "first_channel",
            "channels",
            "channels_per_filter",
            "batch",
            "radix",
            "n_spectra",
            "log_transform",
            "late",
            "extra",
            "unused",
        )
    ]


class StepShape(ctypes.Structure):
    """``StepShape`` of csrc/cuda/launch.h."""

    _fields_ = [
        (field, ctypes.c_int64)
        for field in (
            "u_row",
            "pre_row",
            "post_row",
            "y_row",
            "ring_row",
            "lanes",
            "filter_lanes",
            "slots",
        )
    ] + [
        (field, ctypes.c_int32)
        for field in ("n_rows", "channels", "channels_per_filter", "batch", "taps", "advance")
    ]


def make_state(
    filters: Sequence[Tensor],
    plan: Plan,
    batch: int,
    channels: int | None = None,
    skip: Tensor | None = None,
) -> StreamState:
    """A GPU stream's tensors, on the CPU."""
    groups = filters[0].shape[0]
    layout = make_layout(channels or groups, groups, torch.float32, plan)
    return allocate(plan, layout, make_spectra, filters, batch, skip)


def run_fill(
    state: StreamState,
    level: Level,
    rows: Tensor | None = None,
    *,
    arch: str = "sm_80",
    memory: int = 1,
    edits: Edits = (),
    checks: bool = True,
    channels: tuple[int, int] | None = None,
) -> Any:
    """One level's future fill of all layers, as ``launch_future_fill`` launches it.

    channels: those done, default all.
    """
    config = fill_config(level.block, memory)
    ring, kept, spectra, layout = state.ring, state.kept, state.spectra, state.layout
    layers, batch = ring.shape[:2]
    first, last = channels or (0, layout.channels)
    kept_offset, spectra_offset = level.kept_offset, level.spectra_offset
    shape = FillShape(
        ring.stride(0),
        ring.stride(1),
        kept.stride(0),
        kept.stride(1),
        spectra.stride(0),
        layout.lanes * layout.tiles,
        layout.filter_lanes * layout.filter_tiles,
        state.plan.length,
        layout.channels,
        layout.channels // layout.groups,
        first,
        last,
        batch,
        level.radix,
        level.n_spectra,
        level.late,
        level.extra,
        0,
    )
    kept_view, spectra_view = kept.numpy().reshape(-1), spectra.numpy().reshape(-1)
    kept_view = kept_view[kept_offset * 2 * shape.lanes :]
    spectra_view = spectra_view[spectra_offset * 2 * shape.filter_lanes :]
    n_rows = batch if rows is None else len(rows)
    name = f"future_fillI*ConfigOfILi{level.block}ELi{config_memory(level.block, memory)}E"
    return launch(
        module("future_fill.cu", arch, edits),
        name,
        grid=(
            -(-(last - first) // config.group) * config.units // config.staged,
            n_rows,
            layers,
        ),
        block=config.threads,
        shared=config.shared_bytes,
        args=[
            ring.numpy().reshape(-1),
            kept_view if kept_view.size else None,
            spectra_view,
            state.positions.numpy(),
            None if rows is None else rows.numpy(),
            bytes(shape),
        ],
        checks=checks,
    )


def run_products(
    state: StreamState,
    level: Level,
    values: Tensor,
    rows: Tensor,
    layer: int,
    first_channel: int,
    *,
    arch: str = "sm_80",
    edits: Edits = (),
    checks: bool = True,
) -> Any:
    """Spectrum products of one layer, as ``launch_spectrum_products`` launches them."""
    kept, spectra, layout = state.kept[layer], state.spectra[layer], state.layout
    kept_offset, spectra_offset = level.kept_offset, level.spectra_offset
    transform, width = values.shape[1:3]
    shape = ProductShape(
        kept.stride(0),
        layout.lanes,
        layout.filter_lanes,
        state.plan.length,
        level.block,
        transform,
        width,
        first_channel,
        layout.lanes,
        layout.channels // layout.groups,
        kept.shape[0],
        level.radix,
        level.n_spectra,
        transform.bit_length() - 1,
        level.late,
        level.extra,
        0,
    )
    kept_view = kept.numpy().reshape(-1)[kept_offset * 2 * layout.lanes :]
    spectra_view = spectra.numpy().reshape(-1)[spectra_offset * 2 * layout.filter_lanes :]
    return launch(
        module("spectrum_products.cu", arch, edits),
        "spectrum_products",
        grid=(-(-transform // 8), -(-width // 32), len(rows)),
        block=256,
        args=[
            values.numpy().reshape(-1),
            kept_view if kept_view.size else None,
            spectra_view,
            state.positions.numpy(),
            rows.numpy(),
            bytes(shape),
        ],
        checks=checks,
    )


def run_fill_by_fft(
    state: StreamState,
    level: Level,
    rows: Tensor | None = None,
    *,
    channels: tuple[int, int] | None = None,
    **options: Any,
) -> None:
    """One level's future fill through torch.fft, as ``cuda_ops.fill`` does it."""

    def products(values: Tensor, rows: Tensor, layer: int, first_channel: int) -> None:
        run_products(state, level, values, rows, layer, first_channel, **options)

    first, last = channels or (0, state.layout.channels)
    fill_by_fft(state.ring, state.positions, rows, level, state.plan.length, first, last, products)


def run_step(
    state: StreamState,
    u: Tensor,
    pre: Tensor | None,
    post: Tensor | None,
    y: Tensor,
    rows: Tensor | None,
    layer: int,
    advance: bool,
    *,
    arch: str = "sm_80",
    edits: Edits = (),
    checks: bool = True,
) -> Any:
    """One token of one layer, as ``launch_short_range_step`` launches it."""
    layout, n_rows = state.layout, len(u)
    groups = layout.channels // layout.groups
    shape = StepShape(
        u.stride(0),
        0 if pre is None else pre.stride(0),
        0 if post is None else post.stride(0),
        y.stride(0),
        state.ring.stride(1),
        layout.lanes * layout.tiles,
        layout.filter_lanes * layout.filter_tiles,
        state.plan.length,
        n_rows,
        layout.channels,
        groups,
        state.ring.shape[1],
        state.taps.shape[2],
        int(advance),
    )
    row_count, threads = step_config(n_rows, layout.channels, shape.taps)
    io = {torch.float32: "f", torch.bfloat16: "13__nv_bfloat16", torch.float16: "6__half"}[u.dtype]
    return launch(
        module("short_range_step.cu", arch, edits),
        f"short_range_stepI{io}Li{row_count}ELb{int(groups > 1)}E",
        grid=(-(-layout.channels // 8), -(-n_rows // row_count)),
        block=threads,
        args=[
            *(u, pre, post, y),
            state.ring[layer],
            state.taps[layer],
            None if state.skip is None else state.skip[layer],
            state.positions,
            rows,
            bytes(shape),
        ],
        checks=checks,
    )


def launch(mod: Any, name: str, *, checks: bool, **arguments: Any) -> Any:
    """Runs the kernel whose mangled name matches; ``*`` stands for anything."""
    pattern = re.compile(name.replace("*", ".*"))
    (kernel,) = [k for k in mod.kernels if pattern.search(k)]
    if checks:
        arguments |= {"racecheck": True, "initcheck": True}
    return mod.launch(kernel, threads=1, **arguments)
