"""A whole online generation on the CPU against torch's offline FFT convolution of the sequence.

Offline is ``irfft(rfft(u, 2 L) * H)`` with H prepared, over channel chunks of the size that is
fastest here. Online generates with ``u_{t+1} = y_t``, one token of all channels after the other:
``step`` by one ``cache.step(u, out=y)`` per token, with u and y in a list that is there already,
``step without out`` by ``y = cache.step(u)``, ``generate``, the engine alone, by an op that loops
in C++ over 256 tokens. They take turns at every 2048 tokens, and there are as many caches, which
change hands after every generation: where a state lies moves its time by some percent. The first
generation, in which memory is touched for the first time, is not counted. Figures are medians of
paired ratios. Clearing a cache is not timed, nor is the preparation of spectra. Gradients are off,
as in all decoding.
"""

from __future__ import annotations

import argparse
import time
from functools import partial

import torch
from torch import Tensor

import futurefill_kernels as ff

from ..harness import shapes
from ..harness.machine import check_memory
from ..harness.rows import relative_error
from ..harness.timing import Times, measure_in_parts

SHAPES = [(1, 768, 8192), (1, 1024, 65536), (4, 1024, 16384), (1, 256, 262144), (1, 64, 1048576)]
_CHUNKS = (1, 2, 4, 8, 16, 32, 64)
_TOKENS = 256  # per call of the generate op
_PART = 2048  # tokens that one variant generates before another's turn


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``cpu-vs-torch``."""
    parser.add_argument("--repeats", type=int, default=3, help="turns")
    parser.add_argument("--blocks", help="block sizes, like 8,16,32; the planner's without")
    parser.add_argument("--first-block", type=int, help="radix 2 from this block instead")
    parser.add_argument("--no-step", action="store_true", help="only the op that loops in C++")


@torch.no_grad()
def run(args: argparse.Namespace) -> None:
    """Errors against float64 first, then the times, for every shape."""
    sizes = [(1, 32, 512)] if args.quick else args.shapes or SHAPES
    for batch, channels, length in sizes:
        _shape(args, batch, channels, length)


def _plan(args: argparse.Namespace, batch: int, channels: int, length: int) -> ff.Plan:
    if args.blocks:
        return ff.Plan(length, tuple(int(block) for block in args.blocks.split(",")))
    if args.first_block:
        return ff.Plan.continuous(length, args.first_block)
    return ff.make_plan(length, channels, batch_size=batch)


def _shape(args: argparse.Namespace, batch: int, channels: int, length: int) -> None:
    check_memory((40 * batch + 32) * channels * length, f"{batch},{channels},{length}")
    h = shapes.filters(channels, length)
    plan = _plan(args, batch, channels, length)
    rows = shapes.make_rows(batch, channels, length, torch.float32)
    offline = Offline(h, rows[0])
    names = ["generate"] if args.no_step else ["generate", "step", "step without out"]
    caches = _Caches(
        names, [ff.FutureFillCache(h, batch, length, plan=plan, impl="cpu") for _ in names]
    )
    views, parts = list(rows.unbind(0)), range(0, length, _PART)

    def part_of(name: str, part: int) -> None:
        start, stop = parts[part], min(parts[part] + _PART, length)
        cache = caches.of(name)
        if name == "generate":
            generate(cache, rows[start : stop + 1])
        elif name == "step":
            shapes.generate(cache, views[start : stop + 1])
        else:
            _without_out(cache, views[start : stop + 1])

    errors, last = {}, rows[-1].double()
    offline.run()
    errors["offline"] = offline.error()
    caches.next_turn()
    for name in names:
        rows[1:] = 0
        for part in range(len(parts)):
            part_of(name, part)
        if name == "step without out":
            errors[name] = relative_error(rows[-1], last)
            continue
        errors[name] = shapes.generation_error(rows, h)
        last = rows[-1].double()
    times = measure_in_parts(
        # offline comes before the others' first part
        {"offline": lambda part: offline.run() if part == 0 else None}
        | {name: partial(part_of, name) for name in names},
        len(parts),
        repeats=1 if args.quick else args.repeats,
        before={"caches": caches.next_turn},
    )
    cost = shapes.stream_cost(plan, batch, channels, channels, 4)
    each = 1e9 / (batch * channels * length)
    for name, found in times.items():
        ours = name != "offline"
        note = f"{found.p50 * each:.2f} ns per token and channel"
        if ours:
            note += f", {found.ratio(times['offline']):.3f} of offline"
            if name != "generate":
                note += f", {found.ratio(times['generate']):.3f} of the engine"
            note += f", {cost['flops'] / found.p50 / 1e9:.0f} GFLOP/s"
        else:
            note += f", chunks of {offline.chunk} channels"
        _report(args, name, (batch, channels, length), found, errors[name], note, ours, plan, cost)


class _Caches:
    """A cache for every name, another one in every turn."""

    def __init__(self, names: list[str], caches: list[ff.FutureFillCache]) -> None:
        self._names, self._caches = names, caches

    def next_turn(self) -> None:
        """Empty streams, handed on by one."""
        self._caches = self._caches[1:] + self._caches[:1]
        for cache in self._caches:
            clear(cache)

    def of(self, name: str) -> ff.FutureFillCache:
        """That of a name in this turn."""
        return self._caches[self._names.index(name)]


def _report(
    args: argparse.Namespace,
    name: str,
    shape: tuple[int, int, int],
    times: Times,
    error: float,
    note: str,
    ours: bool,
    plan: ff.Plan,
    cost: dict[str, float],
) -> None:
    batch, channels, length = shape
    args.report.add(
        name,
        impl="cpu" if ours else "torch",
        B=batch,
        D=channels,
        L=length,
        dtype=torch.float32,
        plan=plan if ours else None,
        times=times,
        tokens=batch * length,
        error=error,
        tolerance=shapes.tolerance(torch.float32),
        note=note,
        **(cost if ours else {}),
    )


def clear(cache: ff.FutureFillCache) -> None:
    """An empty stream again, also after `generate`, of which the cache's books know nothing."""
    cache.reset()
    state = cache.state
    for tensor in (state.ring, state.kept, state.work, state.positions):
        tensor.zero_()


def generate(cache: ff.FutureFillCache, rows: Tensor) -> None:
    """``shapes.generate`` in compiled calls, without Python between the tokens."""
    state = cache.state
    for start in range(0, rows.shape[0] - 1, _TOKENS):
        ff.ops.generate(state, rows[start], rows[start + 1 : start + 1 + _TOKENS])


def _without_out(cache: ff.FutureFillCache, rows: list[Tensor]) -> None:
    """``shapes.generate`` whose results are allocated; the last one is written to ``rows``."""
    u_t, step = rows[0], cache.step
    for _ in range(len(rows) - 1):
        u_t = step(u_t)
    rows[-1].copy_(u_t)


class Offline:
    """torch's FFT convolution of a random sequence, over channel chunks of the fastest size."""

    def __init__(self, h: Tensor, like: Tensor) -> None:
        self.h, self.length = h, h.shape[1]
        self.u = torch.randn(*like.shape, self.length, generator=torch.Generator().manual_seed(2))
        self.spectra = torch.fft.rfft(h, n=2 * self.length)
        self.y = torch.zeros_like(self.u)
        self.chunk = min((c for c in _CHUNKS if c <= h.shape[0]), key=self._seconds)

    def _seconds(self, chunk: int) -> float:
        """Least of two runs over 64 channels or all."""
        found = []
        for _ in range(2):
            start = time.perf_counter()
            self._channels(chunk, min(64, self.h.shape[0]))
            found.append(time.perf_counter() - start)
        return min(found)

    def _channels(self, chunk: int, channels: int) -> None:
        for c in range(0, channels, chunk):
            part = slice(c, min(c + chunk, channels))
            x = torch.fft.rfft(self.u[:, part], n=2 * self.length)
            x *= self.spectra[part]
            self.y[:, part] = torch.fft.irfft(x, n=2 * self.length)[..., : self.length]

    def run(self) -> None:
        """All channels."""
        self._channels(self.chunk, self.h.shape[0])

    def error(self) -> float:
        """Relative L2 error of at most 32 channels against float64."""
        part = slice(0, 32)
        expected = ff.causal_conv(self.u[:, part].double(), self.h[part].double())
        return relative_error(self.y[:, part], expected)
