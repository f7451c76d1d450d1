"""``python -m bench stream | step | memory``: each checks its results before it prints a figure."""

from __future__ import annotations

import argparse
import sys

from . import memory, step, stream

BENCHES = {
    "stream": (stream, "a whole generation: error against float64, then seconds"),
    "step": (step, "time of one cache.step call where there is almost nothing to compute"),
    "memory": (memory, "bytes of state after prompts of different length"),
}


def main(argv: list[str] | None = None) -> int:
    """Run one bench; returns the exit status, 1 when its check fails."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    benches = parser.add_subparsers(dest="bench", required=True, metavar="NAME")
    for name, (module, text) in BENCHES.items():
        sub = benches.add_parser(
            name, help=text, formatter_class=argparse.ArgumentDefaultsHelpFormatter
        )
        sub.add_argument("--impl", default="auto")
        sub.add_argument("--threads", type=int, default=1)
        sub.add_argument("--quick", action="store_true", help="small sizes, for a check")
        module.add_arguments(sub)
    args = parser.parse_args(argv)
    try:
        BENCHES[args.bench][0].run(args)
    except (ValueError, TypeError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
