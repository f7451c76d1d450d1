"""``plan --devices N``: a model over ranks, by their number."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from ..planning.device import DeviceInfo
from ..planning.link import Link
from ..planning.rank_plan import ModelSizes, RankPlan, rank_plans

#: NVLink 4 in one direction, and what a small message takes on it: published and assumed.
LINK_GB, LATENCY_US = 450.0, 5.0
WEIGHT_BYTES = {"float32": 4, "bfloat16": 2}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``plan --devices``."""
    group = parser.add_argument_group("a language model over ranks (--devices)")
    group.add_argument(
        "--devices", type=int, default=None, help="ranks, of --device each: memory and time by rank"
    )
    group.add_argument("--link", type=float, default=LINK_GB, help="GB/s of a rank, one direction")
    group.add_argument("--latency", type=float, default=LATENCY_US, help="us of a small message")
    group.add_argument("--mlp-hidden", type=int, default=None, help="4 * channels if unset")
    group.add_argument("--vocabulary", type=int, default=50304, help="ids of embedding and head")
    group.add_argument("--mixer", choices=("hyena", "stu"), default="hyena", help="of every layer")
    group.add_argument(
        "--weights", choices=WEIGHT_BYTES, default="bfloat16", help="dtype; the state is float32"
    )


def run(args: argparse.Namespace, device: DeviceInfo) -> None:
    """Print the table. ValueError where the options do not fit."""
    if args.devices < 1:
        raise ValueError(f"expected --devices >= 1, got {args.devices}")
    hidden = 4 * args.channels if args.mlp_hidden is None else args.mlp_hidden
    model = ModelSizes(
        args.channels, args.layers, hidden, args.vocabulary, args.length, args.batch_size,
        args.mixer, itemsize=WEIGHT_BYTES[args.weights],
    )  # fmt: skip
    link = Link(args.link * 1e9, args.latency * 1e-6)
    print("\n".join(table(rank_plans(model, args.devices, device, link), device)))


def table(plans: list[RankPlan], device: DeviceInfo) -> Iterator[str]:
    """Lines of a Markdown table, and where more ranks stop paying."""
    yield (
        f"Modelled: {device.name}, {device.memory_bytes / 1e9:.1f} GB and "
        f"{device.dram_bytes_per_second / 1e9:.0f} GB/s each."
    )
    yield ""
    yield (
        "| ranks | weights (GB) | state (GB) | weights (us) | convolutions (us) | link (us) | "
        "token (us) |"
    )
    yield "|---|---|---|---|---|---|---|"
    for p in plans:
        yield (
            f"| {p.ranks} | {p.weights / 1e9:.2f} | "
            + (f"{p.state / 1e9:.2f}" if p.plan else "more than there is")
            + f" | {1e6 * p.seconds_weights:.0f} | "
            + (f"{1e6 * p.seconds_convolutions:.0f}" if p.plan else "")
            + f" | {1e6 * p.seconds_link:.0f} | "
            + (f"{1e6 * p.seconds:.0f}" if fits(p, device) else "does not fit")
            + " |"
        )
    yield ""
    fitting = [p for p in plans if fits(p, device)]
    if not fitting:
        yield "It fits on none of these."
        return
    best = min(fitting, key=lambda p: p.seconds)
    yield (
        f"It fits from {fitting[0].ranks} on. The shortest token is that of {best.ranks}"
        + ("; more ranks take longer." if best is not plans[-1] else ", the most that were asked.")
    )


def fits(plan: RankPlan, device: DeviceInfo) -> bool:
    """Whether a rank has room for weights and state."""
    return plan.plan is not None and plan.nbytes <= device.memory_bytes
