"""``python -m bench.pages.docs``: docs/benchmarks.md, plots and README's part, from rows.

Reads ``bench/results/*.csv``; no number of the pages is typed by hand.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from ..harness.machine import ROOT
from ..harness.rows import read
from . import doc_tables
from .doc_plots import draw
from .doc_tables import PLOTS, Rows, general, gpu_tokens, on_a_gpu, peers
from .sections import SECTIONS

RESULTS = ROOT / "bench" / "results"
BEGIN, END = "<!-- benchmarks: python -m bench.pages.docs -->", "<!-- end of benchmarks -->"


def main(argv: Sequence[str] | None = None) -> int:
    """Write the pages; with --check only say whether they are up to date."""
    parser = argparse.ArgumentParser(prog="python -m bench.pages.docs", description=__doc__)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--out", type=Path, default=ROOT / "docs", help="folder of benchmarks.md")
    parser.add_argument("--readme", type=Path, default=ROOT / "README.md")
    parser.add_argument("--check", action="store_true", help="write nothing, exit 1 on a change")
    args = parser.parse_args(argv)
    rows = read(sorted(args.results.glob("*.csv")))
    if not rows:
        print(f"error: no rows in {args.results}", file=sys.stderr)
        return 1
    page, readme = page_of(rows), readme_of(rows, args.readme.read_text())
    target = args.out / "benchmarks.md"
    if args.check:
        current = target.read_text() if target.is_file() else ""
        stale = [
            str(path)
            for path, old, new in (
                (target, current, page),
                (args.readme, args.readme.read_text(), readme),
            )
            if old != new
        ]
        print("\n".join(f"{path} is not what python -m bench.pages.docs writes" for path in stale))
        return bool(stale)
    draw([row for row in rows if not on_a_gpu(row)], args.out / PLOTS)
    target.write_text(page)
    args.readme.write_text(readme)
    print(f"wrote {target}, its plots and the part in {args.readme} from {len(rows)} rows")
    return 0


def page_of(rows: Rows) -> str:
    """The text of docs/benchmarks.md."""
    parts = [HEADER, machine(rows)]
    for title, bench, text, tables in SECTIONS:
        found = [row for row in rows if row["bench"] == bench]
        here, there = [r for r in found if not on_a_gpu(r)], [r for r in found if on_a_gpu(r)]
        bodies = [part for table in tables if here for part in [table(here)] if part]
        for card in sorted({row["device"] for row in there}):
            bodies.append(f"On an {card}:\n\n{general([r for r in there if r['device'] == card])}")
        if bodies:
            parts.append("\n\n".join([f"## {title}", text, *bodies, commands(found)]))
    return "\n\n".join(parts) + "\n"


HEADER = """# Benchmarks

Written by `python -m bench.pages.docs` from `bench/results/*.csv`. Every row there has the machine,
the versions, the commit, the plan, the error against float64 and the command that repeats it. A
variant whose check fails has no time. Variants take turns in one process; ratios are medians of the
turns' ratios. With `--processor-time` they are the time that the one thread had a processor, on a
machine whose cores others use too. A variant that would take hours is timed in parts that stand for
the rest, and its row says which share was run.

"Of the bandwidth" and "of the FLOP/s" are a row's compulsory bytes and nominal FLOPs (a transform's
are 5 n log2 n) in its median time, over what sums of a large array and a matrix product reached on
the same machine with as many threads. Data that stays in a cache may exceed the first; the second
can only be approached by code that is all multiply-adds, which transforms are not.

`python -m bench NAME --csv F` writes such rows, `--plots DIR` draws them, `--base GITREF` compares
with another commit; `python -m bench --help` lists the names. Two things of your own are compared
in the same way:

```python
import torch

from bench.harness.timing import measure

calls = {"ours": lambda: sum(range(9)), "peer": lambda: sum(range(99))}
times = measure(calls, device=torch.device("cpu"), repeats=5)
assert times["peer"].ratio(times["ours"]) > 0  # median of the turns' ratios
```"""


def machine(rows: Rows) -> str:
    """Where the rows come from."""
    lines = []
    for device in sorted({row["device"] for row in rows}):
        mine = [row for row in rows if row["device"] == device]

        def names(field: str, mine: Rows = mine) -> str:
            return ", ".join(sorted({row[field] for row in mine if row[field]}))

        roofs = [row for row in mine if row["roof_bytes_per_s"]]
        text = f"- {device}; threads: {names('threads')}; torch {names('torch')}, "
        text += f"Python {names('python')}; commits {names('commit')}"
        if roofs:
            reads = sorted(float(row["roof_bytes_per_s"]) for row in roofs)
            flops = sorted(float(row["roof_flops"]) for row in roofs)
            text += (
                f"; measured roofs, median: {reads[len(reads) // 2] / 1e9:.1f} GB/s, "
                f"{flops[len(flops) // 2] / 1e9:.0f} GFLOP/s"
            )
        lines.append(text)
    return "Machines:\n\n" + "\n".join(lines)


def commands(rows: Rows) -> str:
    """The commands behind a section."""
    unique = list(dict.fromkeys(row["command"] for row in rows))
    return "```\n" + "\n".join(unique) + "\n```"


def readme_of(rows: Rows, text: str) -> str:
    """The README with its part between the marks replaced."""
    if BEGIN not in text:
        return text
    found = [row for row in rows if row["bench"] == "stream" and not on_a_gpu(row)]
    memory = doc_tables.memory_table([row for row in rows if row["bench"] == "memory"])
    there = gpu_tokens([row for row in rows if on_a_gpu(row)])
    crossings = doc_tables.crossover_sentence([row for row in rows if not on_a_gpu(row)])
    part = f"""{BEGIN}
{peers(found)}

{crossings}{there}
<img src="docs/{PLOTS}/stream.svg" width="50%" alt="tokens per second over length">

Bytes per new token and channel of one row, of all that there is of a layer; rows share what
belongs to filters:

{memory}

Machine, errors, more peers' lengths and batches, the crossover against recurrences and the commands
are in [docs/benchmarks.md](docs/benchmarks.md), written by `python -m bench.pages.docs`.
{END}"""
    return re.sub(re.escape(BEGIN) + ".*?" + re.escape(END), lambda _: part, text, flags=re.S)


if __name__ == "__main__":
    sys.exit(main())
