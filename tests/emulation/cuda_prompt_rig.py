"""Runs the CUDA kernels around a prompt's transforms in the PTX emulator, on CPU tensors."""

from __future__ import annotations

import struct
from typing import Any

import torch
from torch import Tensor

from tests.emulation.cuda_rig import Edits, launch, module

_NAMES = {torch.float32: "f", torch.bfloat16: "13__nv_bfloat16", torch.float16: "6__half"}
_INPUTS, _CHANNELS, _TIME, _THREADS = 1024, 32, 64, 256


def _numbers(*values: int) -> bytes:
    """A struct of int64, as in csrc/cuda/launch.h."""
    return struct.pack(f"{len(values)}q", *values)


def _strides(*tensors: Tensor | None) -> list[bytes]:
    return [_numbers(*((0, 0) if x is None else x.stride()[:2])) for x in tensors]


def run_inputs(
    u: Tensor,
    pre: Tensor | None,
    lengths: Tensor | None,
    x: Tensor,
    held: Tensor | None,
    *,
    arch: str = "sm_80",
    edits: Edits = (),
    checks: bool = True,
) -> Any:
    """The op prefill_inputs, as ``launch_prefill_inputs`` launches it."""
    rows, channels, width = x.shape
    shape = _numbers(u.shape[2], width, channels, rows)
    return launch(
        module("prefill.cu", arch, edits),
        f"prefill_inputsI{_NAMES[u.dtype]}E",
        grid=(-(-width // _INPUTS), channels, rows),
        block=_THREADS,
        args=[u, pre, lengths, x, held, *_strides(u, pre, x, held), shape],
        checks=checks,
    )


def run_outputs(
    z: Tensor,
    u: Tensor,
    pre: Tensor | None,
    post: Tensor | None,
    skip: Tensor | None,
    y: Tensor,
    prompt_fill: Tensor,
    ring: Tensor,
    rows: Tensor,
    starts: Tensor | None,
    ends: Tensor,
    layer: int,
    first_channel: int,
    *,
    arch: str = "sm_80",
    edits: Edits = (),
    checks: bool = True,
) -> Any:
    """The op prefill_outputs, as ``launch_prefill_outputs`` launches it."""
    n_rows, channels, positions = u.shape
    _, batch, _, length, lanes = prompt_fill.shape
    shape = _numbers(positions, length, ring.shape[3], lanes, batch, channels, n_rows)
    span = positions + length + (0 if starts is None else 31)
    return launch(
        module("prefill.cu", arch, edits),
        f"prefill_outputsI{_NAMES[u.dtype]}E",
        grid=(-(-span // _TIME), -(-channels // _CHANNELS), n_rows),
        block=_THREADS,
        args=[
            *(z, u, pre, post),
            None if skip is None else skip[layer, first_channel:],
            y,
            prompt_fill[layer].view(-1)[first_channel:],
            ring[layer].view(-1)[first_channel:],
            *(rows, starts, ends),
            *_strides(z, u, pre, post, y),
            shape,
        ],
        checks=checks,
    )
