"""Stage: ``pytest --device`` in several processes, until the time is over.

What was not reached is counted, and named in ``tests.json`` beside what failed.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from ..harness.machine import ROOT
from .stages import SUMMARY

#: Of --quick.
FEW = ("tests/implementations/test_on_a_device.py", "tests/cache/test_prompt.py")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the tests. Returns 1 when one failed, or none ran."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--seconds", type=float, default=112.0)
    parser.add_argument("--out", type=Path, default=Path("gpu-check"))
    parser.add_argument("--shards", type=int, default=min(6, max(1, (os.cpu_count() or 1) // 2)))
    parser.add_argument("--quick", action="store_true", help=f"only {', '.join(FEW)}")
    parser.add_argument("paths", nargs="*", help="tests to run, default all")
    args = parser.parse_args(argv)
    paths = args.paths or (FEW if args.quick else ["tests"])
    with tempfile.TemporaryDirectory() as folder:
        shards = [Path(folder) / f"{i}.txt" for i in range(args.shards)]
        running = [_start(args, paths, i, file) for i, file in enumerate(shards)]
        _wait(running, args.seconds)
        outcomes = outcomes_of(shards)
    names = {
        kind: sorted(test for test, outcome in outcomes.items() if outcome == kind)
        for kind in ("failed", "not reached", "passed", "skipped")
    }
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "tests.json").write_text(json.dumps(names, indent=1) + "\n")
    for test in names["failed"]:
        print(f"FAILED {test}")
    counts = ", ".join(f"{len(tests)} {kind}" for kind, tests in names.items())
    broken = [p.returncode for p in running if p.returncode not in (0, 1, 5, -signal.SIGKILL)]
    print(f"{SUMMARY}{counts}" + (f"; pytest ended with {broken}" if broken else ""))
    return int(bool(names["failed"] or broken) or not names["passed"])


def _start(
    args: argparse.Namespace, paths: Sequence[str], shard: int, file: Path
) -> subprocess.Popen[bytes]:
    command = [
        sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--device", args.device,
        "-p", "bench.gpu_check.progress", "--progress", str(file),
        "--shard", f"{shard}/{args.shards}", "--tb=short", *paths,
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "2")}
    return subprocess.Popen(command, cwd=ROOT, env=environment, start_new_session=True)


def _wait(running: Sequence[subprocess.Popen[bytes]], seconds: float) -> None:
    """Until all have ended, or their time is over and they are ended."""
    end = time.monotonic() + seconds
    try:
        for process in running:
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, end - time.monotonic()))
    finally:
        for process in running:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def outcomes_of(files: Sequence[Path]) -> dict[str, str]:
    """passed, failed, skipped or "not reached" by test, from what `progress` wrote."""
    found: dict[str, str] = {}
    for file in files:
        for text in file.read_text().splitlines() if file.is_file() else ():
            outcome, _, test = text.partition(" ")
            if outcome == "selected":
                found.setdefault(test, "not reached")
            elif found.get(test) != "failed":
                found[test] = outcome
    return found


if __name__ == "__main__":
    sys.exit(main())
