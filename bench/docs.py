"""``python -m bench.docs``: docs/benchmarks.md, its plots and the README's part, from the rows.

Reads ``bench/results/*.csv``; no number of the pages is typed by hand.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from .machine import ROOT
from .plots import curve_plot
from .rows import read, seconds_text

Rows = list[dict[str, str]]
RESULTS = ROOT / "bench" / "results"
PLOTS = "plots"
BEGIN, END = "<!-- benchmarks: python -m bench.docs -->", "<!-- end of benchmarks -->"


def main(argv: Sequence[str] | None = None) -> int:
    """Write the pages; with --check only say whether they are up to date."""
    parser = argparse.ArgumentParser(prog="python -m bench.docs", description=__doc__)
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
        print("\n".join(f"{path} is not what python -m bench.docs writes" for path in stale))
        return bool(stale)
    draw(rows, args.out / PLOTS)
    target.write_text(page)
    args.readme.write_text(readme)
    print(f"wrote {target}, its plots and the part in {args.readme} from {len(rows)} rows")
    return 0


def page_of(rows: Rows) -> str:
    """The text of docs/benchmarks.md."""
    parts = [HEADER, machine(rows)]
    for title, bench, text, tables in SECTIONS:
        found = [row for row in rows if row["bench"] == bench]
        if found:
            body = "\n\n".join(part for table in tables for part in [table(found)] if part)
            parts.append(f"## {title}\n\n{text}\n\n{body}\n\n{commands(found)}")
    return "\n\n".join(parts) + "\n"


HEADER = """# Benchmarks

Written by `python -m bench.docs` from `bench/results/*.csv`. Every row there has the machine, the
versions, the commit, the plan, the error against float64 and the command that repeats it. A
variant whose check fails has no time. Variants take turns in one process; ratios are medians of the
turns' ratios. A variant that would take hours is timed in parts that stand for the rest, and its
row says which share was run.

`python -m bench NAME --csv F` writes such rows, `--plots DIR` draws them, `--base GITREF` compares
with another commit; `python -m bench --help` lists the names. Two things of your own are compared
in the same way:

```python
from bench.timing import measure

times = measure({"ours": lambda: sum(range(9)), "peer": lambda: sum(range(99))}, repeats=5)
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


def markdown(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """A table; columns that are empty everywhere are left out."""
    if not body:
        return ""
    keep = [i for i in range(len(head)) if any(line[i] for line in body)]
    lines = [[head[i] for i in keep], ["---"] * len(keep), *([r[i] for i in keep] for r in body)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def seconds(row: dict[str, str], field: str = "p50") -> str:
    """A time, or the reason why there is none."""
    if row[field]:
        return seconds_text(float(row[field]))
    return row["status"] if row["status"] != "ok" else ""


def number(text: str, digits: int = 3) -> str:
    """Rounded to significant digits, with thousands separators."""
    if not text:
        return ""
    value = float(text)
    if value and (abs(value) < 1e-3 or abs(value) >= 1e15):
        return f"{value:.1e}"
    if abs(value) >= 10 ** (digits - 1):
        rounded = round(value, digits - 1 - len(str(int(abs(value)))) + 1)
        return f"{rounded:,.0f}"
    return f"{value:.{digits}g}"


def times_faster(row: dict[str, str]) -> str:
    """The baseline against this row, as ``N x``."""
    return f"{number(str(1 / float(row['ratio'])))}x" if row["ratio"] else ""


def general(rows: Rows) -> str:
    """The columns that suit any bench."""
    head = ["variant", "B", "D", "L", "P", "layers", "states", "dtype", "block sizes", "median",
            "p99", "worst", "tokens/s", "of the roof", "its time over the baseline",
            "error", "quantity", "value", "unit", "note"]  # fmt: skip
    body = []
    for row in rows:
        share = f"{100 * float(row['roof_fraction']):.0f} %" if row["roof_fraction"] else ""
        worst = seconds(row, "max") if row["p99"] else ""
        body.append([
            row["variant"], row["B"], row["D"], row["L"], row["P"], row["layers"], row["states"],
            row["dtype"], row["plan"], seconds(row), seconds(row, "p99") if row["p99"] else "",
            worst, number(row["tokens_per_s"]), share, times_faster(row),
            number(row["error"], 2), row["quantity"], number(row["value"], 4), row["unit"],
            row["note"],
        ])  # fmt: skip
    return markdown(head, body)


def peers(rows: Rows) -> str:
    """Every peer at the largest stream that has most of them."""
    shapes: dict[tuple[str, ...], int] = {}
    for row in rows:
        shapes[shape(row)] = shapes.get(shape(row), 0) + 1
    chosen = max(shapes, key=lambda s: (shapes[s], int(s[2])))
    body = []
    seen = set()
    for row in sorted(rows, key=_ours_first):
        if shape(row) != chosen or row["variant"] + row["states"] in seen:
            continue
        seen.add(row["variant"] + row["states"])
        body.append([
            row["variant"] + (f", {row['states']} states" if row["states"] else ""), seconds(row),
            number(row["tokens_per_s"]), times_faster(row), number(row["error"], 2), row["note"],
        ])  # fmt: skip
    batch, channels, length = chosen
    head = ["variant", "whole generation", "tokens/s", "its time over ours", "error", "how"]
    return f"B={batch}, D={channels}, L={length}, float32:\n\n" + markdown(head, body)


def _ours_first(row: dict[str, str]) -> int:
    """Sorts ours, then what ran, then what is not installed."""
    return 0 if row["variant"] == "ours" else 1 if row["status"] == "ok" else 2


def shape(row: dict[str, str]) -> tuple[str, str, str]:
    """(B, D, L) of a row."""
    return row["B"], row["D"], row["L"]


def by_length(rows: Rows) -> str:
    """Tokens per second of every variant over L."""
    return pivot(rows, "L", f"![tokens per second over length]({PLOTS}/stream.svg)", times_of="D")


def by_batch(rows: Rows) -> str:
    """Tokens per second of every variant over B."""
    return pivot(rows, "B", f"![tokens per second over batch]({PLOTS}/batch.svg)")


def pivot(rows: Rows, field: str, image: str, times_of: str = "") -> str:
    """Tokens per second: one line per variant, one column per value of a field."""
    timed = [row for row in rows if row["tokens_per_s"]]
    columns = sorted({(int(r[field]), r[times_of] if times_of else "") for r in timed})
    cells = {
        (name_of(r), int(r[field]), r[times_of] if times_of else ""): number(r["tokens_per_s"])
        for r in timed
    }
    names = list(dict.fromkeys(name_of(r) for r in timed))
    head = ["tokens/s"] + [f"{field}={c[0]}" + (f", D={c[1]}" if c[1] else "") for c in columns]
    body = [[n] + [cells.get((n, *c), "") for c in columns] for n in names]
    return markdown(head, body) + "\n\n" + image


def name_of(row: dict[str, str]) -> str:
    """Variant, with its state size where it has one."""
    return row["variant"] + (f", {row['states']} states" if row["states"] else "")


def crossing_table(rows: Rows) -> str:
    """Crossover state size by length."""
    body = [
        [row["L"], row["D"], row["variant"], number(row["value"]), row["note"]]
        for row in rows
        if row["quantity"] == "crossover state size"
    ]
    table = markdown(["L", "D", "against", "crossover state size", ""], body)
    return table + f"\n\n![time of a recurrence over ours]({PLOTS}/crossover.svg)"


def distilled_table(rows: Rows) -> str:
    """The shipped model as s states."""
    body = [
        [row["variant"].replace("s states", row["states"] + " states"), seconds(row),
         number(row["ratio"]), number(row["error"], 2), row["quantity"], number(row["value"])]
        for row in rows
        if row["quantity"].startswith("bits")
    ]  # fmt: skip
    head = ["shipped model's filters", "time per token, all layers", "speed, ours = 1",
            "relative error of the filters", "", ""]  # fmt: skip
    return markdown(head, body)


def accuracy_table(rows: Rows) -> str:
    """Error in the last octave of positions, and bits per byte."""
    error_rows = [row for row in rows if row["P"] != ""]
    last = max((int(row["P"]) for row in error_rows), default=0)
    body = [
        [row["variant"], row["dtype"], number(row["error"], 2)]
        for row in error_rows
        if int(row["P"]) == last
    ]
    table = markdown(["variant", "dtype", f"relative error from position {last} on"], body)
    bits = [[r["variant"], number(r["value"], 7)] for r in rows if r["quantity"]]
    return "\n\n".join([
        f"![error over position]({PLOTS}/accuracy.svg)", table,
        markdown(["shipped model, held-out text", "bits per byte"], bits),
    ])  # fmt: skip


def paper_table(rows: Rows) -> str:
    """Published ratios beside ours, and the rest of the experiments."""
    ours = [
        [row["L"], row["P"], number(row["ratio"]), number(row["value"]), row["note"]]
        for row in rows
        if row["quantity"].startswith("published")
    ]
    head = ["new tokens", "prompt", "ours: FutureFill over naive", "published, one H100", ""]
    lengths = [row for row in rows if not row["layers"]]
    memory = [[r["variant"], r["P"], r["L"], number(r["value"], 4)] for r in rows
              if r["quantity"] == "bytes"]  # fmt: skip
    parts = [markdown(head, ours)]
    if lengths:
        parts.append(pivot(lengths, "L", f"![time against length]({PLOTS}/paper.svg)"))
    parts.append(markdown(["", "prompt", "new tokens", "bytes"], memory))
    return "\n\n".join(part for part in parts if part)


#: title, bench, text, tables
SECTIONS: list[tuple[str, str, str, list[Callable[[Rows], str]]]] = [
    ("Whole generations against peers", "stream",
     "One layer, `u_{t+1} = y_t`, one step per token. Peers are in `bench/peers/`. The modal "
     "recurrences and attention compute another function; their rows say what a model of that kind "
     "pays per layer, projections left out.", [peers, by_length]),
    ("Batches", "batch", "Whole generations of several rows.", [by_batch]),
    ("Where a recurrence wins", "crossover",
     "A filter that is a sum of s exponentials decodes in O(s) per token. Below the crossover size "
     "the recurrence is faster, above it exact decoding is. The recurrence is plain torch: three "
     "passes over its state; a fused kernel would need fewer and cross later.",
     [crossing_table, distilled_table]),
    ("The paper's experiments", "paper",
     "Time against length runs in our kernels for all four algorithms.", [paper_table]),
    ("Accuracy", "accuracy", "Inputs are the same for all variants of a dtype; the error is "
     "against a float64 convolution of them.", [accuracy_table]),
    ("Whole models", "decode", "The shipped model, greedy, the prompt left out.", [general]),
    ("Planned against best measured block sizes", "plan",
     "Regret is the planned plan's time over the best measured one's, minus one.", [general]),
    ("Single steps", "latency", "The time of every single step.", [general]),
    ("The price of a call", "step", "One channel, no fill due.", [general]),
    ("Single fills", "fill", "The first fill of every block size.", [general]),
    ("Prompts", "prefill", "Outputs of the prompt and its future fill.", [general]),
    ("Memory", "memory", "The state does not depend on the prompt.", [general]),
    ("GPU kernels, counted", "gpu-counters", "Counters of the compiled kernels.", [general]),
    ("Against an offline FFT convolution", "cpu-vs-torch",
     "The whole online generation beside one offline convolution of all inputs.", [general]),
]  # fmt: skip


def draw(rows: Rows, folder: Path) -> None:
    """The plots of the page."""
    for bench, x in (("stream", "L"), ("batch", "B")):
        found = [r for r in rows if r["bench"] == bench and r["tokens_per_s"]]
        curves: dict[str, list[tuple[float, float]]] = {}
        for row in widest(found, x):
            point = (float(row[x]), float(row["tokens_per_s"]))
            curves.setdefault(name_of(row), []).append(point)
        several = {name: points for name, points in curves.items() if len(points) > 1}
        if several:
            label = {"L": "tokens generated, L", "B": "batch size, B"}[x]
            curve_plot(
                several, folder / f"{bench}.svg", xlabel=label, ylabel="tokens per second",
                title=title_of(found, x),
            )  # fmt: skip
    curves = {}
    for row in rows:
        if row["bench"] == "crossover" and row["ratio"] and row["tolerance"]:
            kind = "complex" if "complex" in row["variant"] else "real"
            name = f"{kind}, L={row['L']}, D={row['D']}"
            point = (float(row["states"]), 1 / float(row["ratio"]))
            curves.setdefault(name, []).append(point)
    if curves:
        sizes = [s for points in curves.values() for s, _ in points]
        curves["ours"] = [(min(sizes), 1.0), (max(sizes), 1.0)]
        curve_plot(
            curves, folder / "crossover.svg", xlabel="states per channel",
            ylabel="time of the recurrence / ours",
        )  # fmt: skip
    curves = {}
    for row in rows:
        if row["bench"] == "accuracy" and row["P"] and row["dtype"] == "float32":
            point = (max(float(row["P"]), 32.0), float(row["error"]))
            curves.setdefault(row["variant"], []).append(point)
    if curves:
        curve_plot(
            curves, folder / "accuracy.svg", xlabel="position (tokens)",
            ylabel="relative error, float32", highlight="cpu, planned",
        )  # fmt: skip
    curves = {}
    for row in rows:
        if row["bench"] == "paper" and not row["layers"] and row["p50"]:
            curves.setdefault(row["variant"], []).append((float(row["L"]), float(row["p50"])))
    if curves:
        found = [r for r in rows if r["bench"] == "paper" and not r["layers"]]
        curve_plot(
            curves, folder / "paper.svg", xlabel="tokens generated, L",
            ylabel="whole generation (s)", highlight="mixed", title=title_of(found, "L"),
        )  # fmt: skip


def widest(rows: Rows, x: str) -> Rows:
    """The rows of the (B, D, L) family, one axis free, that covers most values of x."""
    others = [f for f in ("B", "D", "L") if f != x]
    families: dict[tuple[str, ...], set[str]] = {}
    for row in rows:
        families.setdefault(tuple(row[f] for f in others), set()).add(row[x])
    if not families:
        return []
    best = max(families, key=lambda family: len(families[family]))
    return [row for row in rows if tuple(row[f] for f in others) == best]


def title_of(rows: Rows, x: str) -> str:
    """What a plot holds fixed."""
    row = widest(rows, x)[0]
    return ", ".join(f"{f}={row[f]}" for f in ("B", "D", "L") if f != x) + ", float32, CPU"


def readme_of(rows: Rows, text: str) -> str:
    """The README with its part between the marks replaced."""
    if BEGIN not in text:
        return text
    found = [row for row in rows if row["bench"] == "stream"]
    part = f"""{BEGIN}
{peers(found)}

<img src="docs/{PLOTS}/stream.svg" width="50%" alt="tokens per second over length">

Machine, errors, more peers' lengths and batches, the crossover against recurrences and the commands
are in [docs/benchmarks.md](docs/benchmarks.md), written by `python -m bench.docs`.
{END}"""
    return re.sub(re.escape(BEGIN) + ".*?" + re.escape(END), lambda _: part, text, flags=re.S)


if __name__ == "__main__":
    sys.exit(main())
