"""Benchmarks: every command checks its results before it prints a figure.

Rows go to the terminal as they come, and with --csv or --json to files; Ctrl-C keeps them.
"""

from __future__ import annotations

import argparse
import importlib
import shlex
import sys
from pathlib import Path

import torch

from futurefill_kernels.cli.device import resolve_device

from .harness import base, plots
from .harness.rows import Report
from .harness.timing import use_processor_time

#: name -> (module, help). Modules are imported when they are asked for.
BENCHES = {
    "stream": ("stream", "whole generations, ours and every peer"),
    "step": ("step", "one cache.step call where there is almost nothing to compute"),
    "cpu-vs-torch": ("cpu_vs_torch", "whole generations beside torch's offline FFT convolution"),
    "threads": ("threads", "whole generations on one thread and on two"),
    "kernels": ("kernels", "the convolutions of a token of many layers"),
    "fill": ("fill", "one future fill of every block size, beside torch.fft"),
    "gpu-fills": (
        "gpu_fills",
        "fills of many layers, beside their bytes, torch.fft and a prototype",
    ),
    "prefill": ("prefill", "a prompt into a cache, beside torch.fft"),
    "chunks": ("chunks", "a prompt in many calls, beside one call"),
    "decode": ("decode", "tokens per second of the shipped model"),
    "first-token": ("first_token", "what the first request of a process waits for"),
    "token": ("token", "where a token of the shipped model goes"),
    "batch": ("batch", "whole generations of 1 to 64 rows"),
    "crossover": ("crossover", "exact decoding against recurrences by state size"),
    "adapted": ("adapted", "public models: the same tokens as their own code, and how much sooner"),
    "hf": ("hf", "generate of transformers with a cache: the same sequences, ties counted"),
    "accuracy": ("accuracy", "error over position, and bits per byte with less kept"),
    "paper": ("paper", "the published experiments beside their published figures"),
    "latency": ("latency", "the slowest steps: objective='latency' against 'throughput'"),
    "plan": ("plan", "planned block sizes against the best of a sweep"),
    "regret": ("regret", "planned sizes and implementations against the best, by measured parts"),
    "memory": ("memory", "bytes of ours and of other caches at equal width"),
    "kept": ("kept", "whole generations by what of the filters and state a cache keeps"),
    "rows": ("rows", "rows moved, copied and forgotten, beside a copy of the bytes they use"),
    "ranks": ("ranks", "tokens of a model over processes of this machine"),
    "volterra": ("volterra", "equations with memory against packages and direct sums"),
    "reported": ("reported", "situations that people report as slow, beside the plain way"),
    "fuzz": ("fuzz", "random programs over the whole surface against direct sums"),
    "compile": ("compile", "the Triton kernels of a stream, compiled with an empty cache"),
    "gpu-counters": ("gpu_counters", "counts of the GPU kernels in a PTX emulator"),
}

#: Benches that no GPU changes, and why.
CPU_ONLY = {
    "adapted": "compares with public code on the CPU: leave out --device",
    "hf": "compares sequences on the CPU: leave out --device",
    "cpu-vs-torch": "times the CPU's kernels: leave out --device",
    "threads": "times the CPU's threads: leave out --device",
    "kept": "times the CPU's kernels: leave out --device",
    "token": "takes the CPU's program of a token apart; `decode` times whole tokens of a GPU",
    "ranks": "times processes on the CPU, with gloo between them: leave out --device",
    "volterra": "measures float64, which is the CPU's: leave out --device",
    "reported": "times calls from Python on the CPU: leave out --device",
    "fuzz": "compares with sums on the CPU: leave out --device",
    "compile": "compiles for a GPU that need not be here: leave out --device",
    "gpu-counters": "counts in an emulator: leave out --device",
}

DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float64": torch.float64,
}


def shape(text: str) -> tuple[int, int, int]:
    """``B,D,L`` with positive sizes."""
    parts = text.split(",")
    try:
        sizes = tuple(int(part) for part in parts)
    except ValueError:
        sizes = ()
    if len(sizes) != 3 or min(sizes) < 1:
        raise argparse.ArgumentTypeError(f"expected B,D,L, three positive integers, got {text!r}")
    return sizes  # type: ignore[return-value]


def positive(text: str) -> int:
    """An integer of at least 1."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected an integer >= 1, got {text!r}")
    return int(text)


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    """Options that every bench has; a bench says in its own help which of them it heeds."""
    group = parser.add_argument_group("common")
    group.add_argument("--device", default="cpu", help="cpu, cuda, cuda:n or auto")
    group.add_argument(
        "--impl", default="auto", help="auto, cpu, reference, triton, cuda; some take each"
    )
    group.add_argument(
        "--shapes", nargs="+", type=shape, metavar="B,D,L", help="instead of its own"
    )
    group.add_argument("--dtype", choices=DTYPES, default="float32", help="of inputs and outputs")
    group.add_argument("--threads", type=positive, default=1, help="of torch and of the kernels")
    group.add_argument("--quick", action="store_true", help="small sizes, for a check")
    group.add_argument(
        "--processor-time", action="store_true",
        help="of the one thread, not the wall's: for a machine that others use too",
    )  # fmt: skip
    group.add_argument("--json", type=Path, metavar="F", help="also write the rows here")
    group.add_argument("--csv", type=Path, metavar="F", help="also write the rows here")
    group.add_argument("--plots", type=Path, metavar="DIR", help="draw the rows (matplotlib)")
    group.add_argument(
        "--base", metavar="GITREF", help="compare with that commit's package, in turns"
    )


def main(argv: list[str] | None = None) -> int:
    """Run one bench.

    Returns 1 when a check fails, 2 for a device that is not there, 130 after Ctrl-C.
    """
    parser = argparse.ArgumentParser(
        prog="python -m bench", description=__doc__, allow_abbrev=False
    )
    benches = parser.add_subparsers(dest="bench", required=True, metavar="NAME")
    given = sys.argv[1:] if argv is None else argv
    for name, (module, text) in BENCHES.items():
        sub = benches.add_parser(
            name, help=text, formatter_class=argparse.ArgumentDefaultsHelpFormatter
        )
        if name in given[:1]:  # only the one that runs is imported
            add_common_arguments(sub)
            importlib.import_module(f"bench.commands.{module}").add_arguments(sub)
    args = parser.parse_args(given)
    args.dtype = DTYPES[args.dtype]
    torch.set_num_threads(args.threads)
    if args.processor_time and args.threads > 1:
        print("error: --processor-time needs --threads 1, got", args.threads, file=sys.stderr)
        return 2
    use_processor_time(args.processor_time)
    try:
        args.device = resolve_device(args.device)
    except (ValueError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if args.device.type == "cuda" and args.bench in CPU_ONLY:
        print(f"error: {args.bench} {CPU_ONLY[args.bench]}", file=sys.stderr)
        return 2
    command = "python -m bench " + shlex.join(_without_outputs(given))
    try:
        if args.base is not None:
            return base.compare(args.base, _without_outputs(given))
        judges = args.device.type == "cuda" and not args.quick
        args.report = Report(
            args.bench, command, args.threads, args.csv, args.json, args.device, judges
        )
        importlib.import_module(f"bench.commands.{BENCHES[args.bench][0]}").run(args)
        if args.plots is not None:
            plots.draw(args.report.rows, args.plots)
    except (ValueError, TypeError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        kept = " and ".join(str(f) for f in (args.csv, args.json) if f is not None)
        rows = len(args.report.rows) if hasattr(args, "report") else 0
        print(f"\ninterrupted after {rows} rows" + (f", kept in {kept}" if kept else ""))
        return 130
    if args.report.failed:
        print("error: a check failed, see the rows marked WRONG or failed", file=sys.stderr)
        return 1
    return 0


def _without_outputs(arguments: list[str]) -> list[str]:
    """The command line that repeats the measurement, without where its rows go."""
    kept, skip = [], False
    for argument in arguments:
        if skip:
            skip = False
        elif argument in ("--csv", "--json", "--plots", "--base"):
            skip = True
        elif not argument.startswith(("--csv=", "--json=", "--plots=", "--base=")):
            kept.append(argument)
    return kept


if __name__ == "__main__":
    sys.exit(main())
