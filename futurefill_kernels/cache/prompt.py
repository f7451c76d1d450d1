"""Many tokens at once: a prompt before the stream, or a chunk inside it.

These are functions of a StreamState; FutureFillCache checks arguments and keeps positions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from ..implementations.base import Implementation, PromptKernels
from ..implementations.gpu_prompt_by_fft import prompt_by_fft
from ..plan import Level
from ..state.convolve import fast_conv_range
from ..state.layout import from_tiles, to_tiles
from ..state.tensors import StreamState

#: Per batch row that waits for its first step, and layer, the gated inputs (D, P) so far.
OpenPrompts = dict[int, list[Tensor | None]]


def tokens(
    state: StreamState,
    implementation: Implementation,
    open_prompts: OpenPrompts,
    positions: Sequence[int],
    h: Tensor,
    u: Tensor,
    pre: Tensor | None,
    post: Tensor | None,
    layer: int,
    rows: list[int],
    valid: list[int],
) -> Tensor:
    """Outputs of many tokens of one layer, rows in their prompt or anywhere in the stream.

    positions: of all rows. h: (G, L) of the state's dtype. u, pre, post: (R, D, P). rows: R batch
    rows. valid: positions of each. Returns y (R, D, P) like u, contiguous.
    """
    y = torch.empty(u.shape, dtype=u.dtype, device=u.device)
    groups: dict[int | None, list[int]] = {}
    for r, row in enumerate(rows):
        groups.setdefault(None if row in open_prompts else positions[row], []).append(r)
    kernels = implementation.prompt_kernels()
    for position, members in groups.items():
        if position is None and kernels is not None:
            for part in _runs(members):
                here = slice(part[0], part[-1] + 1)  # copies nothing
                _prompt_between_kernels(
                    kernels, state, open_prompts, h, u[here], _rows_of(pre, here),
                    _rows_of(post, here), y[here], layer, rows[here], valid[here],
                )  # fmt: skip
            continue
        y[members] = _plain(
            state, open_prompts, position, h, u[members], _rows_of(pre, members),
            _rows_of(post, members), layer, [rows[r] for r in members],
            [valid[r] for r in members],
        ).to(y.dtype)  # fmt: skip
    return y


def _rows_of(x: Tensor | None, which: slice | list[int]) -> Tensor | None:
    return None if x is None else x[which]


def _runs(members: list[int]) -> list[list[int]]:
    """Ascending indices as runs without gaps."""
    runs: list[list[int]] = []
    for r in members:
        if runs and runs[-1][-1] == r - 1:
            runs[-1].append(r)
        else:
            runs.append([r])
    return runs


def _prompt_between_kernels(
    kernels: PromptKernels,
    state: StreamState,
    open_prompts: OpenPrompts,
    h: Tensor,
    u: Tensor,
    pre: Tensor | None,
    post: Tensor | None,
    y: Tensor,
    layer: int,
    rows: list[int],
    valid: list[int],
) -> None:
    """Tokens u (R, D, P) that continue the rows' prompts, by torch.fft between two kernels."""
    earlier = [open_prompts[row][layer] for row in rows]
    seen = [0 if past is None else past.shape[1] for past in earlier]
    width = max(seen) + u.shape[2]
    held = torch.empty(*u.shape[:2], width, dtype=torch.float32, device=u.device)
    for r, past in enumerate(earlier):
        if past is not None:
            held[r, :, : seen[r]] = past
    prompt_by_fft(state, h, u, pre, post, y, held, seen, valid, layer, rows, *kernels)
    # only now: a call that runs out of memory can be repeated
    for r, row in enumerate(rows):
        open_prompts[row][layer] = held[r, :, : seen[r] + valid[r]]


def _plain(
    state: StreamState,
    open_prompts: OpenPrompts,
    position: int | None,
    h: Tensor,
    u: Tensor,
    pre: Tensor | None,
    post: Tensor | None,
    layer: int,
    rows: list[int],
    valid: list[int],
) -> Tensor:
    """Rows that are all in their prompt (position None) or all at one position, by torch."""
    x = u.to(h.dtype)
    if pre is not None:
        x = x * pre
    if min(valid) < u.shape[2]:
        inside = torch.arange(u.shape[2]) < torch.tensor(valid)[:, None]
        x = x * inside[:, None].to(x.device)
    if position is None:
        y = _plain_prompt(state, open_prompts, h, x, layer, rows, valid)
    else:
        y = chunk(state, h, x, position, layer, rows)
    if state.skip is not None:
        y += state.skip[layer, : x.shape[1], None] * x
    return y if post is None else y * post


def _plain_prompt(
    state: StreamState,
    open_prompts: OpenPrompts,
    h: Tensor,
    x: Tensor,
    layer: int,
    rows: list[int],
    valid: list[int],
) -> Tensor:
    """Outputs of gated inputs x (R, D, P) that continue the rows' prompts, and the future fill."""
    earlier = [open_prompts[row][layer] for row in rows]
    seen = [0 if past is None else past.shape[1] for past in earlier]
    width = x.shape[2]
    whole = x
    if any(seen):
        whole = x.new_zeros(*x.shape[:2], max(seen) + width)
        for r, past in enumerate(earlier):
            if past is not None:
                whole[r, :, : seen[r]] = past
            whole[r, :, seen[r] : seen[r] + width] = x[r]
    ends = torch.tensor([s + v for s, v in zip(seen, valid, strict=True)])
    outputs = prompt(state, h, whole, ends, whole.shape[2] - min(seen), layer, rows)
    for r, row in enumerate(rows):
        open_prompts[row][layer] = whole[r, :, : int(ends[r])]
    if not any(seen):
        return outputs
    shift = [s - min(seen) for s in seen]
    return torch.stack([outputs[r, :, s : s + width] for r, s in enumerate(shift)])


def prompt(
    state: StreamState, h: Tensor, x: Tensor, ends: Tensor, chunk: int, layer: int, rows: list[int]
) -> Tensor:
    """Outputs of a prompt's last ``chunk`` positions; leaves its future fill in the state.

    h: (G, L) taps. x: (R, D, P) gated inputs since the stream's start, right-padded with zeros.
    ends: (R,) int64 on the CPU, prompt lengths ``<= P``. chunk: outputs wanted per row, the last of
    them at ``ends``' maximum. Returns (R, D, P) with outputs before ``P - chunk`` left out:
    (R, D, chunk). One FFT convolution, O(P log P) time; nothing of size P stays.
    """
    length, total = state.plan.length, x.shape[2]
    start = total - chunk
    first = min(start, int(ends.min()))
    result = fast_conv_range(x, h, first, total + length)  # (R, D, total + N - first)
    for r, (row, end) in enumerate(zip(rows, ends.tolist(), strict=True)):
        filled = result[r, :, end - first : end - first + length]
        state.prompt_fill[layer, row] = to_tiles(filled, state.layout)
        state.ring[layer, row, :, :length] = state.prompt_fill[layer, row]
    return result[..., start - first : total - first]


def chunk(
    state: StreamState, h: Tensor, x: Tensor, position: int, layer: int, rows: list[int]
) -> Tensor:
    """Outputs of ``T`` positions inside the stream, from everything that the rows have seen.

    x: (R, D, T) gated inputs of positions ``position .. position + T - 1``. The inputs are stored;
    pending outputs are stale until ``replay``. Returns (R, D, T).
    """
    stop = position + x.shape[2]
    state.ring[layer, rows, :, position:stop] = to_tiles(x, state.layout)
    inputs = from_tiles(state.ring[layer, rows, :, :stop], state.layout)
    filled = from_tiles(state.prompt_fill[layer, rows, :, position:stop], state.layout)
    return filled + fast_conv_range(inputs, h, position, stop)


def replay(
    state: StreamState, implementation: Implementation, rows: Sequence[int], position: int
) -> None:
    """Rebuild everything derived at ``position`` from the stored inputs and the prompt's fill.

    Fires again, largest block first, what filled the blocks that ``position`` lies in, so pending
    outputs come out bit for bit as a stream of single steps leaves them.
    """
    ring, length = state.ring, state.plan.length
    index = torch.tensor(rows, dtype=torch.int64, device=ring.device)
    if position < length:
        ring[:, index, :, position:length] = state.prompt_fill[:, index, :, position:]
        inputs = ring[:, index, :, :position]
        for level in reversed(state.plan.levels):
            for n, steps in _firings_to_replay(level, position, length):
                boundary = n * level.block
                state.positions[index] = boundary
                if steps is None:
                    implementation.fill(state, level, index)
                else:
                    implementation.fill_share(state, level, index, 0, steps)
                start = boundary + level.late
                stop = min(start + level.block, position)
                if stop > start:
                    ring[:, index, :, start:stop] = inputs[..., start:stop, :]
    state.positions[index] = position


def _firings_to_replay(
    level: Level, position: int, length: int
) -> Iterator[tuple[int, int | None]]:
    """Firings of a level that left something at ``position``: finished blocks, and of one that is
    under way the steps done, else None.
    """
    newest = position // level.block
    if level.plain:
        group = newest // level.radix * level.radix
        for n in range(max(group + 1, newest + 1 - level.n_spectra), newest + 1):
            yield n, None
        return
    # the last two reach beyond `position`, the others leave the spectra that they multiply
    for n in range(max(1, newest - level.n_spectra), newest + 1):
        if n * level.block + level.late < length:
            done = position - n * level.block + 1
            yield n, done if done < level.steps else None
