"""Rows: what every bench reports, in one format, kept as they come.

A bench module has ``add_arguments(parser)`` for options of its own and ``run(args)``. It checks,
then times (``harness.timing.measure``), and hands each result to ``args.report.add(variant, ...)``:

    error = relative_error(y, expected)              # against float64
    times = measure({"ours": a, "peer": b}, device=args.device, repeats=5)
    args.report.add("ours", B=1, D=64, L=1024, impl="cpu", plan=cache.plan, times=times["ours"],
                    tokens=1024, error=error, tolerance=1e-6, bytes=n, flops=m)
    args.report.add("peer", B=1, D=64, L=1024, times=times["peer"], error=e, tolerance=1e-6,
                    baseline=("ours", times["ours"]))  # ratio: paired median, ours over peer

A row whose error exceeds its tolerance prints and stores no time, and the command exits with 1. So
it does where something raised inside ``args.report.guard(variant, ...)``. A ``limit`` of ``value``
gives a verdict, "measured" or "too slow", which changes no exit status.
``args.shapes``: (B, D, L) tuples or None; ``args.dtype``: torch.dtype; ``args.quick``: for CI.
"""

from __future__ import annotations

import csv
import json
import math
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from futurefill_kernels.plan import Plan

from . import machine
from .timing import Times


@dataclass
class Row:
    """One result. Times in seconds, sizes in bytes, ``""`` where a field does not apply."""

    bench: str
    variant: str
    status: str = "ok"  # or "wrong", or why there is no result
    impl: str = ""
    device: str = ""
    threads: int | str = ""
    B: int | str = ""
    D: int | str = ""
    G: int | str = ""
    L: int | str = ""
    P: int | str = ""
    layers: int | str = ""
    states: int | str = ""
    dtype: str = ""
    plan: str = ""
    p20: float | str = ""
    p50: float | str = ""
    p80: float | str = ""
    p99: float | str = ""
    max: float | str = ""
    samples: int | str = ""
    tokens_per_s: float | str = ""
    bytes: float | str = ""
    flops: float | str = ""
    roof_bytes_per_s: float | str = ""
    roof_flops: float | str = ""
    baseline: str = ""
    ratio: float | str = ""  # the baseline's time over this variant's: above 1 means this is faster
    error: float | str = ""
    tolerance: float | str = ""
    quantity: str = ""
    value: float | str = ""
    unit: str = ""
    floor: float | str = ""  # seconds that the bytes which must move take at least
    limit: float | str = ""  # what value may be
    verdict: str = ""  # of a value with a limit: "measured" or "too slow"
    note: str = ""
    torch: str = ""
    python: str = ""
    version: str = ""
    commit: str = ""
    command: str = ""


class Report:
    """Rows of one command: printed, and written to the files at once."""

    def __init__(
        self,
        bench: str,
        command: str,
        threads: int,
        csv_file: Path | None,
        json_file: Path | None,
        device: torch.device = machine.CPU,
        judges: bool = True,
    ) -> None:
        """judges: whether limits give a verdict; they are those of a GPU, at full sizes."""
        self.bench, self.command, self.threads, self.device = bench, command, threads, device
        self.judges = judges
        self.csv_file, self.json_file = csv_file, json_file
        self.rows: list[Row] = []
        for file in (csv_file, json_file):
            if file is not None:
                file.parent.mkdir(parents=True, exist_ok=True)
        if csv_file is not None:
            with csv_file.open("w", newline="") as out:
                csv.writer(out, lineterminator="\n").writerow(f.name for f in fields(Row))

    @property
    def failed(self) -> bool:
        """Whether a check was red, or a result is missing that should be there."""
        return any(row.status.startswith(("wrong", "failed")) for row in self.rows)

    @contextmanager
    def guard(self, variant: str, **others: Any) -> Iterator[None]:
        """What raises inside becomes a row that says so; the next ones may still have results."""
        try:
            yield
        except Exception as error:
            traceback.print_exc()
            self.fail(variant, error, **others)

    def fail(self, variant: str, error: Exception, **others: Any) -> Row:
        """A row for what raised an error."""
        text = " ".join(str(error).split())[:300]
        return self.add(variant, status=f"failed: {type(error).__name__}: {text}", **others)

    def add(
        self,
        variant: str,
        *,
        times: Times | None = None,
        tokens: int | None = None,
        plan: Plan | None = None,
        dtype: torch.dtype | None = None,
        error: float | None = None,
        tolerance: float | None = None,
        bytes: float | None = None,
        flops: float | None = None,
        baseline: tuple[str, Times] | None = None,
        **others: Any,
    ) -> Row:
        """Make a row, print it and store it.

        tokens: produced in one timed call, for tokens per second. bytes, flops: of one timed call,
        for the shares of the measured roofs. error: of the check that ran before, against
        tolerance. baseline: a variant's name and times of the same turns. others: fields of `Row`.
        """
        row = Row(self.bench, variant, threads=self.threads, command=self.command)
        for name, value in {**machine.describe(self.device), **others}.items():
            if name not in Row.__dataclass_fields__:
                raise TypeError(f"unknown field {name!r} of a row")
            setattr(row, name, value)
        row.plan = "" if plan is None else " ".join(map(str, plan.block_sizes))
        if plan is not None and plan.slack_from is not None:
            row.plan += f" slack from {plan.slack_from}"
        row.dtype = "" if dtype is None else str(dtype).removeprefix("torch.")
        if error is not None:
            row.error = error
            row.tolerance = "" if tolerance is None else tolerance
            if math.isnan(error) or (tolerance is not None and not error <= tolerance):
                row.status, times = "wrong", None
        if times is not None:
            self._add_times(row, times, tokens, bytes, flops)
            if baseline is not None:
                row.baseline, row.ratio = baseline[0], baseline[1].ratio(times)
        if row.status == "wrong" and (row.limit != "" or row.floor != ""):
            row.value = ""  # it is of a time
        elif row.limit != "" and self.judges:
            row.verdict = "measured" if float(row.value) <= float(row.limit) else "too slow"
        self.rows.append(row)
        print(text_of(row), flush=True)
        self._write(row)
        return row

    def _add_times(
        self, row: Row, times: Times, tokens: int | None, moved: float | None, flops: float | None
    ) -> None:
        row.p20, row.p50, row.p80 = times.quantile(0.2), times.p50, times.quantile(0.8)
        row.samples = len(times.seconds)
        if len(times.seconds) >= 100:
            row.p99 = times.quantile(0.99)
        row.max = max(times.seconds)
        if tokens is not None:
            row.tokens_per_s = tokens / times.p50
        if moved is not None or flops is not None:
            row.roof_bytes_per_s, row.roof_flops = machine.roofs(int(row.threads), self.device)
            row.bytes = "" if moved is None else moved
            row.flops = "" if flops is None else flops

    def _write(self, row: Row) -> None:
        if self.csv_file is not None:
            with self.csv_file.open("a", newline="") as out:
                csv.writer(out, lineterminator="\n").writerow(map(_cell, asdict(row).values()))
        if self.json_file is not None:
            text = json.dumps([asdict(r) for r in self.rows], indent=1)
            self.json_file.write_text(text + "\n")


def _cell(value: object) -> object:
    return f"{value:.8g}" if isinstance(value, float) else value


def read(paths: Sequence[Path]) -> list[dict[str, str]]:
    """The rows of CSV files, as text."""
    rows: list[dict[str, str]] = []
    for path in paths:
        with path.open(newline="") as file:
            rows.extend(csv.DictReader(file))
    return rows


def shares(row: Mapping[str, object]) -> tuple[float | None, float | None]:
    """Of the measured bandwidth and FLOP/s, what the row's bytes and FLOPs in its median time are.

    Bytes that a cache holds may exceed the bandwidth, which is that of memory. FLOPs are nominal,
    those of radix-2 transforms, against a matrix product's: the kernels may need fewer.
    """

    def share(amount: str, roof: str) -> float | None:
        if "" in (row[amount], row[roof], row["p50"]):
            return None
        done, most, seconds = (float(str(row[field])) for field in (amount, roof, "p50"))
        return done / most / seconds

    return share("bytes", "roof_bytes_per_s"), share("flops", "roof_flops")


def text_of(row: Row) -> str:
    """One line for people."""
    sizes = " ".join(
        f"{name}={getattr(row, name)}"
        for name in ("B", "D", "L", "P", "layers", "states", "dtype")
        if getattr(row, name) != ""
    )
    parts = [f"{row.bench:<9} {row.variant:<28} {sizes}"]
    if row.error != "":
        parts.append(f"error {row.error:.1e}")
    if row.status != "ok":
        parts.append(row.status.upper() if row.status == "wrong" else row.status)
        if row.status == "wrong":
            parts.append(f"(required <= {row.tolerance:.0e}), no time is printed")
    if row.p50 != "":
        parts.append(f"{seconds_text(float(row.p50))} ({row.samples} samples)")
    if row.max != "" and row.p99 != "":
        parts.append(f"p99 {seconds_text(float(row.p99))}, max {seconds_text(float(row.max))}")
    if row.tokens_per_s != "":
        parts.append(f"{row.tokens_per_s:,.0f} tokens/s")
    for share, roof in zip(shares(asdict(row)), ("bandwidth", "FLOP/s"), strict=True):
        if share is not None:
            parts.append(f"{100 * share:.0f}% of the {roof}")
    if row.ratio != "":
        parts.append(f"{row.ratio:.3g}x the speed of {row.baseline}")
    if row.quantity and row.value != "":
        parts.append(f"{row.quantity} {row.value:.6g} {row.unit}".rstrip())
    if row.limit != "":
        parts.append(f"(at most {row.limit:.4g}) {row.verdict.upper()}".rstrip())
    if row.note:
        parts.append(row.note)
    return "  ".join(parts)


def seconds_text(seconds: float) -> str:
    """A time with a unit that fits it."""
    units = (("h", 3600.0), ("min", 60.0), ("s", 1.0), ("ms", 1e-3), ("us", 1e-6))
    if 60 <= seconds < 120:
        return f"{seconds:.3g} s"
    for unit, scale in units:
        if seconds >= scale:
            return f"{seconds / scale:.3g} {unit}"
    return f"{seconds * 1e9:.3g} ns"


def relative_error(found: Tensor, expected: Tensor) -> float:
    """Relative L2 error; expected is float64."""
    difference = (found.detach().double().cpu() - expected.double().cpu()).norm()
    return float(difference / expected.double().norm().clamp(min=1e-300))


def note(text: str) -> None:
    """A remark that belongs to no row, on stderr."""
    print(text, file=sys.stderr, flush=True)
