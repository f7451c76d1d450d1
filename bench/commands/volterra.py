"""Equations with memory: time over steps, batches, and paths of rough Heston.

Fractional equations go against packages and direct sums by the same method, so at equal error;
what would take too long is run with fewer steps, twice, and scaled by ``a n + b n**2``.
"""

from __future__ import annotations

import argparse
import math
from functools import partial
from itertools import pairwise

import torch
from scipy.special import erfcx
from torch import Tensor

import futurefill_kernels as ff
from futurefill_kernels.volterra.sde import euler_weights

from ..harness.machine import CPU
from ..harness.rows import relative_error
from ..harness.timing import Times, measure
from ..peers.fractional import ALPHA, PEERS, Peer

#: Added to twice our error: all but one peer are the same method, with weights of fewer digits.
TOLERANCE = 1e-12
#: Times are scaled to at most as many times the steps that were run.
FARTHEST = 16

MODEL = ff.volterra.RoughHeston(
    v0=0.04, mean=0.06, rate=1.0, vol=0.08, correlation=-0.6, hurst=0.15
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``volterra``."""
    names = [peer.name for peer in PEERS]
    parser.add_argument("--parts", nargs="+", default=["scalar", "batch", "paths", "waste"])
    parser.add_argument("--repeats", type=int, default=3, help="of what takes seconds")
    parser.add_argument("--steps", nargs="+", type=int, default=[8192, 32768, 131072])
    parser.add_argument("--batch", nargs=2, type=int, default=[64, 16384], metavar=("E", "N"))
    parser.add_argument("--paths", nargs=2, type=int, default=[10000, 4096], metavar=("P", "N"))
    parser.add_argument("--peers", nargs="+", default=names, choices=names)


def run(args: argparse.Namespace) -> None:
    """All parts."""
    if args.quick:
        args.steps, args.batch, args.paths = [64, 128], [4, 64], [40, 64]
        args.repeats, args.peers = 1, [peer.name for peer in PEERS if peer.same]
    if "scalar" in args.parts:
        curves: dict[str, list[tuple[int, float]]] = {}
        for steps in args.steps:
            _equations(args, 1, steps, curves)
        for name, points in curves.items():
            _slope(args, name, points)
    if "batch" in args.parts:
        _equations(args, *args.batch, {})
    if "paths" in args.parts:
        _paths(args, *args.paths)
    if "waste" in args.parts:
        _waste(args, *args.paths)


def _ours(args: argparse.Namespace, rates: Tensor, steps: int) -> Tensor:
    ones = torch.ones_like(rates)
    found = ff.volterra.solve_caputo(
        lambda t, y: -rates * y, ALPHA, ones, 1.0, steps, impl=args.impl
    )
    return found.values[-1]


def _equations(
    args: argparse.Namespace, equations: int, steps: int, curves: dict[str, list[tuple[int, float]]]
) -> None:
    """One number of equations and steps: ours, then every peer in the same turns."""
    rates = torch.linspace(1, 2, equations, dtype=torch.float64)
    exact = torch.from_numpy(erfcx(rates.numpy()))
    fields = {"B": 1, "D": equations, "L": steps, "dtype": torch.float64}
    ours = _ours(args, rates, steps)
    # 0.05: a bound of the method's error, of order 1 + alpha
    error, allowed = relative_error(ours, exact), 0.05 * (16 / steps) ** 1.5
    calls = {"ours": partial(_ours, args, rates, steps)}
    times = measure(calls, device=CPU, repeats=args.repeats, warmup=0)["ours"]
    args.report.add(
        "ours", **fields, impl=args.impl, times=times, tokens=steps * equations, error=error,
        tolerance=allowed, note="error against the exact solution; tokens are value-steps",
    )  # fmt: skip
    curves.setdefault("ours", []).append((steps, times.p50))
    for peer in PEERS:
        if peer.name not in args.peers:
            continue
        reason = peer.unavailable()
        if reason:
            args.report.add(peer.name, **fields, status=reason)
            continue
        if steps > FARTHEST * peer.most[equations > 1]:
            _small(peer, args, rates, exact)
            continue
        found, needed, note = _peer(args, peer, rates, steps, times)
        theirs = relative_error(found, exact)
        same = {"error": theirs, "tolerance": 2 * error + TOLERANCE} if peer.same else {}
        if note:  # ran with fewer steps: the error is that of those
            same = {"error": theirs, "tolerance": 0.05 if peer.same else 0.1}
        args.report.add(
            peer.name, **fields, impl="torch", times=needed, tokens=steps * equations,
            baseline=("ours", times), note=note, **same,
        )  # fmt: skip
        curves.setdefault(peer.name, []).append((steps, needed.p50))


def _small(peer: Peer, args: argparse.Namespace, rates: Tensor, exact: Tensor) -> None:
    """The time of as many steps as are run of a peer, where that is far from those asked for."""
    steps, found = peer.most[len(rates) > 1], []
    times = measure(
        {"": lambda: found.append(peer.solve(rates, steps))},
        device=CPU,
        repeats=args.repeats,
        warmup=1,
    )[""]
    args.report.add(
        peer.name, B=1, D=len(rates), L=steps, dtype=torch.float64, impl="torch", times=times,
        tokens=steps * len(rates), error=relative_error(found[0], exact), tolerance=0.1,
        note="slower by the square of the steps; more are not run",
    )  # fmt: skip


def _peer(
    args: argparse.Namespace, peer: Peer, rates: Tensor, steps: int, ours: Times
) -> tuple[Tensor, Times, str]:
    """y(1), the time of all steps, and a remark where it is scaled from fewer."""
    most, turns = peer.most[len(rates) > 1], len(ours.seconds)
    sizes = [steps] if steps <= most else [most // 2, most]
    found: dict[int, Tensor] = {}

    def solve(n: int) -> None:
        found[n] = peer.solve(rates, n)

    solve(16)  # imports
    parts = measure({str(n): partial(solve, n) for n in sizes}, device=CPU, repeats=turns, warmup=0)
    if steps <= most:
        return found[steps], parts[str(steps)], ""
    few, many = sizes
    scaled = Times(tuple(
        scale(few, a, many, b, steps)
        for a, b in zip(parts[str(few)].seconds, parts[str(many)].seconds, strict=True)
    ))  # fmt: skip
    return found[many], scaled, f"scaled from {few} and {many} steps; error at {many}"


def scale(few: int, a: float, many: int, b: float, steps: int) -> float:
    """Seconds of ``steps`` from a of few and b of many steps, as ``linear n + square n**2``."""
    square = max(0.0, (b / many - a / few) / (many - few))
    return (b / many - square * many) * steps + square * steps**2


def _slope(args: argparse.Namespace, name: str, points: list[tuple[int, float]]) -> None:
    for (few, a), (many, b) in list(pairwise(points))[-1:]:
        args.report.add(
            name, D=1, L=many, quantity="slope of log time over log steps",
            value=math.log(b / a) / math.log(many / few), note=f"from {few} to {many} steps",
        )  # fmt: skip


def _paths(args: argparse.Namespace, paths: int, steps: int) -> None:
    """Rough Heston, ours and the scheme's sums taken directly at some of the steps."""
    seeds = iter(range(10**6))

    def ours() -> ff.volterra.RoughHestonPaths:
        generator = torch.Generator().manual_seed(next(seeds))
        return ff.volterra.rough_heston_paths(
            MODEL, 1.0, steps, paths, generator=generator, impl=args.impl
        )

    few = min(paths, 16)
    error = _path_error(args, few, min(steps, 512))
    fields = {"B": 1, "D": paths, "L": steps, "dtype": torch.float64}
    taps = torch.rand(1, 1, steps, dtype=torch.float64)
    memory = ff.volterra.Memory(taps, (paths,), impl=args.impl)
    u = torch.zeros(steps, paths, dtype=torch.float64)
    out, at = torch.empty(paths, dtype=torch.float64), [steps // 8, steps // 2, steps]

    def sums() -> None:
        for _ in range(steps):
            memory.advance()

    def direct_sums() -> None:
        for n in at:
            torch.mv(u[:n].T, taps[0, 0, :n], out=out)

    calls = {"ours": ours, "sums": sums, "direct": direct_sums}
    times = measure(
        calls, device=CPU, repeats=args.repeats, warmup=0, before={"sums": memory.cache.reset}
    )
    whole, history = times["ours"], times["sums"]
    direct = times["direct"] * (steps * (steps + 1) / 2 / sum(at))
    rest = Times(
        tuple(max(0.0, a - b) for a, b in zip(whole.seconds, history.seconds, strict=True))
    )
    sampled = f"sampled: the sums of {len(at)} of {steps} steps"
    name = "ours, rough Heston"
    args.report.add(
        name, **fields, impl=args.impl, times=whole, tokens=paths, error=error,
        tolerance=1e-12, note="tokens are paths; error against direct sums with the same noise",
    )  # fmt: skip
    args.report.add(
        "direct sums, torch, rough Heston", **fields, impl="torch", times=direct + rest,
        tokens=paths, baseline=(name, whole), note=sampled + "; noise and square roots are ours",
    )  # fmt: skip
    args.report.add(
        f"{name}, its sums alone", **fields, impl=memory.cache.impl, plan=memory.cache.plan,
        times=history, tokens=paths,
    )  # fmt: skip
    args.report.add(
        "direct sums, torch, rough Heston, the sums alone", **fields, impl="torch", times=direct,
        tokens=paths, baseline=(f"{name}, its sums alone", history), note=sampled,
    )  # fmt: skip


def _path_error(args: argparse.Namespace, paths: int, steps: int) -> float:
    """Relative error of ours against direct sums with the same noise."""
    kernel = ff.volterra.PowerKernel(0.65)
    z = torch.randn(steps, paths, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    found = ff.volterra.volterra_paths(
        kernel, lambda t, x: 0.06 - x, lambda t, x: 0.3 * x.clamp(min=0).sqrt(), 0.04, 1.0, steps,
        paths, noise=lambda begin, end: z[begin:end], impl=args.impl,
    ).values  # fmt: skip
    mean, excess = euler_weights(kernel, 1 / steps, steps)
    x = torch.full_like(found, 0.04)
    u = torch.zeros_like(z)
    for n in range(steps):
        shock = 0.3 * x[n].clamp(min=0).sqrt() * z[n] / math.sqrt(steps)
        u[n] = (0.06 - x[n]) / steps + shock
        x[n + 1] += mean[0, : n + 1].flip(0) @ u[: n + 1] + excess * shock
    return relative_error(found, x)


def _waste(args: argparse.Namespace, paths: int, steps: int) -> None:
    """History sums of paths that share a filter row, beside those that have one each, per path."""
    some = min(paths, 256)
    taps = ff.volterra.weights.grunwald_letnikov(torch.tensor([-0.65]).double(), steps)
    step = "history sums of paths"
    calls, shared = {}, {"1 path": (1, 1), f"{some} paths, a filter row each": (some, some),
                         f"{some} paths, one filter row": (some, 1),
                         f"{paths} paths, one filter row": (paths, 1)}  # fmt: skip
    for name, (count, rows) in shared.items():
        memory = ff.volterra.Memory(taps.expand(rows, steps)[None], (count,), impl=args.impl)
        calls[name] = (memory, count)

    def march(memory: ff.volterra.Memory) -> None:
        for _ in range(steps):
            memory.advance()

    times = measure(
        {name: partial(march, memory) for name, (memory, _) in calls.items()}, device=CPU,
        repeats=args.repeats,
        warmup=0, before={name: memory.cache.reset for name, (memory, _) in calls.items()},
    )  # fmt: skip
    for name, (memory, count) in calls.items():
        args.report.add(
            f"{step}: {name}", D=count, G=memory.cache.state.layout.groups, L=steps,
            dtype=torch.float64, impl=memory.cache.impl, plan=memory.cache.plan, times=times[name],
            tokens=count * steps, quantity="ns per step and path",
            value=times[name].p50 / count / steps * 1e9,
            note=f"{memory.cache.nbytes / count / steps:.1f} bytes of state per step and path",
        )  # fmt: skip
