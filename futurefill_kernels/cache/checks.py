"""Checks of what a caller hands to a cache; each error names what was expected and what came."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ..checks import refuse_grad


def check_input(
    name: str, x: Tensor, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device
) -> None:
    """Check shape, dtype, device and gradient of a token's or a prompt's tensor."""
    if x.shape != shape:
        dims = {2: "(B, D)", 3: "(B, D, P)"}[len(shape)]
        raise ValueError(f"expected {name} {dims} = {tuple(shape)}, got {tuple(x.shape)}")
    if x.dtype != dtype:
        raise TypeError(f"expected {name} of dtype {dtype}, got {x.dtype}")
    if x.device != device:
        raise ValueError(f"expected {name} on {device}, got {x.device}")
    if x.requires_grad:
        refuse_grad(**{name: x})


def check_state_dict(
    state: Mapping[str, Tensor], sizes: tuple[int, int, int, int], dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs, prompt fill and positions of a state_dict that fits a cache.

    sizes: (layers, B, D, N). dtype: of its state.
    """
    expected = {"inputs", "prompt_fill", "positions"}
    if set(state) != expected:
        raise ValueError(f"expected state with keys {sorted(expected)}, got {sorted(state)}")
    inputs, filled, positions = state["inputs"], state["prompt_fill"], state["positions"]
    *front, length = sizes
    batch = sizes[1]
    if filled.shape != (*front, length):
        raise ValueError(
            f"expected prompt_fill (layers, B, D, N) = {(*front, length)}, "
            f"got {tuple(filled.shape)}"
        )
    if positions.shape != (batch,) or positions.dtype != torch.int64:
        raise ValueError(
            f"expected positions (B,) = ({batch},) of int64, "
            f"got {tuple(positions.shape)} of {positions.dtype}"
        )
    if int(positions.min()) < 0 or int(positions.max()) > length:
        raise ValueError(f"expected positions in 0 .. {length}, got {positions.tolist()}")
    if inputs.shape != (*front, int(positions.max())):
        raise ValueError(
            f"expected inputs (layers, B, D, n) = {(*front, int(positions.max()))}, "
            f"got {tuple(inputs.shape)}"
        )
    for name, tensor in (("inputs", inputs), ("prompt_fill", filled)):
        if tensor.dtype != dtype:
            raise TypeError(f"expected {name} of dtype {dtype}, got {tensor.dtype}")
    return inputs, filled, positions
