"""What results are compared with, and how closely they have to agree.

`short_range`, `history` and `fill` are equations 2 and 3 of docs/algorithm.md in float64.
"""

from __future__ import annotations

import torch
from torch import Tensor

from futurefill_kernels.state.tensors import StreamState

TOLERANCE = {
    torch.float64: 1e-12,
    torch.float32: 1e-6,
    torch.float16: 1e-3,
    torch.bfloat16: 8e-3,
}

#: The most precise dtype that every implementation of the device computes in.
PRECISE = torch.float64 if torch.get_default_device().type == "cpu" else torch.float32
#: Relative L2 error of a stream in it, and of one of its tokens, whose outputs may happen to be
#: small.
EXACT, EXACT_TOKEN = TOLERANCE[PRECISE], 30 * TOLERANCE[PRECISE]


def short_range(pending: Tensor, u: Tensor, h: Tensor) -> Tensor:
    """Equation 2: what is pending at the newest input, and the taps inside its block.

    pending: (..., D). u: (..., n, D), the inputs of the block so far, the newest last. h: (G, L),
    G divides D. Returns (..., D).
    """
    taps = min(u.shape[-2], h.shape[1])
    weights = h[:, :taps].double().repeat_interleave(u.shape[-1] // len(h), dim=0).T  # (taps, D)
    newest_first = u.double().flip(-2)[..., :taps, :]
    return pending.double() + (weights * newest_first).sum(-2)


def history(state: StreamState, h: Tensor, layer: int, row: int) -> Tensor:
    """Equation 2 at a row's position before its input is known. h: (G, L). Returns (D,)."""
    p, channels = int(state.positions[row]), state.channels
    slots = state.ring[layer, row, 0, :, :channels]
    inputs = slots[p - p % state.taps.shape[2] : p]
    return short_range(slots[p], torch.cat([inputs, torch.zeros(1, channels)]), h)


def poison_history(state: StreamState) -> None:
    """NaN wherever a history must not read, and wherever it or its steps must write."""
    for row, p in enumerate(state.positions.tolist()):
        begin = p - p % state.taps.shape[2]
        state.ring[:, row, :, :begin] = torch.nan
        state.ring[:, row, :, p + 1 :] = torch.nan
    state.undo.fill_(torch.nan)
    state.history.fill_(torch.nan)
    state.token_at.fill_(-7)


def fill(u: Tensor, h: Tensor, block: int) -> Tensor:
    """Equation 3: what the finished blocks of a group add to the one that follows them.

    u: (B, D, i T), all inputs of the group so far. h: (G, L), G divides D. block: T. Returns
    (B, D, T).
    """
    blocks = u.double().unflatten(-1, (-1, block))  # (B, D, i, T)
    count = blocks.shape[2]
    taps = torch.zeros(len(h), (count + 1) * block, dtype=torch.float64)
    given = min(h.shape[1], taps.shape[1])
    taps[:, :given] = h[:, :given].double()
    taps = taps.repeat_interleave(u.shape[1] // len(h), dim=0)
    result = torch.zeros_like(blocks[:, :, 0])
    for k in range(1, count + 1):
        # cyclic of length 2T: what wraps around lands on the first T entries
        near = torch.fft.rfft(taps[:, (k - 1) * block : (k + 1) * block])
        product = torch.fft.rfft(blocks[:, :, count - k], 2 * block) * near
        result += torch.fft.irfft(product, 2 * block)[..., block:]
    return result


def relative_error(got: Tensor, expected: Tensor) -> float:
    """Relative L2 error in float64; NaN counts as wrong."""
    got, expected = got.double(), expected.double()
    error = (got - expected).norm() / expected.norm().clamp_min(1e-300)
    return float("inf") if torch.isnan(error) else error.item()
