"""A prompt's two kernels of ``impl="triton"`` as ops."""

from __future__ import annotations

import torch
from torch import Tensor

from ...checks import dtype_names
from ..base import PromptKernels
from .checks import IO_DTYPES, check_device, check_indices, expect

_SCHEMAS = {
    "triton_prefill_inputs": "(Tensor u, Tensor? pre, Tensor? lengths, Tensor(a!) x, "
    "Tensor(b!)? held) -> ()",
    "triton_prefill_outputs": "(Tensor z, Tensor u, Tensor? pre, Tensor? post, Tensor? skip, "
    "Tensor(a!) y, Tensor(b!) prompt_fill, Tensor(c!) ring, Tensor rows, Tensor? starts, "
    "Tensor ends, int layer, int first_channel) -> ()",
}


def _check_tokens(u: Tensor, **others: Tensor | None) -> None:
    """u and tensors of its shape and dtype: (R, C, P) of any strides of rows and channels."""
    expect(u.ndim == 3 and u.numel() > 0, "u", "(R, C, P)", tuple(u.shape))
    expect(u.dtype in IO_DTYPES, "u", f"of dtype {dtype_names(IO_DTYPES)}", u.dtype)
    for label, x in {"u": u, **others}.items():
        if x is not None:
            expect(x.shape == u.shape, label, f"(R, C, P) = {tuple(u.shape)}", tuple(x.shape))
            expect(x.dtype == u.dtype, label, f"of dtype {u.dtype}", x.dtype)
            _check_time(u.device, label, x)


def _check_time(device: torch.device, label: str, x: Tensor) -> None:
    contiguous = x.stride(2) == 1 or x.shape[2] == 1
    expect(contiguous, label, "with a stride of 1 in time", f"strides {x.stride()}")
    expect(x.device == device, label, f"on {device}", x.device)


def _prefill_inputs(
    u: Tensor, pre: Tensor | None, lengths: Tensor | None, x: Tensor, held: Tensor | None
) -> None:
    _check_tokens(u, pre=pre)
    rows, channels, positions = u.shape
    shape = f"({rows}, {channels}, {positions} or more)"
    wide = x.ndim == 3 and x.shape[:2] == u.shape[:2] and x.shape[2] >= positions
    expect(wide, "x", shape, tuple(x.shape))
    if held is not None:
        expect(held.shape == u.shape, "held", f"(R, C, P) = {tuple(u.shape)}", tuple(held.shape))
    for label, result in (("x", x), ("held", held)):
        if result is not None:
            expect(result.dtype == torch.float32, label, "of dtype float32", result.dtype)
            _check_time(u.device, label, result)
    check_indices(u.device, lengths=lengths)
    expect(lengths is None or len(lengths) == rows, "lengths", f"of {rows} rows", lengths)
    check_device(u.device)
    from .launch import prefill_inputs_launch

    prefill_inputs_launch(u, pre, lengths, x, held).run()


def _prefill_outputs(
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
) -> None:
    _check_tokens(u, pre=pre, post=post, y=y)
    n_rows, channels, positions = u.shape
    for label, x in (("prompt_fill", prompt_fill), ("ring", ring)):
        expect(x.ndim == 5 and x.shape[2] == 1, label, "(layers, B, 1, N, C)", tuple(x.shape))
    layers, batch, _, length, lanes = prompt_fill.shape
    same = ring.shape[:2] == (layers, batch) and ring.shape[4] == lanes and ring.shape[3] >= length
    expect(same, "ring", f"of the sizes of prompt_fill {tuple(prompt_fill.shape)}", ring.shape)
    for label, state in (("z", z), ("prompt_fill", prompt_fill), ("ring", ring), ("skip", skip)):
        if state is not None:
            expect(state.dtype == torch.float32, label, "of dtype float32", state.dtype)
            expect(state.device == u.device, label, f"on {u.device}", state.device)
            expect(
                label == "z" or state.is_contiguous(), label, "contiguous",
                f"strides {state.stride()}",
            )  # fmt: skip
    n = positions + length
    wide = z.ndim == 3 and z.shape[:2] == u.shape[:2] and z.shape[2] >= n
    expect(wide, "z", f"({n_rows}, {channels}, {n} or more)", tuple(z.shape))
    _check_time(u.device, "z", z)
    if skip is not None:
        expect(skip.shape == (layers, lanes), "skip", f"({layers}, {lanes})", tuple(skip.shape))
    check_indices(u.device, rows=rows, starts=starts, ends=ends)
    for label, index in (("rows", rows), ("starts", starts), ("ends", ends)):
        expect(index is None or len(index) == n_rows, label, f"of {n_rows} rows", index)
    expect(0 <= layer < layers, "layer", f"in 0 .. {layers - 1}", layer)
    most = lanes - channels
    expect(0 <= first_channel <= most, "first_channel", f"in 0 .. {most}", first_channel)
    check_device(u.device)
    from .launch import prefill_outputs_launch

    prefill_outputs_launch(
        z, u, pre, post, skip, y, prompt_fill, ring, rows, starts, ends, layer, first_channel
    ).run()


def _no_output(*args: object, **kwargs: object) -> None:
    return None


_library = torch.library.Library("futurefill_kernels", "FRAGMENT")
for _name, _function in (
    ("triton_prefill_inputs", _prefill_inputs),
    ("triton_prefill_outputs", _prefill_outputs),
):
    _library.define(_name + _SCHEMAS[_name])
    for _key in ("CUDA", "CPU"):
        _library.impl(_name, _function, _key)
    torch.library.register_fake(f"futurefill_kernels::{_name}", _no_output, lib=_library)


def prompt_kernels() -> PromptKernels:
    """The ops before and after a prompt's transforms."""
    ops = torch.ops.futurefill_kernels
    return PromptKernels(ops.triton_prefill_inputs, ops.triton_prefill_outputs)
