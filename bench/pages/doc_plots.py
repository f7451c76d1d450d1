"""The plots of docs/benchmarks.md, from rows."""

from __future__ import annotations

from pathlib import Path

from ..harness.plots import curve_plot
from .doc_tables import Rows, name_of


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
    curves = {}
    for row in rows:
        if row["bench"] == "volterra" and row["D"] == "1" and row["error"] and row["p50"]:
            curves.setdefault(row["variant"], []).append((float(row["L"]), float(row["p50"])))
    if curves:
        curve_plot(
            curves, folder / "volterra.svg", xlabel="steps", ylabel="whole solution (s)",
            title="one fractional equation, float64, CPU",
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
