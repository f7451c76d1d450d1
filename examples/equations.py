"""A fractional oscillator and a fan of rough-volatility paths, drawn by
``python examples/equations.py``.

Needs matplotlib: ``pip install 'futurefill_kernels[bench]'``.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import torch

import futurefill_kernels as ff

ORDERS = (1.2, 1.4, 1.6, 1.8, 1.95)
MODEL = ff.volterra.RoughHeston(v0=0.04, mean=0.04, rate=0.5, vol=0.15, correlation=-0.7, hurst=0.1)


def main(argv: Sequence[str] | None = None) -> None:
    """Solve, and draw one picture of two panels."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("equations.svg"))
    parser.add_argument("--steps", type=int, default=4096)
    parser.add_argument("--paths", type=int, default=500)
    args = parser.parse_args(argv)

    # D^alpha y = -y, y(0) = 1: from decay to oscillation, all orders in one run
    start = torch.ones(len(ORDERS), dtype=torch.float64)
    swing = ff.volterra.solve_caputo(
        lambda t, y: -y, ORDERS, start, 25.0, args.steps, dy0=torch.zeros_like(start)
    )
    fan = ff.volterra.rough_heston_paths(
        MODEL, 1.0, args.steps, args.paths, generator=torch.Generator().manual_seed(7)
    )

    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.hashsalt": "futurefill", "svg.fonttype": "none"})
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
    every = max(1, args.steps // 400)
    for order, values in zip(ORDERS, swing.values[::every].T, strict=True):
        left.plot(swing.times[::every], values, label=f"order {order}")
    left.set(xlabel="time", ylabel="y", title="fractional oscillator")
    left.legend(fontsize=7)
    volatility = fan.variance.clamp(min=0).sqrt()[::every]
    bands = torch.quantile(volatility, torch.tensor([0.05, 0.25, 0.5, 0.75, 0.95]).double(), dim=1)
    times = fan.times[::every]
    right.fill_between(times, bands[0], bands[4], alpha=0.2, label="5 .. 95 %")
    right.fill_between(times, bands[1], bands[3], alpha=0.3, label="25 .. 75 %")
    right.plot(times, volatility[:, :3], linewidth=0.5)
    right.plot(times, bands[2], color="black", label="median")
    right.set(xlabel="time (years)", ylabel="volatility", title="rough Heston, H = 0.1")
    right.legend(fontsize=7)
    figure.savefig(args.out, metadata={"Date": None})
    print(f"wrote {args.out}")


if __name__ == "__main__":
    main()
