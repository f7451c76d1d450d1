"""``python -m futurefill_kernels plan``: the planner's choice as a table."""

from __future__ import annotations

import argparse

import torch

from ..checks import DTYPES
from ..plan import Plan
from ..planning.capabilities import on_gpus
from ..planning.device import DeviceInfo
from ..planning.make_plan import OBJECTIVES, make_plan
from ..planning.small import MEMORY
from . import plan_ranks, plan_table
from .line_errors import errors_text

#: Options that not every form of the command reads, and what they are where they are not given.
SOMETIMES = {
    "block_sizes": None, "devices": None, "groups": None, "filter_length": None, "impl": "auto",
    "bf16_spectra": False, "state_dtype": "float32", "filters_dtype": None,
    "objective": OBJECTIVES[0], "memory": MEMORY[0],
}  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``plan``."""
    parser.add_argument("--length", type=int, default=65536, help="tokens of the stream")
    parser.add_argument("--channels", type=int, default=1024, help="of a layer")
    parser.add_argument("--batch-size", type=int, default=1, help="rows")
    parser.add_argument("--layers", type=int, default=1, help="long convolutions")
    parser.add_argument("--groups", type=int, default=None, help="filter rows; channels if unset")
    parser.add_argument("--filter-length", type=int, default=None, help="taps; length if unset")
    parser.add_argument(
        "--device", default="cpu", help="cpu, cuda, a name such as h100, or with --table all"
    )
    parser.add_argument(
        "--table", action="store_true", help="a Markdown page of choices for GPUs (--device)"
    )
    parser.add_argument("--impl", default="auto", choices=("auto", *on_gpus()), help="on a GPU")
    parser.add_argument(
        "--bf16-spectra", action="store_true", help="filter spectra on a GPU in bfloat16"
    )
    parser.add_argument(
        "--state-dtype",
        choices=[str(dtype).removeprefix("torch.") for dtype in DTYPES],
        default="float32",
        help="of inputs and pending outputs",
    )
    parser.add_argument(
        "--filters-dtype", choices=("float32", "bfloat16"), default=None, help="of the taps"
    )
    parser.add_argument(
        "--objective", choices=OBJECTIVES, default=OBJECTIVES[0], help="what is to be least"
    )
    parser.add_argument(
        "--memory",
        choices=MEMORY,
        default=MEMORY[0],
        help="small: the largest levels make filter spectra when they fire",
    )
    parser.add_argument(
        "--block-sizes", default=None, help="explain these instead, for example 32,256,4096"
    )
    plan_ranks.add_arguments(parser)


def run(args: argparse.Namespace) -> None:
    """Print the plan of ``args``. Raises ValueError for options that do not go together."""
    if args.table or args.device == "all":
        if not args.table:
            raise ValueError("--device all needs --table")
        if args.impl != "auto":
            raise ValueError(f"--table is for --impl auto, got {args.impl}")
        _refuse_others("--table", args)
        names = DeviceInfo.names() if args.device == "all" else (args.device,)
        print(plan_table.table(tuple(DeviceInfo.named(name) for name in names)), end="")
        return
    state = getattr(torch, args.state_dtype)
    filters = None if args.filters_dtype is None else getattr(torch, args.filters_dtype)
    if args.block_sizes is not None:
        read = ("block_sizes", "filter_length", "state_dtype", "filters_dtype")
        _refuse_others("--block-sizes", args, *read)
        sizes = tuple(int(size) for size in args.block_sizes.split(","))
        print(Plan(args.length, sizes, args.filter_length).explain(state, filters))
        return
    known = args.device.split(":")[0] in ("cpu", "cuda")
    if args.devices is not None:
        _refuse_others("--devices", args, "devices")
        plan_ranks.run(args, (DeviceInfo.of if known else DeviceInfo.named)(args.device))
        return
    plan = make_plan(
        args.length,
        args.channels,
        batch_size=args.batch_size,
        layers=args.layers,
        groups=args.groups,
        device=args.device if known else DeviceInfo.named(args.device),
        objective=args.objective,
        filter_length=args.filter_length,
        impl=args.impl,
        dtype=torch.float64 if state == torch.float64 else torch.float32,
        spectra_dtype=torch.bfloat16 if args.bf16_spectra else None,
        state_dtype=state,
        filters_dtype=filters,
        memory=args.memory,
    )
    print(plan.explain(state, filters))
    if not args.device.startswith("cpu"):
        print(errors_text((DeviceInfo.of if known else DeviceInfo.named)(args.device)))


def _refuse_others(option: str, args: argparse.Namespace, *read: str) -> None:
    """ValueError where an option was given that is not read beside this one."""
    given = [name for name, usual in SOMETIMES.items() if getattr(args, name) != usual]
    others = ["--" + name.replace("_", "-") for name in given if name not in read]
    if others:
        raise ValueError(f"expected no {' and no '.join(others)} with {option}, which reads none")
