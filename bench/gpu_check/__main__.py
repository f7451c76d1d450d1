"""``python -m bench.gpu_check``: what only a device can show, in at most six minutes.

Stages run one after the other, each in processes of its own and with its own time limit; one that
fails or is ended does not hide the next. A table comes last; --out has rows like those of
bench/results, the table as JSON and all output. The exit status is 0 only if every stage passed.

Needs an installed futurefill_kernels, this folder and tests/; no compiler and no network.
``--device cpu --quick`` runs the same stages at small sizes on any machine.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from .stages import Stage, line, python, run


def stages_of(device: str, out: Path, quick: bool) -> list[Stage]:
    """The stages, whose limits are six minutes together."""
    there = ("--device", device)
    small = ("--quick",) if quick else ()

    def bench(name: str, limit: float, file: str, *options: str) -> Stage:
        rows = out / file
        command = python("-m", "bench", name, *there, *small, *options, "--csv", rows)
        return Stage(file.removesuffix(".csv"), limit, command, rows)

    def part(name: str, module: str, limit: float, *options: object) -> Stage:
        command = python("-m", f"bench.gpu_check.{module}", *there, *options)
        return Stage(name, limit, command)

    shape = () if quick else ("--shapes", "1,1024,256")
    model = ("--parts", "model", "--lengths", "4096", "--no-naive", "--repeats", "1")
    return [
        part("environment", "environment", 15),
        part("compile", "compile_kernels", 55, *small),
        part("tests", "run_tests", 120, *small, "--seconds", 112, "--out", out),
        part("sanitizer", "sanitizer", 35),
        bench("kernels", 30, "kernels.csv"),
        bench("decode", 40, "decode.csv", "--tokens", "1024", "--batch-sizes", "1,16,64"),
        bench("paper", 40, "model.csv", *model),
        bench("prefill", 25, "prompts.csv", "--prompts", "4096,32768,131072", *shape),
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """Run all stages. Returns 1 when one did not pass."""
    parser = argparse.ArgumentParser(prog="python -m bench.gpu_check", description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out", type=Path, default=Path("gpu-check"), help="folder for results")
    parser.add_argument("--quick", action="store_true", help="small sizes")
    parser.add_argument("--only", nargs="+", metavar="STAGE", help="only these stages")
    args = parser.parse_args(argv)
    out = args.out.resolve()
    stages = stages_of(args.device, out, args.quick)
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
    return int(any(result.status != "passed" for result in results))


if __name__ == "__main__":
    sys.exit(main())
