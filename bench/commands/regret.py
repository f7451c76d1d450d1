"""The planner's regret with many layers: its plan against the best of all plans with radix 2, 4
and 8 and of all implementations, each chosen for the steps and for every level.

The best is found from parts: a token's steps by first block, firings by block, products and
implementation, all measured here and summed up ("from parts": no candidate's stream was run).
Planned and best are then run whole, in turns; there the caches hold what nothing else drives out.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

import futurefill_kernels as ff
from futurefill_kernels.implementations.select import IMPLEMENTATIONS, on_this_gpu
from futurefill_kernels.planning import gpu_choice
from futurefill_kernels.planning.device import DeviceInfo
from futurefill_kernels.planning.gpu_plan import FIRST_BLOCKS, LONGEST_FIRST_BLOCK
from futurefill_kernels.planning.search import cheapest_block_sizes
from futurefill_kernels.planning.workload import Workload

from ..harness.implementations import EACH, fills_of, names_of
from ..harness.machine import check_memory
from ..harness.parts import Parts
from ..harness.rows import relative_error
from ..harness.streams import Stream
from ..harness.timing import measure

RADICES = (2, 4, 8)
#: What the planned time may be over the best.
LIMIT = 1.10
_CHECKED = 32  # positions


class Choice(NamedTuple):
    """A plan, what does its steps, and what fills each level."""

    plan: ff.Plan
    steps: str
    fills: tuple[str, ...]

    @property
    def names(self) -> str:
        """For people."""
        return f"steps {self.steps}, fills {' '.join(self.fills) or 'none'}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``regret``."""
    parser.set_defaults(impl=EACH)
    parser.add_argument(
        "--streams", default="1x1024x16384x24,8x1024x4096x8,1x1024x65536x24",
        help="rows x channels x tokens x layers",
    )  # fmt: skip
    parser.add_argument("--repeats", type=int, default=3)


def run(args: argparse.Namespace) -> None:
    """Every stream: parts, then the two whole streams, checked against float64."""
    streams = [tuple(map(int, text.split("x"))) for text in args.streams.split(",")]
    if args.quick:
        streams, args.repeats = [(2, 8, 64, 2), (1, 8, 100, 1)], 1
    for batch, channels, length, layers in streams:
        with args.report.guard("stream", B=batch, D=channels, L=length, layers=layers):
            check_memory(
                24 * layers * (batch + 1) * channels * length,
                f"streams of {layers} layers, B={batch} D={channels} L={length}",
                args.device,
            )
            _stream(args, batch, channels, length, layers)


@torch.no_grad()
def _stream(
    args: argparse.Namespace, batch: int, channels: int, length: int, layers: int
) -> None:  # fmt: skip
    generator = torch.Generator(args.device).manual_seed(0)
    h = torch.randn(channels, length, generator=generator, device=args.device) / length**0.5
    u = torch.randn(batch, channels, generator=generator, device=args.device)
    fields = {"B": batch, "D": channels, "L": length, "layers": layers, "dtype": h.dtype}
    parts = Parts(h, layers, u, args.repeats)
    found = {"planned": planned(args.device, batch, channels, length, layers)}
    found["best"] = best(args, parts, length)
    seconds = {name: parts.stream(*choice) for name, choice in found.items()}
    for name, choice in found.items():
        args.report.add(
            f"{name}, from parts", **fields, plan=choice.plan, impl=choice.steps,
            quantity="a token", value=1e6 * seconds[name], unit="us", note=choice.names,
        )  # fmt: skip
    args.report.add(
        "regret, from parts", **fields, quantity="planned / best",
        value=seconds["planned"] / seconds["best"], limit=LIMIT,
        note="of sums of measured steps and firings",
    )  # fmt: skip
    _whole(args, found, h, u, layers, fields, seconds)


def _whole(
    args: argparse.Namespace, found: dict[str, Choice], h: Tensor, u: Tensor, layers: int,
    fields: dict[str, object], seconds: dict[str, float],
) -> None:  # fmt: skip
    """Both streams, every token."""
    length = h.shape[1]
    streams = {
        name: Stream(choice.plan, choice.steps, choice.fills, h, layers, u)
        for name, choice in found.items()
    }
    at = sorted({length - 1, *range(0, length, max(1, length // _CHECKED))})
    expected = u.double()[..., None] * h.double().cumsum(1)[:, at]
    errors = {name: relative_error(s.outputs(at), expected) for name, s in streams.items()}
    times = measure(
        {name: partial(stream.run, length) for name, stream in streams.items()},
        device=args.device,
        repeats=max(1, args.repeats - 1),
        warmup=0,
    )
    for name, choice in found.items():
        part = times[name].p50 / length
        args.report.add(
            f"{name}, whole", **fields, plan=choice.plan, impl=choice.steps, times=times[name],
            tokens=u.shape[0] * length, error=errors[name], tolerance=1e-5,
            note=f"{1e6 * part:.2f} us a token, {part / seconds[name]:.2f} of its parts",
        )  # fmt: skip
    worst = max(errors.values())
    args.report.add(
        "regret, whole", **fields, quantity="planned / best", error=worst, tolerance=1e-5,
        value=times["planned"].ratio(times["best"]), limit=LIMIT,
    )  # fmt: skip


def planned(device: torch.device, batch: int, channels: int, length: int, layers: int) -> Choice:
    """What a cache with ``impl="auto"`` does; on a CPU, in tests, ``reference`` does all."""
    if device.type != "cuda":
        plan = ff.make_plan(length, channels, batch_size=batch, layers=layers)
        return Choice(plan, "reference", ("reference",) * len(plan.levels))
    plan = ff.make_plan(length, channels, batch_size=batch, layers=layers, device=device)
    impls, info = on_this_gpu(device, torch.float32), DeviceInfo.of(device)
    workload = Workload(length, length, channels, batch, layers, channels, impls=impls)
    steps = next(name for name in gpu_choice.order(info) if name in impls)
    return Choice(plan, steps, gpu_choice.of_levels(plan, workload, info))


def best(args: argparse.Namespace, parts: Parts, length: int) -> Choice:
    """The least sum of parts."""
    steps = _separate(names_of(args.impl, args.device))

    def fastest_steps(block: int) -> str:
        return min(steps, key=lambda name: parts.steps(name, block))

    def fastest_fills(block: int, radix: int) -> str:
        names = _separate(fills_of(args.impl, args.device, block))
        return min(names, key=lambda name: parts.level(name, length, block, radix))

    def first(block: int) -> float:
        if block > LONGEST_FIRST_BLOCK:
            return math.inf
        return parts.steps(fastest_steps(block), block)

    def level(block: int, radix: int) -> float:
        if radix not in range(2, max(RADICES) + 1) or block < min(FIRST_BLOCKS):
            return math.inf
        return parts.level(fastest_fills(block, radix), length, block, radix)

    sizes = cheapest_block_sizes(length, FIRST_BLOCKS, first, level, taps=length)
    plan = ff.Plan(length, sizes)
    fills = tuple(fastest_fills(level.block, level.radix) for level in plan.levels)
    return Choice(plan, fastest_steps(plan.base), fills)


def _separate(names: Sequence[str]) -> list[str]:
    """Those whose steps do no fills, so that both can be timed."""
    own = [n for n in names if n not in IMPLEMENTATIONS]
    return own + [
        n for n in names if n in IMPLEMENTATIONS and not IMPLEMENTATIONS[n].capabilities.fuses_fill
    ]
