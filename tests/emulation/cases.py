"""Cases whose counts are reported for every GPU implementation, and what they must move."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from futurefill_kernels.state.convolve import fft_length


@dataclass(frozen=True)
class FillCase:
    """Firing ``index`` of a group of ``radix`` blocks."""

    block: int
    channels: int
    batch: int
    index: int
    radix: int
    spectra_dtype: torch.dtype = torch.float32

    @property
    def compulsory(self) -> int:
        """Bytes any implementation moves: inputs, filter spectra, kept spectra, pending twice."""
        rows = self.batch * self.channels * self.block
        kept = self.index - 1 + (self.radix > self.index + 1)
        spectra = 2 * self.spectra_dtype.itemsize * self.block * self.channels * self.index
        return rows * (4 + 8 + 8 * kept) + spectra

    @property
    def nominal_flops(self) -> float:
        """Two complex transforms at 5 n log2 n, the products and the additions."""
        n, i = self.block, self.index
        per_channel = 10 * n * math.log2(n) + 6 * n * i + 2 * n * (i - 1) + n
        return per_channel * self.batch * self.channels


@dataclass(frozen=True)
class EarlyFillCase(FillCase):
    """The same by the second form of CUDA fills, whose loads come early."""


@dataclass(frozen=True)
class LongFillCase(FillCase):
    """The same in three passes, all of them counted."""


@dataclass(frozen=True)
class HistoryCase:
    """What a token's layers share, at ``position`` in every row."""

    block: int
    channels: int
    batch: int
    position: int
    layers: int = 1

    @property
    def compulsory(self) -> int:
        """Bytes any implementation moves: ring slots of the block, taps, the pending outputs and
        the sums written, positions.
        """
        taken = self.position % self.block
        per_channel = self.batch * (4 * (taken + 1) + 8) + 4 * taken
        return self.layers * (self.channels * per_channel + 8 * self.batch) + 8 * self.batch

    @property
    def nominal_flops(self) -> float:
        """A multiplication and an addition per tap, and the pending output's addition."""
        taken = self.position % self.block
        return (2 * taken + 1) * self.layers * self.batch * self.channels


@dataclass(frozen=True)
class ApplyCase:
    """One token of one layer after its history; no gates, no skip.

    last: whether it is the last layer, which moves the positions on.
    """

    channels: int
    batch: int
    dtype: torch.dtype = torch.float32
    last: bool = True

    @property
    def compulsory(self) -> int:
        """Bytes any implementation moves: u, y, the sum, the ring's slot, a tap, positions."""
        rows = self.batch * self.channels * (2 * self.dtype.itemsize + 8)
        return rows + 4 * self.channels + 8 * (1 + self.last) * self.batch

    @property
    def nominal_flops(self) -> float:
        """The newest tap's multiplication and addition."""
        return 2 * self.batch * self.channels


@dataclass(frozen=True)
class PrefillCase:
    """A kernel before ("inputs") or after ("outputs") the transforms of a prompt, with gates.

    positions: P, of which the prompt takes all. length: positions N filled after it.
    """

    part: str
    positions: int
    length: int
    channels: int
    batch: int
    dtype: torch.dtype = torch.float32

    @property
    def width(self) -> int:
        """Points of the transforms with filters as long as the stream."""
        return fft_length(2 * self.positions + self.length - 1)

    @property
    def compulsory(self) -> int:
        """Bytes any implementation moves: u and pre; held inputs and their padded copy, or the
        convolution, post, y and the future fill twice.
        """
        tokens, rows = self.dtype.itemsize * self.positions, self.batch * self.channels
        if self.part == "inputs":
            return rows * (2 * tokens + 4 * self.positions + 4 * self.width)
        fill = 4 * (self.positions + self.length) + 8 * self.length
        return rows * (4 * tokens + fill) + 4 * self.channels + 16 * self.batch

    @property
    def nominal_flops(self) -> float:
        """The gate's product, and the skip's and the other gate's."""
        return self.batch * self.channels * self.positions * (1 if self.part == "inputs" else 4)


F32, BF16 = torch.float32, torch.bfloat16
BLOCKS = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
FILL_CASES = (
    *(FillCase(block, 1024 if block <= 256 else 128, 1, 1, 2) for block in BLOCKS),
    *(FillCase(block, 256, 1, 16, 17) for block in (16, 64, 256)),
    *(FillCase(block, 64 if block <= 256 else 32, 8, 1, 2) for block in BLOCKS if block <= 1024),
)
PREFILL_CASES = (
    *(PrefillCase(part, 512, 128, 1024, 1) for part in ("inputs", "outputs")),
    *(PrefillCase(part, 512, 128, 64, 4, torch.bfloat16) for part in ("inputs", "outputs")),
    *(PrefillCase(part, 509, 100, 100, 3) for part in ("inputs", "outputs")),
)
HISTORY_CASES = (
    *(HistoryCase(64, 1024, 1, 64 + k) for k in (0, 32, 63)),
    HistoryCase(64, 1000, 1, 96),
    *(HistoryCase(64, 1024, 8, 64 + k, 12) for k in (0, 32, 63)),
    HistoryCase(16, 1024, 1, 24),
    HistoryCase(16, 1024, 8, 24, 12),
    HistoryCase(256, 1024, 1, 384),
)
APPLY_CASES = (
    *(ApplyCase(1024, batch, dtype) for batch in (1, 8) for dtype in (F32, BF16)),
    ApplyCase(1024, 1, F32, last=False),
    *(ApplyCase(1000, 1, dtype) for dtype in (F32, BF16)),
)
