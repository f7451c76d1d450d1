"""A prompt through torch.fft, between two kernels of the implementation that do all the rest."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import lru_cache

import torch
from torch import Tensor

from ..planning.device import DeviceInfo
from ..planning.gpu_cost import BASE, times_of
from ..planning.prompt_length import PromptLength, prompt_length
from ..state.convolve import kept_spectrum, shared_taps
from ..state.filters import KeepSpectrum
from ..state.open_block import open_at
from ..state.tensors import StreamState

WORKSPACE_BYTES = 256 << 20
#: Real arrays of a row and channel that may live at once: spectrum, the copy of it that the inverse
#: transform works on, its result, and twice as much for the transforms' own scratch.
_ARRAYS = 5
_FILTER_ARRAYS = 2  # of a filter row: its padded taps and spectrum
_UNIT, _LINE = 8, 32  # channels of a sector and of a line of the state
_MOST = 1 << 15  # rows or channels of one launch, within a grid's second and third dimension

#: inputs(u, pre, lengths, x, held): gated inputs u pre (R, C, P) as float32 into x (R, C, n) and,
#: if given, held (R, C, P), zero from each row's length (None: P) on.
Inputs = Callable[[Tensor, Tensor | None, Tensor | None, Tensor, Tensor | None], None]

#: outputs(z, u, pre, post, skip, y, prompt_fill, ring, rows, starts, ends, layer, first_channel):
#: from z (R, C, n), the convolution of each row from its start, y = (z + skip u pre) post of the P
#: positions from ``starts`` (None: 0), and the pending outputs of the state's ``rows`` from those
#: that follow ``ends``; prompt_fill may be None.
Outputs = Callable[..., None]


def prompt_by_fft(
    state: StreamState,
    h: Tensor,
    u: Tensor,
    pre: Tensor | None,
    post: Tensor | None,
    y: Tensor,
    held: Tensor,
    seen: list[int],
    valid: list[int],
    layer: int,
    rows: list[int],
    inputs: Inputs,
    outputs: Outputs,
    keep: KeepSpectrum | None = None,
) -> None:
    """Outputs of a call's positions, and the future fill that they leave in the state.

    h: (G, L) float32 taps. u, pre, post, y: (R, D, P); y is written. held: (R, D, W) float32, whose
    first ``seen`` positions of each row are gated inputs of earlier calls; this call's follow, then
    zeros. valid: positions of u in each row, at least 1. rows: the state's rows. keep: has the
    filters' spectrum.

    Besides the arguments it takes at most WORKSPACE_BYTES (256 MiB), or the transforms of one row
    and 8 channels where those are more: channels, and rows of a large batch, are done a few at a
    time. Source: docs/algorithm.md.
    """
    length = state.plan.slots
    batch, channels, positions = u.shape
    groups, total = h.shape[0], held.shape[2]
    channels_per_filter, taps = channels // groups, min(h.shape[1], total + length)
    transform = prompt_length(total, taps, length, min(seen), fft_costs(u.device))
    n = transform.points
    ends = [s + v for s, v in zip(seen, valid, strict=True)]
    numbers = _on_device([rows, seen, ends, valid], u.device)
    some_are_shorter, continued = min(valid) < positions, any(seen)
    copies = sum(x is not None and x.stride(2) != 1 for x in (u, pre, post))
    most, most_rows = _at_once(n, channels, batch, _ARRAYS + copies)
    whole = None
    if keep is not None:
        taps = shared_taps(total, h.shape[1], total + length, n)
        whole = kept_spectrum(keep, h, taps, n, WORKSPACE_BYTES)
    for first_group, last_group in _filter_ranges(groups, channels_per_filter, most):
        if whole is None:
            spectrum = torch.fft.rfft(h[first_group:last_group, :taps], n, norm="forward")
        else:
            spectrum = whole[first_group:last_group]
        stop = last_group * channels_per_filter
        for c in range(first_group * channels_per_filter, stop, most):
            for r in range(0, batch, most_rows):
                here = (slice(r, r + most_rows), slice(c, min(c + most, stop)))
                some_u = _time_contiguous(u[here])
                some_pre = None if pre is None else _time_contiguous(pre[here])
                some_post = None if post is None else _time_contiguous(post[here])
                row, start, end, lengths = numbers[:, here[0]]
                x = _padded_inputs(
                    some_u, some_pre, held[here], n, lengths if some_are_shorter else None,
                    seen[here[0]] if continued else None, inputs,
                )  # fmt: skip
                z = torch.fft.rfft(x, n)
                del x  # what follows takes its place
                z.unflatten(1, (len(spectrum), -1)).mul_(spectrum[:, None])
                x = torch.fft.irfft(z, n, norm="forward")  # the spectrum holds 1/n
                del z
                if transform.head:
                    _make_head(x, held[here], h[first_group:last_group], transform)
                outputs(
                    x, some_u, some_pre, some_post, state.skip, y[here], state.prompt_fill,
                    state.ring, row, start if continued else None, end, layer, c,
                )  # fmt: skip
                del x
    if state.narrow:
        open_at(state, numbers[0], 0, layer)


def _make_head(z: Tensor, held: Tensor, h: Tensor, transform: PromptLength) -> None:
    """The first outputs of z (R, C, n), which terms that wrap have spoiled. h: (G, L)."""
    head, points = transform.head, transform.head_points
    spectrum = torch.fft.rfft(h[:, :head], points, norm="forward")
    x = torch.fft.rfft(held[..., :head], points)
    x.unflatten(1, (len(spectrum), -1)).mul_(spectrum[:, None])
    z[..., :head] = torch.fft.irfft(x, points, norm="forward")[..., :head]


@lru_cache(maxsize=16)
def fft_costs(device: torch.device) -> dict[int, float]:
    """What a point of a transform costs by the odd factor of its length; off a GPU, in tests, what
    is shipped.
    """
    info = DeviceInfo.of(device) if device.type == "cuda" else DeviceInfo.named(BASE)
    return dict(times_of(info).ffts)


def _padded_inputs(
    u: Tensor,
    pre: Tensor | None,
    held: Tensor,
    n: int,
    lengths: Tensor | None,
    seen: list[int] | None,
    inputs: Inputs,
) -> Tensor:
    """All gated inputs so far, padded to n positions."""
    x = torch.empty(*u.shape[:2], n, dtype=torch.float32, device=u.device)
    if seen is None:
        inputs(u, pre, lengths, x, held)
        return x
    for r, s in enumerate(seen):
        one = slice(r, r + 1)
        inputs(
            u[one], None if pre is None else pre[one], None if lengths is None else lengths[one],
            held[one, :, s:], None,
        )  # fmt: skip
    inputs(held, None, None, x, None)
    return x


def _time_contiguous(x: Tensor) -> Tensor:
    return x if x.stride(2) == 1 else x.contiguous()


def _on_device(values: list[list[int]], device: torch.device) -> Tensor:
    numbers = torch.tensor(values, dtype=torch.int64, device="cpu")
    if device.type != "cuda":
        return numbers
    return numbers.pin_memory().to(device, non_blocking=True)  # without waiting for the device


def _at_once(n: int, channels: int, rows: int, arrays: int) -> tuple[int, int]:
    """Channels and rows that fit the workspace together: all rows first."""
    values = WORKSPACE_BYTES // (4 * n)
    most = values // (arrays * rows + _FILTER_ARRAYS)
    unit = _LINE if most >= _LINE else _UNIT
    most = min(channels, _MOST, max(_UNIT, most // unit * unit))
    return most, min(rows, _MOST, max(1, (values - _FILTER_ARRAYS * most) // (arrays * most)))


def _filter_ranges(groups: int, channels_per_filter: int, most: int) -> Iterator[tuple[int, int]]:
    """Filter rows of at most ``most`` channels, whole sectors of them where that is possible; one
    at a time where a row serves more.
    """
    step = max(1, most // channels_per_filter)
    unit = _UNIT // math.gcd(_UNIT, channels_per_filter)
    step = step // unit * unit or step
    for first in range(0, groups, step):
        yield first, min(first + step, groups)
