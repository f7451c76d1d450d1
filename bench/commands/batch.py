"""Whole generations of 1 to 64 rows: how throughput grows with the batch.

``--impl reference --batch-sizes 1,64 --peers none`` is what an installation without a compiler has.
"""

from __future__ import annotations

import argparse

from . import stream


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``batch``."""
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--batch-sizes", default="1,2,4,8,16,32,64")
    parser.add_argument("--peers", default="naive,naive-fused,continuous,attention")
    parser.set_defaults(block_sizes=None)


def run(args: argparse.Namespace) -> None:
    """`stream` for every batch size; B of --shapes is ignored."""
    batches = [int(b) for b in args.batch_sizes.split(",")]
    shapes = args.shapes or [(1, 256, 4096)]
    if args.quick:
        batches, shapes = [1, 3], [(1, 32, 256)]
    for _, channels, length in shapes:
        args.shapes = [(b, channels, length) for b in batches]
        stream.sweep(args, args.shapes)
