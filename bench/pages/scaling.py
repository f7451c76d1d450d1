"""``python -m bench.pages.scaling``: the tables of docs/scaling.md, from rows and from the planner.

Reads ``bench/results/ranks/ranks.csv`` and runs ``plan --devices``; no number is typed by hand.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from futurefill_kernels.__main__ import main as command

from ..harness.machine import ROOT
from ..harness.rows import read
from .doc_tables import Rows

ROWS = ROOT / "bench" / "results" / "ranks" / "ranks.csv"
PAGE = ROOT / "docs" / "scaling.md"


def main(argv: Sequence[str] | None = None) -> int:
    """Write the tables into the page; with --check only say whether they are up to date."""
    parser = argparse.ArgumentParser(prog="python -m bench.pages.scaling", description=__doc__)
    parser.add_argument("--page", type=Path, default=PAGE)
    parser.add_argument("--check", action="store_true", help="write nothing, exit 1 on a change")
    args = parser.parse_args(argv)
    old = args.page.read_text()
    new = page_of(old)
    if args.check:
        if old != new:
            print(f"{args.page} is not what python -m bench.pages.scaling writes")
        return int(old != new)
    args.page.write_text(new)
    return 0


def page_of(text: str) -> str:
    """The page with what stands between its markers made anew."""
    text = _between(text, "measured", measured(read([ROWS])))
    for line in re.findall(r"<!-- modelled: (.+) -->", text):
        text = _between(text, f"modelled: {line}", modelled(line))
    return text


def measured(rows: Rows) -> str:
    """Tokens, sums and bytes by the number of ranks."""
    tokens = [row for row in rows if row["note"] == "a token"]
    by_name = {row["variant"]: row for row in rows}
    lines = [
        "| ranks | token (ms) | against one rank | a sum alone (ms) | a comparison alone (ms) | "
        "weights (MB) | state (MB) |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in tokens:
        name = row["variant"]
        alone = [by_name.get(f"{name}, a {what} alone") for what in ("sum", "comparison")]
        cells = [
            name.split()[0],
            _ms(row),
            f"{float(row['ratio']):.2f}x" if row["ratio"] else "",
            *("" if one is None else _ms(one) for one in alone),
            *(_mb(by_name[f"{name}, {what} of one"]) for what in ("weights", "state")),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    first, plain, of_dtensors = tokens[0], by_name["plain tensors"], by_name["DTensors"]
    sizes = "B={B}, D={D}, N={L}, {layers} layers; {device}; torch {torch}; `{command}`."
    lines += [
        "",
        sizes.format(**first),
        "",
        f"Two linear maps of this width and a sum, over one rank: {_ms(of_dtensors)} ms on "
        f"DTensors (torch's `ColwiseParallel`, `RowwiseParallel`), {_ms(plain)} ms on plain ones.",
    ]
    return "\n".join(lines)


def _ms(row: dict[str, str]) -> str:
    return f"{1e3 * float(row['p50']):.2f}"


def _mb(row: dict[str, str]) -> str:
    return f"{float(row['value']) / 1e6:.1f}"


def modelled(line: str) -> str:
    """What a command prints."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        if command(shlex.split(line)):
            raise ValueError(f"{line} failed")
    return f"`python -m futurefill_kernels {line}`\n\n{out.getvalue().strip()}"


def _between(text: str, name: str, content: str) -> str:
    begin, end = f"<!-- {name} -->", "<!-- end -->"
    at = text.index(begin) + len(begin)
    return f"{text[:at]}\n{content}\n{text[text.index(end, at) :]}"


if __name__ == "__main__":
    raise SystemExit(main())
