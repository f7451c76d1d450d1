"""``python -m bench.commands.rates``: the CPU rates that come with the package, measured here.

Runs ``python -m futurefill_kernels tune`` with each instruction set and puts what it finds into
``futurefill_kernels/planning/cpu_rates.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from futurefill_kernels.planning.cpu_cost import SHIPPED

ISAS = ("avx512", "avx2", "portable")


def main() -> int:
    """Measure and write; the file changes only when all was measured."""
    parser = argparse.ArgumentParser(prog="python -m bench.commands.rates", description=__doc__)
    parser.add_argument("isas", nargs="*", default=ISAS, help=f"of {', '.join(ISAS)}; all without")
    parser.add_argument("--seconds", type=float, default=30.0, help="for each instruction set")
    args = parser.parse_args()
    records = json.loads(SHIPPED.read_text())
    for isa in args.isas:
        if isa not in ISAS:
            parser.error(f"unknown instruction set {isa!r}; expected one of {', '.join(ISAS)}")
    for isa in args.isas:
        print(f"--- {isa}", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "rates.json"
            command = [
                sys.executable, "-m", "futurefill_kernels", "tune", "--seconds", str(args.seconds),
                "--output", str(file),
            ]  # fmt: skip
            environment = {**os.environ, "FUTUREFILL_CPU_ISA": isa}
            subprocess.run(command, env=environment, check=True)
            records[isa] = json.loads(file.read_text())
    scratch = SHIPPED.with_suffix(".tmp")
    scratch.write_text(_text(records))
    scratch.replace(SHIPPED)
    return 0


def _text(records: dict[str, dict]) -> str:
    """JSON with lists of numbers on one line each."""
    text = json.dumps({isa: records[isa] for isa in ISAS if isa in records}, indent=1)
    return re.sub(r"\[[-\d.,\s]+\]", lambda m: " ".join(m[0].split()), text) + "\n"


if __name__ == "__main__":
    sys.exit(main())
