"""Convolutions of whole sequences by transforms, a few channels at a time."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import pad

from .. import native, ops
from .filters import KeepSpectrum
from .huge_pages import empty

_WORKSPACE_BYTES = 64 << 20
_CONV_BLOCK = 8192  # 1 MiB per vector of channels, about a second-level cache
#: Of those for few outputs, whose products are summed as they come (`python -m bench chunks`: the
#: step has them).
_SMALLEST_BLOCK = 256
#: So few inputs are added one by one, which is quicker than transforms of their many outputs:
#: `python -m bench prefill --shapes 1,192,1024 --prompts 1,8,9` has both sides of the border.
_FEW_INPUTS = 8


def fft_length(n: int) -> int:
    """Smallest ``2^a 3^b 5^c >= n`` with few odd factors, where real FFTs are fast."""
    power = 1 << (n - 1).bit_length()
    return min(m for m in (power, power // 8 * 5, power // 4 * 3, power // 16 * 15) if m >= n)


def shared_taps(total: int, taps: int, stop: int, points: int) -> int:
    """How many of the taps a spectrum for outputs ``0 .. stop-1`` of ``total`` inputs has, so that
    other prompts with as many outputs behind them read the same: those of a transform of ``points``
    in which even these wrap nothing; where there are none, what the outputs need.
    """
    after = stop - total
    most = min(taps, after + (points - after + 1) // 2)
    needed = min(taps, stop)
    return most if most >= needed and total + most - 1 <= points else needed


def kept_spectrum(keep: KeepSpectrum, h: Tensor, taps: int, points: int, workspace: int) -> Tensor:
    """Transforms, over points and divided by them, of the first taps of h (G, L), made unless they
    are kept: (G, points // 2 + 1), complex. workspace: bytes that this may take besides.
    """
    shape = len(h), points // 2 + 1
    step = max(1, workspace // (3 * points * h.element_size()))

    def make() -> Tensor:
        made = torch.empty(shape, dtype=h.dtype.to_complex(), device=h.device)
        for g in range(0, len(h), step):
            made[g : g + step] = torch.fft.rfft(h[g : g + step, :taps], points, norm="forward")
        return made

    return keep((points, taps), 2 * h.element_size() * shape[0] * shape[1], make)


def conv_range(
    u: Tensor, h: Tensor, start: int, stop: int, keep: KeepSpectrum | None = None
) -> Tensor:
    """Outputs ``start .. stop-1`` of the causal convolution of ``u``, which is zero after its end.

    u: (B, D, P). h: (G, L) of the arithmetic's dtype, G divides D. keep: with start 0, has the
    filters' spectrum. Returns (B, D, stop - start) in h.dtype. Extra workspace is bounded by a few
    channels' transforms.
    """
    batch, channels, length = u.shape
    groups, channels_per_filter = h.shape[0], channels // h.shape[0]
    y = torch.empty(batch, channels, stop - start, dtype=h.dtype, device=u.device)
    taps = min(h.shape[1], stop)
    # a wrapped term has index >= n: with n >= length + taps - 1 there is none, and terms that wrap
    # below `start` are not read
    n = fft_length(max(length + taps - 1 - start, stop, length, taps))
    rows = batch * channels_per_filter + 1
    step = max(1, _WORKSPACE_BYTES // (n * 3 * h.element_size() * rows))
    grouped = u.reshape(batch, groups, channels_per_filter, length)
    out = y.view(batch, groups, channels_per_filter, stop - start)
    whole = None
    if keep is not None:
        taps = shared_taps(length, h.shape[1], stop, n)
        whole = kept_spectrum(keep, h, taps, n, _WORKSPACE_BYTES)
    for g in range(0, groups, step):
        if whole is None:
            spectrum = torch.fft.rfft(h[g : g + step, :taps], n, norm="forward")
        else:
            spectrum = whole[g : g + step]
        inputs = torch.fft.rfft(grouped[:, g : g + step].to(h.dtype), n)
        x = torch.fft.irfft(inputs * spectrum[:, None], n, norm="forward")
        out[:, g : g + step] = x[..., start:stop]
    return y


def conv_block(length: int) -> int:
    """Block of the compiled convolution: the whole sequence if it is short, at most 16 blocks."""
    power = 1 << (length - 1).bit_length()
    return max(min(power, _CONV_BLOCK), power // 16)


def fast_conv_range(
    u: Tensor, h: Tensor, start: int, stop: int, keep: KeepSpectrum | None = None
) -> Tensor:
    """``conv_range`` with the engine's transforms for float32 on a CPU, else by torch.fft.

    An input that is NaN or infinite makes NaN of the outputs that its taps reach, of its own row
    and channel, and of no others: transforms spread it over everything, so the sum is done again
    without it, in float64, where large inputs do not overflow. Float64 stays on torch.fft: it is
    what float32 results are checked against. Extra workspace of a thread: the transforms of one
    vector of channels, 8 bytes per lane and position, and as much for its taps; nothing grows with
    the channels or rows.
    """
    y = _transformed(u, h, start, stop, keep)
    if bool(y.sum().isfinite()):  # one pass; where finite outputs overflow it, only time is lost
        return y
    u_bad, h_bad = (~x.isfinite() for x in (u, h))
    y = conv_range(u.where(~u_bad, 0).double(), h.where(~h_bad, 0).double(), start, stop).to(y)
    reached = reached_by(h_bad, u.shape[2], start, stop)
    reached = reached.repeat_interleave(u.shape[1] // len(h), dim=0)
    return y.masked_fill_(reached | reached_by(u_bad, h.shape[1], start, stop), torch.nan)


def reached_by(bad: Tensor, span: int, start: int, stop: int) -> Tensor:
    """Which outputs have one of the bad among the ``span`` newest. bad: (..., P) -> (..., n)."""
    before = pad(bad.cumsum(-1), (1, 0))
    after = torch.arange(start, stop, device=bad.device) + 1
    newest, oldest = ((after - n).clamp(0, bad.shape[-1]) for n in (0, span))
    return before[..., newest] > before[..., oldest]


def _compiled(h: Tensor) -> bool:
    on_cpu = h.device.type == "cpu" and native.cpu_unavailable_reason() is None
    return on_cpu and h.dtype == torch.float32


def slots_conv_range(slots: Tensor, channels: int, h: Tensor, start: int, stop: int) -> Tensor:
    """``fast_conv_range``, (B, D, stop - start), with inputs in tiles (B, tiles, P, W)."""
    if _compiled(h) and start < slots.shape[2] + h.shape[1] - 1:
        y = _by_engine(slots, channels, h, start, stop)
        if math.isfinite(y.sum().item()):
            return y
    return fast_conv_range(slots_inputs(slots, channels), h, start, stop)


def slots_inputs(slots: Tensor, channels: int) -> Tensor:
    """Inputs (B, D, P) that lie in tiles (B, tiles, P, W): a copy where W > 1."""
    return slots.transpose(2, 3).flatten(1, 2)[:, :channels]


def _transformed(u: Tensor, h: Tensor, start: int, stop: int, keep: KeepSpectrum | None) -> Tensor:
    """``conv_range``, by the engine where it can."""
    if not _compiled(h):
        return conv_range(u, h, start, stop, keep)
    if start >= u.shape[2] + h.shape[1] - 1:
        return torch.zeros(*u.shape[:2], stop - start, dtype=h.dtype, device=u.device)
    u = u.to(h.dtype)
    u = u if u.stride(2) == 1 else u.contiguous()
    if u.shape[2] <= _FEW_INPUTS:
        return _one_by_one(u, h, start, stop)
    return _by_engine(u, u.shape[1], h, start, stop, keep)


def _by_engine(
    u: Tensor, channels: int, h: Tensor, start: int, stop: int, keep: KeepSpectrum | None = None
) -> Tensor:
    """u: (B, D, P), or (B, tiles, P, W) in tiles."""
    h = h if h.stride(1) == 1 else h.contiguous()
    block = conv_block(max(u.shape[2], min(h.shape[1], stop)))
    # few outputs after many inputs need no longer transforms than they are
    block = min(block, max(conv_block(stop - start), _SMALLEST_BLOCK))
    y = empty(len(u), channels, stop - start, dtype=u.dtype, device=u.device)
    if keep is None:
        ops.offline_conv(u, h, y, start, stop, block)
        return y
    lanes, taps = native.cpu_lanes(h.dtype), min(h.shape[1], stop)
    values = (block + native.work_gaps()) * 2 * lanes
    shape = -(-channels // lanes), -(-taps // block), values
    done = False

    def make() -> Tensor:
        nonlocal done
        spectra = empty(*shape, dtype=h.dtype, device=h.device)
        ops.offline_conv(u, h, y, start, stop, block, spectra)
        done = True
        return spectra

    spectra = keep((block, channels, *shape), h.element_size() * math.prod(shape), make)
    if not done:
        ops.offline_conv(u, h, y, start, stop, block, spectra, made=True)
    return y


def _one_by_one(u: Tensor, h: Tensor, start: int, stop: int) -> Tensor:
    """``conv_range`` of few inputs: each adds the filter times itself to the outputs after it."""
    y = torch.zeros(*u.shape[:2], stop - start, dtype=h.dtype, device=u.device)
    inputs, outputs = (x.unflatten(1, (len(h), -1)) for x in (u, y))
    for p in range(u.shape[2]):
        begin, end = max(start, p), min(stop, p + h.shape[1])
        if begin < end:
            reached = outputs[..., begin - start : end - start]
            reached.addcmul_(inputs[..., p : p + 1], h[:, None, begin - p : end - p])
    return y
