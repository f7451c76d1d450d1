"""Random programs over the whole surface of the caches, every output against direct sums.

A case is one compared operation: the outputs of one step, prompt or chunk of a layer, or the logits
of one call of a model. Failing programs are shrunk and printed with the command that repeats them.
With TRITON_INTERPRET=1 Triton's kernels run too, a few programs in a thousand.
"""

from __future__ import annotations

import argparse
import itertools
import random
import re
import shlex
import sys
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context

import torch

from futurefill_kernels.implementations.select import IMPLEMENTATIONS, cannot_run

from ..campaign.draw import model_program, request_program, stream_program
from ..campaign.program import Program, parse
from ..campaign.runs import outcome_of
from ..campaign.shrink import shrunk
from ..harness import machine

#: How often programs of an implementation are drawn: the reference takes five times as long for one
#: as compiled code, the interpreter a second for a step.
WEIGHTS = {"cpu": 100.0, "reference": 12.0, "triton": 0.4}


@dataclass
class Count:
    """Of the programs of one kind and implementation."""

    programs: int = 0
    cases: int = 0
    failures: int = 0
    worst: float = 0.0

    def and_of(self, other: Count) -> Count:
        """Both together."""
        return Count(
            self.programs + other.programs, self.cases + other.cases,
            self.failures + other.failures, max(self.worst, other.worst),
        )  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``fuzz``."""
    parser.add_argument("--seconds", type=float, default=60.0, help="how long")
    parser.add_argument("--seed", type=int, default=0, help="of the programs")
    parser.add_argument("--program", type=int, help="only this one of the seed's programs")
    parser.add_argument("--jobs", type=int, default=1, help="processes that share the programs")
    parser.add_argument("--replay", metavar="TEXT", help="a program that was printed, once")
    parser.add_argument("--shrink", type=float, default=60.0, help="seconds for each failure")


def run(args: argparse.Namespace) -> None:
    """Draw and run programs until the time is over; one row for each kind and implementation."""
    if args.replay is not None:
        return _replay(args)
    names = _implementations(args.impl)
    machine.describe(args.device)  # of the commit that the run begins with
    seconds = 2.0 if args.quick else args.seconds
    jobs = 1 if args.program is not None else max(args.jobs, 1)
    begin = time.monotonic()
    numbers: list[Iterable[int]] = [itertools.count(job, jobs) for job in range(jobs)]
    if args.program is not None:
        numbers = [[args.program]]
    shares = [(args.seed, names, seconds, args.shrink, each) for each in numbers]
    if jobs == 1:
        found = [_campaign(*shares[0])]
    else:
        with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
            found = list(pool.map(_campaign, *zip(*shares, strict=True)))
    took = time.monotonic() - begin
    counts: dict[tuple[str, str], Count] = {}
    for part in found:
        for key, count in part.items():
            counts[key] = counts.get(key, Count()).and_of(count)
    for (kind, impl), count in sorted(counts.items()):
        args.report.add(
            f"{kind} programs, {impl}", impl=impl, error=float("nan") if count.failures else
            count.worst, tolerance=1.0, quantity="compared operations", value=float(count.cases),
            unit="cases", note=f"{count.programs:,} programs, {count.failures} failures; the error "
            f"is the largest over its bound; all in {took / 60:.1f} min",
        )  # fmt: skip


def _campaign(
    seed: int, names: list[str], seconds: float, shrink: float, numbers: Iterable[int]
) -> dict[tuple[str, str], Count]:
    """Programs of a seed with these numbers, until the time is over."""
    torch.set_num_threads(1)
    counts: dict[tuple[str, str], Count] = {}
    begin = time.monotonic()
    for number, program in _programs(seed, names, numbers):
        count = counts.setdefault((program.kind, program.setup["impl"]), Count())
        outcome = outcome_of(program)
        count.programs += 1
        count.cases += outcome.cases
        count.worst = max(count.worst, outcome.worst)
        if outcome.failure is not None:
            count.failures += 1
            _explain(program, outcome.failure, f"seed {seed}, program {number}", shrink)
        if time.monotonic() - begin > seconds:
            break
    return counts


def _implementations(asked: str) -> list[str]:
    """What runs here, or the one asked for. RuntimeError where it does not run."""
    reasons = cannot_run(torch.device("cpu"), torch.float32)
    if asked == "auto":
        return [name for name in WEIGHTS if not reasons[name]]
    if asked not in IMPLEMENTATIONS or reasons[asked]:
        raise RuntimeError(f"impl={asked!r} does not run here: {reasons.get(asked, 'no such one')}")
    return [asked]


def _programs(seed: int, names: list[str], numbers: Iterable[int]) -> Iterator[tuple[int, Program]]:
    """The seed's programs."""
    others = [name for name in names if name != "triton"] or names
    for number in numbers:
        rng = random.Random(f"{seed}:{number}")
        impl = rng.choices(names, [WEIGHTS[name] for name in names])[0]
        dtypes = ["float32", "float32", "bfloat16"]
        if impl != "triton":
            dtypes.append("float64")
        kind = rng.random()
        if kind < 0.04:
            yield number, request_program(rng, impl, rng.choice(dtypes))
        elif kind < 0.15:
            yield number, model_program(rng, impl, rng.choice(dtypes), others)
        else:
            dtypes.append("float16")
            yield number, stream_program(rng, impl, rng.choice(dtypes), others)


def _explain(program: Program, failure: str, name: str, seconds: float) -> None:
    """Print a failing program and the shortest one found that fails like it."""
    print(f"FAILED {name}: {failure}", file=sys.stderr)
    kind = _kind(failure)
    short = shrunk(program, lambda p: _kind(outcome_of(p).failure) == kind, seconds)
    print(f"  shrunk: {outcome_of(short).failure}", file=sys.stderr)
    print(
        f"  python -m bench fuzz --replay {shlex.quote(short.text())}", file=sys.stderr, flush=True
    )


def _kind(failure: str | None) -> str:
    """What a shorter program has to fail with: wrong numbers, or a message that begins alike."""
    if failure is None:
        return ""
    return "the bound" if "the bound" in failure else re.sub(r"\d+", "", failure)[:40]


def _replay(args: argparse.Namespace) -> None:
    program = parse(args.replay)
    outcome = outcome_of(program)
    if outcome.failure is not None:
        print(f"operation {outcome.at}: {outcome.failure}", file=sys.stderr)
    args.report.add(
        "replay", impl=program.setup["impl"], error=float("nan") if outcome.failure else
        outcome.worst, tolerance=1.0, quantity="compared operations", value=float(outcome.cases),
        unit="cases",
    )  # fmt: skip
