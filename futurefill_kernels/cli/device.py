"""``--device``: the device that a command runs on."""

from __future__ import annotations

import argparse

import torch

HELP = "auto (the GPU where there is one), cpu, cuda or cuda:n"


def add_device_argument(parser: argparse.ArgumentParser, default: str = "auto") -> None:
    """Declare ``--device``."""
    parser.add_argument("--device", default=default, help=HELP)


def resolve_device(name: str) -> torch.device:
    """The device that ``--device`` names, with its index where it is a GPU.

    Raises ValueError for a name that is none, RuntimeError for a device that is not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, index = name.partition(":")
    if kind not in ("cpu", "cuda") or (":" in name and not index.isdigit()):
        raise ValueError(f"unknown device {name!r}; expected {HELP}")
    if kind == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        why = "no driver or device answers" if torch.version.cuda else "a build for CPUs"
        raise RuntimeError(
            f"device {name!r} is not there: torch {torch.__version__} finds no CUDA device ({why})"
        )
    count = torch.cuda.device_count()
    number = int(index) if index else torch.cuda.current_device()
    if number >= count:
        raise RuntimeError(f"device {name!r} is not there: torch finds {count}, cuda:0 and up")
    return torch.device("cuda", number)
