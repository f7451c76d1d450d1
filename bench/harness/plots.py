"""Plots of rows, sized to be read at half a page's width."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .rows import Row, note


def draw(rows: Sequence[Row], folder: Path) -> list[Path]:
    """One plot per bench of its rows: seconds, or tokens per second, over what varies.

    Raises RuntimeError when matplotlib is missing.
    """
    if not rows:
        note("no rows, no plot")
        return []
    varies = next(
        (x for x in ("L", "states", "B", "P", "D") if len({getattr(r, x) for r in rows}) > 1), "L"
    )
    curves: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        x, y = getattr(row, varies), row.p50 if row.p50 != "" else row.value
        if x != "" and y != "":
            curves.setdefault(row.variant, []).append((float(x), float(y)))
    path = folder / f"{rows[0].bench}.svg"
    unit = "time (s)" if any(r.p50 != "" for r in rows) else rows[0].unit or rows[0].quantity
    curve_plot(curves, path, xlabel=varies, ylabel=unit)
    return [path]


def curve_plot(
    curves: dict[str, list[tuple[float, float]]],
    path: Path,
    *,
    xlabel: str,
    ylabel: str,
    title: str = "",
    log: str = "xy",
    highlight: str = "ours",
) -> None:
    """Curves name -> (x, y) points as one SVG file; axes named in ``log`` are logarithmic."""
    pyplot = _pyplot()
    figure, axes = pyplot.subplots(figsize=(5.2, 3.6), layout="constrained")
    for name, points in curves.items():
        points = sorted(points)
        bold = name.startswith(highlight)
        axes.plot(
            *zip(*points, strict=True), marker="o", markersize=4 if bold else 3,
            linewidth=2.5 if bold else 1.2, label=name, zorder=3 if bold else 2,
        )  # fmt: skip
    if "x" in log:
        axes.set_xscale("log", base=2)
    if "y" in log:
        axes.set_yscale("log")
    axes.set(xlabel=xlabel, ylabel=ylabel, title=title)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7)
    path.parent.mkdir(parents=True, exist_ok=True)
    # a fixed salt and no date: the same rows give the same file
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


def _pyplot() -> Any:
    try:
        import matplotlib
    except ImportError:
        raise RuntimeError(
            "plots need matplotlib: pip install 'futurefill_kernels[bench]'"
        ) from None
    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.hashsalt": "futurefill", "svg.fonttype": "none"})
    import matplotlib.pyplot as pyplot

    return pyplot
