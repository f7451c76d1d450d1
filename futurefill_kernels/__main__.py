"""Command line: ``python -m futurefill_kernels`` and one of the commands below."""

from __future__ import annotations

import argparse
import sys

from . import environment, evaluate, generate, plan_command, train, tune_command

COMMANDS = {
    "generate": (generate, "generate text with the shipped byte-level model"),
    "plan": (plan_command, "print the block sizes for a stream and what they cost"),
    "tune": (tune_command, "measure this machine's rates for plans and store them"),
    "env": (environment, "print versions, and which implementations can run or why not"),
    "train": (train, "train the byte-level model on the standard library's source"),
    "evaluate": (evaluate, "bits per byte of a model, in parallel and token by token"),
}


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m futurefill_kernels", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, (module, text) in COMMANDS.items():
        sub = commands.add_parser(
            name, help=text, formatter_class=argparse.ArgumentDefaultsHelpFormatter
        )
        module.add_arguments(sub)
    args = parser.parse_args(argv)
    try:
        COMMANDS[args.command][0].run(args)
    except KeyboardInterrupt:
        return 130
    except (ValueError, TypeError, RuntimeError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
