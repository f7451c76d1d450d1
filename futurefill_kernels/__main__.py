"""Command line: ``python -m futurefill_kernels`` and one of the commands below."""

from __future__ import annotations

import argparse
import sys

from .cli import COMMANDS


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
    args.arguments = sys.argv[1:] if argv is None else argv
    try:
        COMMANDS[args.command][0].run(args)
    except KeyboardInterrupt:
        return 130
    except (ValueError, TypeError, RuntimeError, OSError, MemoryError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
