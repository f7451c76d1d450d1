"""The tables of docs/benchmarks.md: functions from rows to markdown."""

from __future__ import annotations

from collections.abc import Sequence

from ..harness.rows import seconds_text, shares

Rows = list[dict[str, str]]
PLOTS = "plots"


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
            "p99", "worst", "tokens/s", "of the bandwidth", "of the FLOP/s",
            "its time over the baseline", "error", "quantity", "value", "unit", "at most",
            "verdict", "note"]  # fmt: skip
    body = []
    for row in rows:
        bandwidth, flops = ("" if s is None else f"{100 * s:.0f} %" for s in shares(row))
        worst = seconds(row, "max") if row["p99"] else ""
        body.append([
            row["variant"], row["B"], row["D"], row["L"], row["P"], row["layers"], row["states"],
            row["dtype"], row["plan"], seconds(row), seconds(row, "p99") if row["p99"] else "",
            worst, number(row["tokens_per_s"]), bandwidth, flops,
            times_faster(row),
            number(row["error"], 2), row["quantity"], number(row["value"], 4), row["unit"],
            row["limit"] if row.get("verdict") else "", row.get("verdict", ""), row["note"],
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


def token_table(rows: Rows) -> str:
    """Microseconds of a token's parts: one line per part, one column per dtype, B and threads."""
    several = len({row["threads"] for row in rows}) > 1

    def column(row: dict[str, str]) -> str:
        threads = f", {row['threads']} threads" if several and row["threads"] != "1" else ""
        return f"{row['dtype']} B={row['B']}{threads}"

    columns = list(dict.fromkeys(map(column, rows)))
    values = {(row["variant"], column(row)): number(row["value"]) for row in rows}
    values |= {
        (f"{row['variant']}: tokens/s", column(row)): number(row["tokens_per_s"])
        for row in rows
        if row["tokens_per_s"]
    }
    values |= {
        (f"{row['variant']}, over {row['note'].split(' ', 2)[2]}", column(row)): (
            row["note"].split()[0]
        )
        for row in rows
        if row["tokens_per_s"]
    }
    lines = list(dict.fromkeys(name for name, _ in values))
    body = [[name, *(values.get((name, c), "") for c in columns)] for name in lines]
    return markdown(["us per token", *columns], body)


def crossing_table(rows: Rows) -> str:
    """Crossover state size by length."""
    body = [
        [row["L"], row["D"], row["variant"], number(row["value"]), row["note"]]
        for row in rows
        if row["quantity"] == "crossover state size"
    ]
    table = markdown(["L", "D", "against", "crossover state size", ""], body)
    return table + f"\n\n![time of a recurrence over ours]({PLOTS}/crossover.svg)"


def crossover_sentence(rows: Rows) -> str:
    """Up to which state size recurrences are faster, a clause for every shape; empty without."""
    clauses = []
    found = [row for row in rows if row["quantity"] == "crossover state size"]
    for length, channels in dict.fromkeys((row["L"], row["D"]) for row in found):
        sizes = [
            f"{number(row['value'], 2)} {'complex' if 'complex' in row['variant'] else 'real'}"
            for row in found
            if (row["L"], row["D"]) == (length, channels)
        ]
        clauses.append(f"{' or '.join(sizes)} states at D={channels}, L={length}")
    if not clauses:
        return ""
    return (
        "A filter that *is* a recurrence decodes faster as one, fused, up to about "
        + "; ".join(clauses) + ".\n"
    )  # fmt: skip


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


def memory_table(rows: Rows) -> str:
    """One table for every prompt and length, one column per batch."""
    parts = []
    for prompt, length in dict.fromkeys((row["P"], row["L"]) for row in rows):
        here = [row for row in rows if (row["P"], row["L"]) == (prompt, length)]
        batches = list(dict.fromkeys(row["B"] for row in here))
        body = []
        for variant in dict.fromkeys(row["variant"] for row in here):
            line = [variant]
            for row in here:
                if row["variant"] == variant:
                    values = int(row["B"]) * int(row["D"]) * int(row["L"])
                    line.append(number(str(float(row["value"]) / values)))
            body.append(line)
        head = [f"{prompt} tokens of prompt, {length} new ones", *(f"B={b}" for b in batches)]
        parts.append(markdown(head, body))
    return "\n\n".join(parts)


def equations_table(rows: Rows) -> str:
    """Times of every solver, one column per number of equations and steps; then errors."""
    timed = [row for row in rows if row["error"] and row["L"] and "rough" not in row["variant"]]
    small = [row for row in timed if "not run" in row["note"]]
    timed = [row for row in timed if row not in small]
    columns = sorted({(int(row["D"]), int(row["L"])) for row in timed})
    names = list(dict.fromkeys(row["variant"] for row in timed))
    cells: dict[tuple[str, int, int], tuple[str, str]] = {}
    for row in timed:
        scaled = "*" if row["note"].startswith("scaled") else ""
        ratio = f", {times_faster(row)}" if row["ratio"] else ""
        found = (seconds(row) + ratio + scaled, number(row["error"], 2) + scaled)
        cells[row["variant"], int(row["D"]), int(row["L"])] = found
    sizes = [f"{d} x {n:,}" if d > 1 else f"{n:,} steps" for d, n in columns]
    missing = ("", "")
    tables = [
        markdown(
            [title, *sizes],
            [[n, *(cells.get((n, *c), missing)[i] for c in columns)] for n in names],
        )
        for i, title in enumerate(("time, and its time over ours", "error"))
    ]
    slopes = [
        [r["variant"], number(r["value"]), r["note"]] for r in rows if "slope" in r["quantity"]
    ]
    tables.append(markdown(["", "slope of log time over log steps", ""], slopes))
    few = [
        [r["variant"], r["D"], r["L"], seconds(r), number(r["error"], 2), r["note"]] for r in small
    ]
    tables.append(markdown(["", "equations", "steps", "time", "error", ""], few))
    tables.append(f"![seconds over steps]({PLOTS}/volterra.svg)")
    return "\n\n".join(part for part in tables if part)


def paths_table(rows: Rows) -> str:
    """Rough Heston, and what paths of one filter row cost."""
    paths = [
        [
            r["variant"],
            r["D"],
            r["L"],
            seconds(r),
            number(r["tokens_per_s"]),
            times_faster(r),
            r["note"],
        ]
        for r in rows
        if "rough" in r["variant"]
    ]
    head = ["", "paths", "steps", "time", "paths/s", "its time over ours", ""]
    waste = [
        [r["variant"], r["G"], number(r["value"]), r["note"]]
        for r in rows
        if "path" in r["quantity"]
    ]
    return "\n\n".join([
        markdown(head, paths),
        markdown(["", "filter rows stored", "ns per step and path", ""], waste),
    ])  # fmt: skip


#: title, bench, text, tables
def on_a_gpu(row: dict[str, str]) -> bool:
    """A processor's name comes with its cores, see ``harness.machine.device_name``."""
    return "logical cores" not in row["device"]


def gpu_tokens(rows: Rows) -> str:
    """Tokens of whole models on GPUs, with a line in front; empty without rows."""
    body = [
        [row["device"], row["bench"], row["variant"], row["B"], row["P"], row["L"], row["dtype"],
         seconds({**row, "p50": str(float(row["p50"]) / float(row["L"]))}),
         number(row["tokens_per_s"]), times_faster(row)]
        for row in rows if row["bench"] in ("decode", "paper") and row["p50"] and row["layers"]
    ]  # fmt: skip
    head = ["card", "bench", "variant", "B", "P", "L", "dtype", "a token", "tokens/s",
            "its time over the baseline"]  # fmt: skip
    return f"\nWhole models on a GPU:\n\n{markdown(head, body)}\n" if body else ""
