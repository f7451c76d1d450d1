"""Whole online generation on the CPU against torch's offline FFT convolution, interleaved.

    python bench/cpu_vs_torch.py [--shapes B,D,L ...] [--blocks 8,64,...] [--repeats 3]

Both run in one process on one thread, in turns; printed is the median of the paired ratios.
Offline is ``irfft(rfft(u, 2 L) * H)`` with H prepared, in the channel chunk that is fastest.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from torch import Tensor

from futurefill_kernels import _extension
from futurefill_kernels.plan import Plan
from futurefill_kernels.spectra import filter_spectra

SHAPES = ["1,768,8192", "1,1024,65536", "4,1024,16384", "1,256,262144", "1,64,1048576"]


def blocks_of(base: int, length: int, radix: int) -> tuple[int, ...]:
    sizes = [base]
    while sizes[-1] * radix < length:
        sizes.append(sizes[-1] * radix)
    return tuple(sizes)


class Online:
    """A stream of random filters with the step op called directly; direct tiles below `direct`."""

    def __init__(self, h: Tensor, batch: int, plan: Plan, direct: int) -> None:
        lanes = _extension.cpu_lanes(torch.float32)
        channels, length = h.shape
        tiles = -(-channels // lanes)
        spectra, levels, kept, offset = [], [], 0, 0

        def tiled(rows: Tensor) -> Tensor:  # (n, D) -> (tiles, n, lanes)
            rows = torch.nn.functional.pad(rows, (0, tiles * lanes - channels))
            return rows.unflatten(-1, (tiles, lanes)).movedim(1, 0)

        whole = tiled(filter_spectra(h, plan, torch.float32).flatten(0, 1))
        for level, (_, start) in zip(plan.levels, plan.spectra_offsets(), strict=True):
            is_direct = level.block <= direct
            levels.append([level.block, level.radix, level.n_spectra, kept, offset, is_direct])
            if is_direct:
                n = -(-(level.n_spectra + 1) * level.block // 2) * 2
                taps = torch.nn.functional.pad(h, (0, max(0, n - length)))[:, :n]
                spectra.append(tiled(taps.T))
            else:
                n = level.n_spectra * level.transform
                spectra.append(whole[:, 2 * start : 2 * (start + n)])
                kept += level.kept * level.transform
            offset += spectra[-1].shape[1] // 2
        rows = torch.cat(spectra, 1).unflatten(1, (-1, 2))[None].contiguous()
        slots = length if length % 64 else length + 16
        self.plan, self.batch = plan, batch
        self.ring = torch.zeros(1, batch, tiles, slots, lanes)
        self.kept = torch.zeros(1, batch, tiles, kept, 2, lanes)
        self.spectra = rows
        self.taps = tiled(h[:, : plan.block_sizes[0]].T)[None].contiguous()
        self.positions = torch.zeros(batch, dtype=torch.int64)
        self.levels = torch.tensor(levels, dtype=torch.int64).reshape(-1, 6)
        self.y = torch.empty(batch, channels)

    def generate(self, u: Tensor, chunk: int = 256) -> None:
        """The whole length with u_{t+1} = y_t: one op call per token, or per `chunk` tokens."""
        ops = torch.ops.futurefill_kernels
        self.ring.zero_()
        self.positions.zero_()
        length = self.plan.length
        rest = (self.taps, None, self.positions)
        last = (self.kept, self.spectra, self.levels, length)
        y = torch.empty(chunk, *u.shape)
        if chunk == 1:
            u, y = u.clone(), y[0]
            for _ in range(length):
                ops.step.default(u, None, None, y, self.ring, *rest, None, 0, True, *last)
                u, y = y, u
            return
        for start in range(0, length, chunk):
            y = y[: length - start]
            ops.generate(u, y, self.ring, *rest, *last)
            u = y[-1].clone()


class Offline:
    """torch's FFT convolution of the whole sequence, over channel chunks."""

    def __init__(self, h: Tensor, batch: int) -> None:
        self.length = h.shape[1]
        self.u = torch.randn(batch, *h.shape)
        self.spectra = torch.fft.rfft(h, n=2 * self.length)
        self.y = torch.empty_like(self.u)
        times = {c: self.run(c, min(64, h.shape[0])) for c in (1, 4, 16, 64) for _ in range(2)}
        self.chunk = min(times, key=lambda c: times[c])

    def run(self, chunk: int, channels: int) -> float:
        """Seconds for the first `channels` channels."""
        start = time.perf_counter()
        for c in range(0, channels, chunk):
            x = torch.fft.rfft(self.u[:, c : c + chunk], n=2 * self.length)
            x *= self.spectra[c : c + chunk]
            self.y[:, c : c + chunk] = torch.fft.irfft(x, n=2 * self.length)[..., : self.length]
        return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shapes", nargs="*", default=SHAPES, help="B,D,L")
    parser.add_argument("--base", type=int, default=16)
    parser.add_argument("--radix", type=int, default=2)
    parser.add_argument("--blocks", help="block sizes instead of base and radix")
    parser.add_argument("--direct", type=int, default=32, help="largest block done directly")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--chunk", type=int, default=256, help="tokens per op call")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    for shape in args.shapes:
        batch, channels, length = (int(x) for x in shape.split(","))
        torch.manual_seed(0)
        h = torch.randn(channels, length)
        h /= h.abs().sum(1, keepdim=True)
        sizes = blocks_of(args.base, length, args.radix)
        if args.blocks:
            sizes = tuple(int(x) for x in args.blocks.split(",") if int(x) < length)
        online = Online(h, batch, Plan(length, sizes), args.direct)
        offline = Offline(h, batch)
        scale = 1e9 / (batch * channels * length)
        mine, theirs = [], []
        for _ in range(args.repeats):
            theirs.append(offline.run(offline.chunk, channels) * scale)
            start = time.perf_counter()
            online.generate(torch.randn(batch, channels), args.chunk)
            mine.append((time.perf_counter() - start) * scale)
        ratio = statistics.median(a / b for a, b in zip(mine, theirs, strict=True))
        print(
            f"{batch},{channels},{length} blocks {sizes} {_extension.cpu_isa()}: "
            f"online {min(mine):.2f} offline {min(theirs):.2f} ns per token and channel, "
            f"ratio {ratio:.3f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
