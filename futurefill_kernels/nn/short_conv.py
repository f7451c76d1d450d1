"""The few-tap depthwise convolution before the gates, and its decoding state."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .interface import Cache


class ShortConv(nn.Module):
    """Causal depthwise convolution of ``taps`` taps.

    weight: (C, taps), tap 0 multiplies the newest input; it starts close to the identity.
    """

    def __init__(self, channels: int, taps: int = 3) -> None:
        super().__init__()
        if taps < 1:
            raise ValueError(f"expected taps >= 1, got {taps}")
        self.weight = nn.Parameter(torch.randn(channels, taps) * 0.3)
        with torch.no_grad():
            self.weight[:, 0] += 1.0

    def forward(self, x: Tensor, cache: Cache | None = None) -> Tensor:
        """x: (B, C, T). Returns (B, C, T)."""
        if cache is not None:
            return cache.short_conv(self, x)
        return convolve(F.pad(x, (self.weight.shape[1] - 1, 0)), self.weight)


def convolve(x: Tensor, weight: Tensor) -> Tensor:
    """Outputs that have all their inputs. x: (B, C, k-1 + T). weight: (C, k). Returns (B, C, T)."""
    return F.conv1d(x, weight.flip(1)[:, None], groups=len(weight))


class ShortConvState:
    """The last ``k`` inputs of every row in a ring: token ``n`` lives in slot ``n % k``.

    ring: (B, k, C). The state of one `ShortConv`; `DecodingCache` counts the tokens of each row.
    """

    def __init__(self, conv: ShortConv, batch_size: int) -> None:
        self.weight = conv.weight.detach()
        channels, k = self.weight.shape
        self.ring = self.weight.new_zeros(batch_size, k, channels)
        # (B,) int64, what captured steps count: they cannot take a number from the host
        self._counter = torch.zeros(batch_size, dtype=torch.int64, device=self.weight.device)
        self._counting = False
        # aligned[s, m]: the tap for slot m when the newest token is in slot s
        slot = torch.arange(k, device=self.weight.device)
        self.aligned = self.weight.T[(slot[:, None] - slot) % k].contiguous()  # (k, k, C)

    def clone(self) -> ShortConvState:
        """An independent state with the same inputs; the weights are shared."""
        other = copy.copy(self)
        other.ring = self.ring.clone()
        other._counter = self._counter.clone()
        return other

    def step(self, x: Tensor, rows: list[int] | None, seen: list[int]) -> Tensor:
        """One token. x: (R, C). rows: of the batch, None for all. seen: (R,) tokens before it."""
        k = self.ring.shape[1]
        if self._counting:
            return self._step_counted(x)
        if rows is None and seen.count(seen[0]) == len(seen):
            slot = seen[0] % k
            self.ring[:, slot] = x
            return (self.ring * self.aligned[slot]).sum(1)
        index = torch.tensor(range(len(seen)) if rows is None else rows, device=x.device)
        slots = torch.tensor(seen, device=x.device) % k
        self.ring[index, slots] = x
        return (self.ring[index] * self.aligned[slots]).sum(1)

    def begin_capture(self) -> None:
        """Steps from here on count the tokens of each row on the device; nothing is launched."""
        self._counting = True

    def set_count(self, seen: list[int]) -> None:
        """What captured steps start from, (B,). Copies from the host: never inside a capture."""
        self._counter.copy_(torch.tensor(seen, device="cpu"))

    def end_capture(self) -> None:
        """Steps are counted by the caller again."""
        self._counting = False

    def _step_counted(self, x: Tensor) -> Tensor:
        slots = self._counter % self.ring.shape[1]
        self.ring.scatter_(1, slots[:, None, None].expand(-1, 1, x.shape[1]), x[:, None])
        y = (self.ring * self.aligned[slots]).sum(1)
        self._counter += 1
        return y

    def prefill(
        self, x: Tensor, rows: list[int] | None, seen: list[int], lengths: list[int]
    ) -> Tensor:
        """Many tokens. x: (R, C, T) right-padded to lengths (R,); the rest as in ``step``."""
        k = self.ring.shape[1]
        device = x.device
        index = torch.tensor(range(len(seen)) if rows is None else rows, device=device)[:, None]
        start = torch.tensor(seen, device=device)[:, None]
        end = torch.tensor(lengths, device=device)[:, None]
        past = torch.arange(1 - k, 0, device=device)  # (k-1,), relative to the first new token
        tail = self.ring[index, (start + past) % k].transpose(1, 2)  # (R, C, k-1)
        whole = torch.cat([tail, x], dim=2)
        last = torch.arange(k, device=device) + end - 1  # (R, k), the newest k inputs in `whole`
        newest = whole.gather(2, last[:, None].expand(-1, whole.shape[1], -1))
        slots = (start + end - k + torch.arange(k, device=device)) % k
        self.ring[index, slots] = newest.transpose(1, 2)
        return convolve(whole, self.weight)
