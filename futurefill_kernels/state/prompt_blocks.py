"""The operations of prompts that come in many calls, by the engine for float32 on a CPU, else by
torch.fft.

slots (R, tiles, room, W): inputs of R prompts at one position and, behind them, pending outputs; W
channels lie side by side. spectra (tiles, n, values): of taps ``(k-1) block .. (k+1) block - 1``,
k = 0, 1, ...: what a block adds to the block k after it. kept (R, tiles, n, values): transforms of
blocks of inputs. By torch.fft W is 1 and spectra and kept are complex, spectra of as many filters
as there are.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from .. import native, ops
from .huge_pages import empty, untouched

_WORKSPACE_BYTES = 64 << 20


def compiled(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether the engine does it."""
    on_cpu = device.type == "cpu" and native.cpu_unavailable_reason() is None
    return on_cpu and dtype == torch.float32


def new_slots(
    rows: int, channels: int, room: int, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """Slots for so many positions, zero."""
    lanes = native.cpu_lanes(dtype) if compiled(device, dtype) else 1
    tiles = -(-channels // lanes)
    return untouched(rows, tiles, room, lanes, dtype=dtype, device=device, sparse=False)


def write_inputs(slots: Tensor, inputs: Tensor, position: int) -> None:
    """Inputs (D, n) into one prompt's slots (tiles, room, W) from ``position`` on."""
    tiles, _, lanes = slots.shape
    whole = pad(inputs, (0, 0, 0, tiles * lanes - len(inputs)))
    here = slots[:, position : position + inputs.shape[1]]
    here.copy_(whole.unflatten(0, (tiles, lanes)).transpose(1, 2))


def new_spectra(taps: Tensor, channels: int, block: int, count: int, dtype: torch.dtype) -> Tensor:
    """Room for spectra of filters (G, L) that ``channels`` share."""
    if compiled(taps.device, dtype):
        lanes = native.cpu_lanes(dtype)
        shape, kind = (-(-channels // lanes), count, 2 * block * lanes), dtype
    else:
        shape, kind = (len(taps), count, block + 1), _complex(dtype)
    return empty(*shape, dtype=kind, device=taps.device)


def new_kept(rows: int, spectra: Tensor, channels: int, count: int) -> Tensor:
    """Room for the transforms of as many blocks of inputs as ``spectra`` multiply."""
    tiles = channels if spectra.is_complex() else len(spectra)
    shape = rows, tiles, count, spectra.shape[2]
    return empty(*shape, dtype=spectra.dtype, device=spectra.device)


def write_spectrum(
    taps: Tensor, spectrum: Tensor, channels: int, block: int, k: int, dtype: torch.dtype
) -> None:
    """Of taps (G, L) the spectrum k, into one entry (tiles, values) of ``new_spectra``."""
    used = _used(taps, max(k - 1, 0) * block, (k + 1) * block, dtype)
    if not spectrum.is_complex():
        ops.prompt_spectrum(used, spectrum, channels, block, min(k, 1))
        return
    before = block if k == 0 else 0
    padded = pad(used, (before, 2 * block - before - used.shape[1]))
    spectrum.copy_(torch.fft.rfft(padded))


def add_block(
    u: Tensor, y: Tensor, slots: Tensor, spectra: Tensor, kept: Tensor, sums: Tensor,
    position: int, block: int, newest: int, blocks: int,
) -> None:  # fmt: skip
    """Inputs u (R, D, n) from ``position`` on, inside one block, and their outputs y (R, D, n).

    Outputs are what is pending, what the block's inputs add so far and, with blocks > 1, what the
    ``blocks - 1`` blocks kept before ``newest`` do. The transform of a whole block is kept at
    ``newest``, if there is room. sums (R, tiles) grow by those of the outputs.
    """
    if not spectra.is_complex():
        u = u if u.stride(2) == 1 else u.contiguous()
        ops.prompt_block(u, y, slots, spectra, kept, sums, position, block, newest, blocks)
        return
    flat, n = slots[..., 0], u.shape[2]
    since = position % block
    x = torch.cat([flat[..., position - since : position], u], 2) if since else u
    room = kept if n == block else kept[:, :, :0]
    here = flat[..., position : position + n]
    torch.add(here, _products(x, spectra, room, block, newest, blocks)[..., since:], out=y)
    here.copy_(u)
    sums += y.sum(2)


def add_fill(
    slots: Tensor, spectra: Tensor, kept: Tensor, channels: int, position: int, block: int,
    blocks: int,
) -> None:  # fmt: skip
    """What the block before ``position`` and the ``blocks - 1`` kept before it add to the block
    there. spectra: from k = 1 on. Its transform is kept behind theirs, if there is room.
    """
    if not spectra.is_complex():
        ops.prompt_fill(slots, spectra, kept, channels, position, block, blocks)
        return
    flat = slots[..., 0]
    x = flat[..., position - block : position]
    flat[..., position : position + block] += _products(x, spectra, kept, block, blocks - 1, blocks)


def add_first_fill(
    slots: Tensor, taps: Tensor, channels: int, block: int, dtype: torch.dtype
) -> None:
    """What the first block adds to the next, by a spectrum that is not kept."""
    if compiled(taps.device, dtype):
        ops.prompt_first_fill(slots, _used(taps, 0, 2 * block, dtype), channels, block)
        return
    spectra = new_spectra(taps, channels, block, 1, dtype)
    write_spectrum(taps, spectra[:, 0], channels, block, 1, dtype)
    add_fill(slots, spectra, spectra.new_empty(len(slots), channels, 0, block + 1), channels,
             block, block, 1)  # fmt: skip


def _products(
    x: Tensor, spectra: Tensor, kept: Tensor, block: int, newest: int, blocks: int
) -> Tensor:
    """The first outputs, as many as inputs x (R, D, n <= block), of that and of kept blocks."""
    rows, channels, n = x.shape
    groups, per_filter = len(spectra), channels // len(spectra)
    y = x.new_empty(rows, channels, n)
    inputs, outputs, past = (v.unflatten(1, (groups, per_filter)) for v in (x, y, kept))
    step = max(1, _WORKSPACE_BYTES // (6 * block * x.element_size() * rows * per_filter))
    for g in range(0, groups, step):
        here = slice(g, g + step)
        transform, h = torch.fft.rfft(inputs[:, here], 2 * block), spectra[here, None]
        total = transform * h[:, :, 0]
        for k in range(1, blocks):
            total += past[:, here, :, newest - k] * h[:, :, k]
        if newest < kept.shape[2]:
            past[:, here, :, newest] = transform
        outputs[:, here] = torch.fft.irfft(total, 2 * block)[..., block : block + n]
    return y


def _used(taps: Tensor, begin: int, end: int, dtype: torch.dtype) -> Tensor:
    """Taps of that range, at least one, side by side."""
    used = taps[:, begin:end].to(dtype)
    if not used.shape[1]:  # behind the filters' end
        used = used.new_zeros(len(taps), 1)
    return used if used.stride(1) == 1 else used.contiguous()


def _complex(dtype: torch.dtype) -> torch.dtype:
    return torch.complex128 if dtype == torch.float64 else torch.complex64
