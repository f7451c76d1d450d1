"""``python -m bench.gpu_check``: what only a device can show, in two parts of at most
eight minutes.

Part 1 is times: fills and prompts against their limits, the rates that plans go by, the planner's
regret, first tokens and prompts in chunks. Part 2: tests, sanitizers, steps and tokens of models.
Stages run one after the other, each in processes of its own and with its own time limit; one that
fails, is ended or is too slow does not hide the next. A table comes last; --out has rows like those
of bench/results, the rates and the table as JSON, and all output: a part writes at most 8 files.
The exit status is 0 only if every stage passed and nothing was too slow.

Needs an installed futurefill_kernels, this folder and tests/; no compiler and no network.
``--device cpu --quick`` runs the same stages at small sizes on any machine, and judges no time.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from .stages import GOOD, Stage, line, python, run


def stages_of(
    device: str, out: Path, quick: bool, part: int, prototype: Path | None = None
) -> list[Stage]:
    """The stages of a part, what nobody has measured yet first."""
    there = ("--device", device)
    small = ("--quick",) if quick else ()
    other = () if prototype is None else ("--prototype", prototype)

    def bench(name: str, limit: float, file: str, *options: object) -> Stage:
        rows = out / file
        command = python("-m", "bench", name, *there, *small, *options, "--csv", rows)
        return Stage(file.removesuffix(".csv"), limit, command, rows)

    def stage(name: str, module: str, limit: float, *options: object) -> Stage:
        command = python("-m", f"bench.gpu_check.{module}", *there, *options)
        return Stage(name, limit, command)

    environment = stage("environment", "environment", 15)
    compiled = ("compile", "compile_kernels")
    if part == 1:
        rates = out / "rates.json"
        seconds = ("--seconds", 2 if quick else 25, "--output", rates)
        tune = python("-m", "futurefill_kernels", "tune", *there, *seconds)
        each = ("--impl", "each")
        prompts = ("--gated", "--prompts", "4096,32768,131072,2048x16", "--repeats", 7)
        chunks = ("--prompt", 65536, "--sizes", "512,2048,4096", "--repeats", 3)
        # their filters are made on the CPU
        wide = () if quick else ("--shapes", "1,1024,256", "--threads", 8)
        return [
            environment,
            stage(*compiled, 70, *small, *other, "--part", 1),
            bench("gpu-fills", 75, "fills.csv", *other),
            bench("prefill", 35, "prompts.csv", *each, *prompts, *wide),
            Stage("tune", 60, tune),
            bench("regret", 90, "regret.csv"),
            bench("first-token", 90, "first-token.csv", "--seconds", 55),
            bench("chunks", 35, "chunks.csv", *each, *chunks, *wide),
        ]
    model = ("--parts", "model", "--lengths", "4096", "--no-naive", "--repeats", "1")
    return [
        environment,
        stage(*compiled, 55, *small, "--part", 2),
        stage("tests", "run_tests", 120, *small, "--seconds", 112, "--out", out),
        stage("sanitizer", "sanitizer", 35),
        bench("kernels", 25, "kernels.csv"),
        bench("decode", 40, "decode.csv", "--tokens", "1024", "--batch-sizes", "1,16,64"),
        bench("paper", 40, "model.csv", *model),
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """Run all stages. Returns 1 when one did not pass or was too slow."""
    parser = argparse.ArgumentParser(prog="python -m bench.gpu_check", description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out", type=Path, default=Path("gpu-check"), help="folder for results")
    parser.add_argument("--quick", action="store_true", help="small sizes")
    parser.add_argument(
        "--part", type=int, choices=(1, 2), help="one part, into a folder of its own; both if unset"
    )
    parser.add_argument(
        "--prototype", type=Path, metavar="FILE", help="as of `bench gpu-fills`, which it goes to"
    )
    parser.add_argument("--only", nargs="+", metavar="STAGE", help="only these stages")
    args = parser.parse_args(argv)
    out = args.out.resolve()
    prototype = None if args.prototype is None else args.prototype.resolve()
    parts = (args.part,) if args.part else (1, 2)
    stages = [
        stage
        for part in parts
        for stage in stages_of(args.device, out, args.quick, part, prototype)
    ]
    for name in args.only or ():
        if name not in [stage.name for stage in stages]:
            parser.error(f"unknown stage {name!r}: {', '.join(stage.name for stage in stages)}")
    # one folder of compiled kernels for all stages and for the next run
    folder = Path(tempfile.gettempdir()) / "futurefill-gpu-check"
    os.environ.setdefault("TRITON_CACHE_DIR", str(folder))
    results = run([s for s in stages if not args.only or s.name in args.only], out)
    print()
    for result in results:
        print(line(result))
    return int(any(result.status not in GOOD for result in results))


if __name__ == "__main__":
    sys.exit(main())
