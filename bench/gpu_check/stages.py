"""Stages: commands with time limits of their own, which cannot stop each other."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TextIO

from ..harness.machine import ROOT
from ..harness.rows import read

#: Line of a stage's output that goes into the table; the last one counts.
SUMMARY = "summary: "
#: What a stage may be that has nothing to be looked at.
GOOD = ("passed", "measured")


@dataclass(frozen=True)
class Stage:
    """A command and the seconds it may take. rows: a CSV file that it writes while it runs."""

    name: str
    limit: float
    command: Sequence[str]
    rows: Path | None = None


@dataclass
class Result:
    """What became of a stage. status: passed, failed or timed out; of one whose rows have limits
    and that passed, measured or too slow.
    """

    name: str
    status: str
    seconds: float
    limit: float
    summary: str
    command: str
    output: str = field(repr=False, default="")


def run(stages: Sequence[Stage], out: Path, say: Callable[[str], None] = print) -> list[Result]:
    """All stages, one after the other, whatever becomes of each.

    ``out/log.txt`` has their output as it comes, ``out/report.json`` what became of them so far.
    """
    out.mkdir(parents=True, exist_ok=True)
    results: list[Result] = []
    with (out / "log.txt").open("w") as log:
        for stage in stages:
            say(f"{stage.name} (at most {stage.limit:.0f} s) ...")
            results.append(run_one(stage, log))
            say(line(results[-1]))
            report = [asdict(result) for result in results]
            (out / "report.json").write_text(json.dumps(report, indent=1) + "\n")
    return results


def run_one(stage: Stage, log: TextIO) -> Result:
    """One stage in a process group of its own, which is ended when its time is over."""
    log.write(f"=== {stage.name}: {' '.join(stage.command)}\n")
    log.flush()
    path = Path(log.name)
    begin, start = path.stat().st_size, time.monotonic()
    process = subprocess.Popen(
        list(stage.command), cwd=ROOT, stdout=log, stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        code = process.wait(stage.limit)
        status = "passed" if code == 0 else f"failed ({code})"
    except subprocess.TimeoutExpired:
        status = "timed out"
    finally:
        with suppress(ProcessLookupError):  # also what a stage left behind
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    seconds = time.monotonic() - start
    log.write(f"=== {stage.name}: {status} after {seconds:.1f} s\n\n")
    log.flush()
    with path.open(errors="replace") as file:
        file.seek(begin)
        output = file.read()
    judged = judged_rows(stage)
    if status == "passed" and judged:
        slow = any(row["verdict"] != "measured" for row in judged)
        status = "too slow" if slow else "measured"
    return Result(
        stage.name, status, seconds, stage.limit, summary_of(stage, output, status, judged),
        " ".join(stage.command), output[-20000:],
    )  # fmt: skip


def judged_rows(stage: Stage) -> list[dict[str, str]]:
    """Rows of a stage with a verdict."""
    if stage.rows is None or not stage.rows.is_file():
        return []
    return [row for row in read([stage.rows]) if row.get("verdict")]


def summary_of(
    stage: Stage, output: str, status: str, judged: Sequence[Mapping[str, str]] = ()
) -> str:
    """The stage's own summary, else the number of its rows and their verdicts, else its last
    line.
    """
    found = re.findall(rf"^{SUMMARY}(.*)$", output, flags=re.M)
    if found:
        return found[-1]
    lines = [text for text in output.splitlines() if text.strip() and not text.startswith("===")]
    last = lines[-1].strip()[:160] if lines else ""
    if stage.rows is not None and stage.rows.is_file():
        parts = [f"{len(read([stage.rows]))} rows in {stage.rows.name}", *verdicts(judged)]
        return "; ".join(parts if status in (*GOOD, "too slow") else [*parts, last])
    return last


def verdicts(judged: Sequence[Mapping[str, str]]) -> Iterator[str]:
    """Of each variant and quantity how many are within the limit, and which is farthest off."""
    groups: dict[tuple[str, str], list[Mapping[str, str]]] = {}
    for row in judged:
        groups.setdefault((row["variant"], row["quantity"]), []).append(row)
    for (variant, quantity), rows in groups.items():
        good = sum(row["verdict"] == "measured" for row in rows)
        worst = max(rows, key=lambda row: float(row["value"]) / float(row["limit"]))
        sizes = " ".join(f"{name}={worst[name]}" for name in ("B", "L", "P") if worst[name])
        yield (
            f"{variant} {quantity}: {good} of {len(rows)}, worst {float(worst['value']):.2f} "
            f"(at most {float(worst['limit']):g}) at {sizes}"
        )


def line(result: Result) -> str:
    """A result as one line of the table."""
    seconds = f"{result.seconds:.0f} of {result.limit:.0f} s"
    return f"{result.name:<12} {result.status:<12} {seconds:>14}  {result.summary}"


def python(*arguments: object) -> tuple[str, ...]:
    """A command of this interpreter."""
    return (sys.executable, *map(str, arguments))
