"""What the first request of a process waits for: a fresh process for every implementation, with an
empty folder of compiled Triton kernels, and another one with what the first has left there. The
processes of all implementations run side by side, so that compilers should have a core each.

"first token": seconds from the call of `iterate` to its first token. The note has the process from
its start to then, and the whole request, in which every level of the plan has fired and been
compiled. The error is the share of tokens in which the two processes differ.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor

from ..harness.implementations import EACH, names_of
from ..harness.machine import ROOT

_LEAST = 30.0  # seconds that a process gets


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``first-token``."""
    parser.set_defaults(impl=EACH)
    parser.add_argument("--tokens", type=int, default=8192, help="of the request")
    parser.add_argument(
        "--seconds", type=float, default=120.0, help="at most for all; a process gets 30 at least"
    )


def run(args: argparse.Namespace) -> None:
    """First all processes with empty folders, then all with full ones."""
    tokens, stop = 20 if args.quick else args.tokens, time.monotonic() + args.seconds
    names = names_of(args.impl, args.device)
    if args.impl == EACH:
        names = [*names, "auto"] if args.device.type == "cuda" else ["auto"]
    found: dict[str, list[dict]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(len(names)) as pool:
        for kernels in ("compiled", "from the disk"):
            running = {
                impl: pool.submit(_request, args, impl, tokens, f"{folder}/{impl}", stop)
                for impl in found
            }
            for impl, request in running.items():
                fields = {"B": 1, "L": tokens, "impl": impl}
                with args.report.guard(f"kernels {kernels}", **fields):
                    found[impl].append(request.result())
                    _report(args, kernels, found[impl], fields)
            found = {impl: requests for impl, requests in found.items() if requests}


def _report(
    args: argparse.Namespace, kernels: str, found: list[dict], fields: dict[str, object]
) -> None:
    first, newest = found[0]["ids"], found[-1]
    differ = sum(a != b for a, b in zip(first, newest["ids"], strict=True)) / len(first)
    args.report.add(
        f"kernels {kernels}", **fields, error=differ, tolerance=0.0, quantity="first token",
        value=newest["first"], unit="s",
        note=f"the process {newest['process']:.2f} s until then; all tokens {newest['all']:.2f} s, "
        f"{newest['files']} files of kernels",
    )  # fmt: skip


def _request(args: argparse.Namespace, impl: str, tokens: int, folder: str, stop: float) -> dict:
    """What a fresh process says of itself."""
    os.makedirs(folder, exist_ok=True)
    command = [sys.executable, "-m", "bench.commands.first_token", str(args.device), impl]
    start = time.monotonic()
    done = subprocess.run(
        [*command, str(tokens), repr(start)], cwd=ROOT, capture_output=True, text=True, check=False,
        timeout=max(stop - start, _LEAST), env={**os.environ, "TRITON_CACHE_DIR": folder},
    )  # fmt: skip
    if done.returncode:
        raise ValueError(f"the process ended with {done.returncode}: {done.stderr[-300:]}")
    found = json.loads(done.stdout.splitlines()[-1])
    found["files"] = sum(len(files) for _, _, files in os.walk(folder))
    return found


def main(device: str, impl: str, tokens: int, start: float) -> None:
    """The process: a request of the shipped model, and its times as JSON. start: by the monotonic
    clock, which processes share.
    """
    import torch

    import futurefill_kernels as ff

    model = ff.nn.load_model().to(torch.device(device))
    prompt = torch.full((1, 5), 32, device=device)
    called = time.monotonic()
    ids = ff.iterate(model, prompt, tokens, impl=impl)
    new = [int(next(ids))]
    first = time.monotonic()
    new += [int(token) for token in ids]
    times = {"first": first - called, "process": first - start, "all": time.monotonic() - called}
    print(json.dumps({"ids": new, **times}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4]))
