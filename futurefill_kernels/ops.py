"""The ops of a state as typed functions, and what torch.compile must know of all ops.

Schemas and shapes stand in csrc/bindings/schemas.cpp. The ops write in place and return nothing;
there is no Autograd key: they have no gradients. Each raises RuntimeError that says what was
expected and what came, before anything has changed.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from . import native

#: Ops that write in place.
IN_PLACE = (
    "history",
    "apply_step",
    "future_fill",
    "made_fill",
    "fill_share",
    "due_fills",
    "early_fill",
    "long_fill",
    "prefill_inputs",
    "prefill_outputs",
    "step",
    "generate",
    "offline_conv",
    "prompt_spectrum",
    "prompt_block",
    "prompt_fill",
    "prompt_first_fill",
    "token",
)


class State(Protocol):
    """What the ops of a stream read and write: ``state.tensors.StreamState`` has it.

    ring: (layers, B, tiles, slots, lanes). open_block: (layers, B, tiles, T_0 or 0, lanes). kept:
    (layers, B, tiles, rows, 2, lanes). work: (B, side by side, rows, 2, lanes). positions: (B,)
    int64. taps: (layers, filter tiles, T_0, W or 1). spectra: (layers, filter tiles, rows, 2, W or
    1). skip: (layers, tiles * lanes) or None. levels: (levels, 14) int64 on the CPU. token_at:
    (layers, B) int64. undo: (layers, B, tiles, undo slots, lanes). history: (layers, B, lanes).
    filled: (B,) int64. images: (layers, B, tiles, rows, lanes).
    """

    ring: Tensor
    open_block: Tensor
    kept: Tensor
    work: Tensor
    positions: Tensor
    skip: Tensor | None
    levels: Tensor
    token_at: Tensor
    undo: Tensor
    history: Tensor
    filled: Tensor
    images: Tensor

    @property
    def taps(self) -> Tensor:
        """The short-range taps."""
        ...

    @property
    def spectra(self) -> Tensor:
        """Prepared filters."""
        ...

    @property
    def filters_of_channels(self) -> Tensor:
        """(layers, G, D / G, L), all taps, of stride 0 in the third."""
        ...

    @property
    def length(self) -> int:
        """Positions of the plan."""
        ...

    @property
    def channels(self) -> int:
        """``D``, without padding."""
        ...

    @property
    def channels_per_filter(self) -> int:
        """Channels that a stored filter row serves."""
        ...


def step(
    state: State,
    u: Tensor,
    y: Tensor,
    *,
    pre: Tensor | None = None,
    post: Tensor | None = None,
    rows: Tensor | None = None,
    layer: int = 0,
    advance: bool = True,
) -> None:
    """One token of one layer on the CPU, ``y = post * (conv(pre * u) + skip * pre * u)``.

    u, pre, post, y: (R, D), contiguous in D. rows: (R,) int64 rows of the state, -1 for padding, or
    None for all. advance: whether it is the last layer's: the rows' positions move on. Before
    layer 0 the fills that are due run for all layers, and ``filled`` becomes the rows' positions.
    """
    torch.ops.futurefill_kernels.step(
        u, pre, post, y, state.ring, state.open_block, state.taps, state.skip, state.positions,
        rows, layer, advance, state.kept, state.work, state.spectra, state.filters_of_channels,
        state.levels, state.length, state.undo, state.token_at, state.filled, state.images,
    )  # fmt: skip


def generate(state: State, u: Tensor, y: Tensor) -> None:
    """Steps of one layer on the CPU that feed on themselves: ``u_{t+1} = y_t``.

    u: (B, D). y: (n, B, D), contiguous.
    """
    torch.ops.futurefill_kernels.generate(
        u, y, state.ring, state.open_block, state.taps, state.skip, state.positions, state.kept,
        state.work, state.spectra, state.filters_of_channels, state.levels, state.length,
        state.filled, state.images,
    )  # fmt: skip


def bind(state: State, like: Tensor) -> int:
    """Address of the checked stream for ``native.bound_step``; its tensors must outlive it.

    like: a tensor of the inputs' dtype. Whoever binds calls ``unbind`` once.
    """
    return torch.ops.futurefill_kernels.bind(
        state.ring, state.open_block, state.taps, state.skip, state.positions, state.kept,
        state.work, state.spectra, state.filters_of_channels, state.levels, state.length,
        state.undo, state.token_at, state.filled, state.images, state.channels, like,
    )  # fmt: skip


def unbind(stream: int) -> None:
    """Frees what ``bind`` returned."""
    torch.ops.futurefill_kernels.unbind(stream)


def future_fill(
    state: State,
    index: int,
    rows: Tensor | None,
    first_channel: int = 0,
    last_channel: int | None = None,
) -> None:
    """The fill of level ``index`` of all layers (docs/algorithm.md, equation 3).

    rows: (R,) int64, -1 for padding, or None for all. On a GPU it does the channels first_channel
    .. last_channel - 1, in whole units of 32, default all; on the CPU all of them, of a level
    without slack.
    """
    if last_channel is None:
        last_channel = state.ring.shape[2] * state.ring.shape[4]
    torch.ops.futurefill_kernels.future_fill(
        state.ring, state.open_block, state.kept, state.spectra, state.positions, rows,
        state.levels, state.length, index, first_channel, last_channel, state.channels_per_filter,
    )  # fmt: skip


def early_fill(
    state: State, index: int, rows: Tensor | None, first_channel: int, last_channel: int
) -> None:
    """``future_fill`` on a GPU, of a level in the form of implementations/cuda_early.py."""
    torch.ops.futurefill_kernels.early_fill(
        state.ring, state.open_block, state.kept, state.spectra, state.positions, rows,
        state.levels, state.length, index, first_channel, last_channel, state.channels_per_filter,
    )  # fmt: skip


def long_fill(
    state: State,
    index: int,
    rows: Tensor | None,
    scratch: Tensor,
    twist: Tensor,
    first_layer: int,
    first_channel: int,
) -> None:
    """The fill of level ``index`` in three passes over scratch, of as many layers and channels as
    that has, whole units of 32, on a GPU.

    rows: as of ``future_fill``. scratch: (layers, R, n, width, 2) float32. twist: (n, 2) float32,
    of coefficient k of node s at ``s n / nodes + k``.
    """
    torch.ops.futurefill_kernels.long_fill(
        scratch, state.ring, state.open_block, state.kept, state.spectra, state.positions, rows,
        twist, state.levels, state.length, index, first_layer, first_channel,
        state.channels_per_filter,
    )  # fmt: skip


def made_fill(state: State, index: int, rows: Tensor | None) -> None:
    """The fill of level ``index``, which makes the filter spectra that it multiplies, on the CPU.

    rows: as of ``future_fill``.
    """
    torch.ops.futurefill_kernels.made_fill(
        state.ring, state.open_block, state.kept, state.spectra, state.filters_of_channels,
        state.positions, rows, state.levels, state.length, index,
    )  # fmt: skip


def fill_share(state: State, index: int, rows: Tensor | None, begin: int, end: int) -> None:
    """Of one firing of level ``index``, which has slack, the shares of steps ``begin .. end-1``, on
    the CPU.
    """
    torch.ops.futurefill_kernels.fill_share(
        state.ring, state.open_block, state.kept, state.work, state.spectra, state.positions, rows,
        state.levels, state.length, index, begin, end,
    )  # fmt: skip


def due_fills(state: State) -> None:
    """The fills that are due at the rows' positions and have not run, on the CPU."""
    torch.ops.futurefill_kernels.due_fills(
        state.ring, state.open_block, state.kept, state.work, state.spectra,
        state.filters_of_channels, state.positions, state.levels, state.length, state.filled,
        state.images,
    )  # fmt: skip


def scratch_nbytes(
    levels: Tensor, batch_size: int, jobs: int, lanes: int, float64: bool, narrow: bool
) -> int:
    """Bytes that threads of the CPU's engine need for the fills of these levels, twiddles included.

    levels: as ``StreamState.levels``. jobs: tiles of all layers. narrow: a ring of 16 bits.
    """
    return torch.ops.futurefill_kernels.scratch_nbytes(
        levels, batch_size, jobs, lanes, float64, narrow
    )


def reserve_scratch(
    levels: Tensor, batch_size: int, jobs: int, lanes: int, float64: bool, narrow: bool
) -> None:
    """Allocate that; see scratch_nbytes."""
    torch.ops.futurefill_kernels.reserve_scratch(levels, batch_size, jobs, lanes, float64, narrow)


def history(state: State, rows: Tensor | None = None) -> None:
    """A token of all layers on a GPU before its input is known.

    Of every row at p, p becomes ``token_at``, its pending outputs slot ``p % undo slots`` of
    ``undo``, and with what the block's older inputs add to them ``history``. rows: (R,) int64, -1
    for padding, or None for all. A row without room keeps the rest of its state, and its steps will
    write NaN.
    """
    torch.ops.futurefill_kernels.history(
        state.ring, state.open_block, state.taps, state.positions, rows, state.token_at,
        state.undo, state.history, state.channels_per_filter,
    )  # fmt: skip


def apply_step(
    state: State,
    u: Tensor,
    y: Tensor,
    *,
    pre: Tensor | None = None,
    post: Tensor | None = None,
    rows: Tensor | None = None,
    layer: int = 0,
    advance: bool = True,
) -> None:
    """One layer of the token whose history is summed, on a GPU: as ``step``, without fills.

    u, pre, post, y: (R, D), contiguous in D, of float32, bfloat16 or float16; their rows may be
    apart, as chunks of a wider tensor are.
    """
    torch.ops.futurefill_kernels.apply_step(
        u, pre, post, y, state.ring, state.open_block, state.taps, state.skip, state.history,
        state.token_at, state.positions, rows, layer, advance, state.channels_per_filter,
    )  # fmt: skip


def offline_conv(
    u: Tensor,
    h: Tensor,
    y: Tensor,
    start: int,
    stop: int,
    block: int,
    spectra: Tensor | None = None,
    made: bool = False,
) -> None:
    """Outputs y (B, D, stop - start), ``start .. stop-1`` of whole sequences, on the CPU, u zero
    after its end.

    u: (B, D, P), contiguous in the last dimension, or in the engine's tiles, (B, tiles, P, W). h:
    (G, L) of its dtype, float32 or float64, contiguous in the last dimension; G divides D. block:
    of the transforms, a power of two. spectra: (tiles, blocks of taps, (block + work_gaps) 2 W),
    those of h if made, else they are written.
    """
    torch.ops.futurefill_kernels.offline_conv(u, h, y, start, stop, block, spectra, made)


def prompt_spectrum(h: Tensor, spectrum: Tensor, channels: int, block: int, k: int) -> None:
    """The spectrum of taps ``(k-1) block .. (k+1) block - 1`` of h (G, L), on the CPU.

    ``channels`` share the filters evenly. block: a power of two. spectrum: (tiles, 2 block W).
    """
    torch.ops.futurefill_kernels.prompt_spectrum(h, spectrum, channels, block, k)


def prompt_block(
    u: Tensor, y: Tensor, slots: Tensor, spectra: Tensor, kept: Tensor, sums: Tensor,
    position: int, block: int, newest: int, blocks: int,
) -> None:  # fmt: skip
    """Inputs u (R, D, n) of one block of open prompts at ``position``, on the CPU, into their slots
    (R, tiles, room, W), and their outputs y (R, D, n).

    spectra: (tiles, m, 2 block W) of ``prompt_spectrum`` for k = 0 .. blocks - 1. kept: (R, tiles,
    r, 2 block W), transforms of the blocks before it; a whole block becomes kept[:, :, newest] if
    newest < r. sums: (R, tiles), which grow by the sums of the outputs.
    """
    torch.ops.futurefill_kernels.prompt_block(
        u, y, slots, spectra, kept, sums, position, block, newest, blocks
    )


def prompt_fill(
    slots: Tensor, spectra: Tensor, kept: Tensor, channels: int, position: int, block: int,
    blocks: int,
) -> None:  # fmt: skip
    """What the block before ``position`` and the ``blocks - 1`` kept before it add to the block at
    ``position``, on the CPU. spectra: for k = 1 .. blocks.
    """
    torch.ops.futurefill_kernels.prompt_fill(
        slots, spectra, kept, channels, position, block, blocks
    )


def prompt_first_fill(slots: Tensor, h: Tensor, channels: int, block: int) -> None:
    """What the first block of open prompts adds to the next, on the CPU, by a spectrum of h (G, L)
    that is made for it. slots, channels: as ``prompt_block``.
    """
    torch.ops.futurefill_kernels.prompt_first_fill(slots, h, channels, block)


def _no_output(*args: object, **kwargs: object) -> None:
    return None


if native.unavailable_reason is None:
    for _name in IN_PLACE:
        torch.library.register_fake(f"futurefill_kernels::{_name}", _no_output)
