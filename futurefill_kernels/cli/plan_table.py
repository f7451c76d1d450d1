"""The planner's choices for every named GPU as one Markdown page."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from ..planning.device import DeviceInfo
from ..planning.gpu_choice import of_levels
from ..planning.gpu_cost import GpuCost, fill_launches, host_seconds, times_of, token_bytes
from ..planning.gpu_plan import cheapest_plan, leanest_plan, proposals
from ..planning.memory import needed_nbytes, usable_bytes
from ..planning.workload import Workload
from .line_errors import errors_text

LENGTHS = (2048, 8192, 32768, 131072, 524288, 1048576)
CHANNELS = (1024, 4096)
LAYERS = (1, 24)
#: Of the table of rows that fit: tokens, layers and channels, and the bytes of a slot and a tap.
ROWS_LENGTH, ROWS_LAYERS = 65536, 24
DTYPES = {"float32": (4, 4), "16 bits": (2, 4), "16 bits, taps too": (2, 2)}

_HEADER = """\
# The planner's choices

Written by `python -m futurefill_kernels plan --device all --table`. float32 state, batch 1, every
channel with a filter of its own, filters as long as the stream, `impl="auto"`: each level by the
implementation whose fills are fastest at it, or by torch.fft. The figures are the model's
([gpu_cost.py](../futurefill_kernels/planning/gpu_cost.py)): lines through times of one H200
([gpu_rates.json](../futurefill_kernels/planning/gpu_rates.json), which says how each was come by),
for the other devices as much slower or faster as their published rates are. `16 .. 2048` means
radix 2 between them.

* **bytes**: what fills move per token, layer and channel. A level of radix 2 moves 10 (12 of inputs
  and pending outputs, 8 of one filter spectrum, every second block), of radix 4 31, of radix 16
  131: it reads every kept input spectrum and filter spectrum of its group.
* **us**: modelled time of a token's convolutions: a history of all layers and a step per layer, as
  a graph replays them, and fills with the host's launch. The last column is what the host takes for
  all of these launches without a graph, of the same times.
* **memory**: ring, kept input spectra, filter spectra and the filters.

Why these: each level's time is a launch, its bytes at the bandwidth that reads reach, and what
every point of a transform takes, which grows with the block. So

* radix 2 wins at batch 1 up to 1024: it keeps no input spectra and moves the fewest bytes; above,
  where a point takes twice as long, a level is left out where that saves more than the products of
  a wider radix cost;
* a larger first block saves launches of fills and makes the history longer: with few layers or
  channels the first block grows; with more of them, or more rows, it shrinks;
* a block above 8192 takes three launches per layer and passes over a workspace, above 262144
  torch.fft: only where products of a wider radix would cost more;
* where the fastest plan does not fit nine tenths of the memory, slower plans that take less are
  tried, and where none fits, `make_plan` refuses and names what does, with the bytes that it needs.
  Held spectra take `8 L` bytes per filter row; where they do not fit, the largest levels make
  theirs when they fire (`memory="small"`), which leaves `L`. Beyond that a state of 16 bits
  (`state_dtype`), taps of 16 bits (`filters_dtype`), fewer filter rows (`groups`), shorter filters,
  fewer rows or layers help.

```python
import torch

import futurefill_kernels as ff

plan = ff.make_plan(65536, 1024, layers=24, device=ff.DeviceInfo.named("h100"))
print(plan.explain())
half = ff.make_plan(
    65536, 1024, layers=24, device=ff.DeviceInfo.named("h100"), state_dtype=torch.bfloat16
)
print(half.explain(torch.bfloat16))
```
"""

_FITTING = f"""\
## Rows that fit

How many rows of {ROWS_LENGTH} tokens a device has room for, {ROWS_LAYERS} layers, `memory="small"`:
with a state of float32, one of 16 bits (`state_dtype=torch.bfloat16` or `torch.float16`), and taps
of 16 bits beside it (`filters_dtype=torch.bfloat16`). In brackets the bytes of a row in GB.
"""


def blocks_text(sizes: tuple[int, ...]) -> str:
    """Block sizes with runs of radix 2 as ``first .. last``."""
    runs: list[list[int]] = []
    for size in sizes:
        if runs and size == 2 * runs[-1][-1]:
            runs[-1].append(size)
        else:
            runs.append([size])
    return ", ".join(
        f"{run[0]} .. {run[-1]}" if len(run) > 2 else ", ".join(map(str, run)) for run in runs
    )


def table(devices: tuple[DeviceInfo, ...], lengths: tuple[int, ...] = LENGTHS) -> str:
    """The page for some GPUs."""
    lines = [line for info in devices for line in _section(info, lengths)]
    return "\n".join([_HEADER, _FITTING, *_rows_that_fit(devices), *lines])


def _rows_that_fit(devices: tuple[DeviceInfo, ...]) -> Iterator[str]:
    yield f"| device | memory (GB) | D | {' | '.join(DTYPES)} |"
    yield "|---|---|---|" + "---|" * len(DTYPES)
    for info in devices:
        for channels in CHANNELS:
            found = (rows_that_fit(info, channels, *sizes) for sizes in DTYPES.values())
            cells = " | ".join(f"{rows} ({nbytes / 1e9:.2f})" for rows, nbytes in found)
            yield f"| {info.name} | {info.memory_bytes / 1e9:.0f} | {channels} | {cells} |"
    yield ""


def rows_that_fit(
    info: DeviceInfo, channels: int, ring_itemsize: int, filters_itemsize: int
) -> tuple[int, int]:
    """Rows that a device has room for under the plan that holds least, and the bytes of one."""
    one = Workload(
        ROWS_LENGTH, ROWS_LENGTH, channels, 1, ROWS_LAYERS, channels,
        ring_itemsize=ring_itemsize, filters_itemsize=filters_itemsize,
    )  # fmt: skip
    plan = leanest_plan(one, info)
    needed = needed_nbytes(one, plan)
    row = needed_nbytes(replace(one, batch_size=2), plan) - needed
    return max((usable_bytes(info) - (needed - row)) // row, 0), row


def _section(info: DeviceInfo, lengths: tuple[int, ...]) -> Iterator[str]:
    yield f"## {info.name}"
    yield ""
    yield (
        f"{info.sm_count} SMs, {info.dram_bytes_per_second / 1e9:.0f} GB/s, "
        f"{info.fp32_flops / 1e12:.1f} TFLOP/s float32, {info.memory_bytes / 1e9:.0f} GB; "
        f"{errors_text(info)}."
    )
    yield ""
    yield "| layers | D | L | block sizes | bytes | memory (GB) | us | launches (us) |"
    yield "|---|---|---|---|---|---|---|---|"
    for layers in LAYERS:
        for channels in CHANNELS:
            for length in lengths:
                yield _row(info, Workload(length, length, channels, 1, layers, channels))
    yield ""


def _row(info: DeviceInfo, workload: Workload) -> str:
    sizes = f"| {workload.layers} | {workload.channels} | {workload.length} | "
    try:
        plan = cheapest_plan(workload, info)
    except ValueError:
        fits = "; ".join(proposals(workload, info)) or "nothing smaller"
        needed = needed_nbytes(workload, leanest_plan(workload, info))
        return sizes + f"refused; fits: {fits} | | {needed / 1e9:.1f} | | |"
    fills = of_levels(plan, workload, info)
    cost, times = GpuCost(workload, info), times_of(info)
    step = min(found.step_launch_seconds for name, found in times.kernels if name in cost.names)
    fired = sum(
        plan.firings(level) * fill_launches(workload, name, level.block) * host_seconds(times, name)
        for level, name in zip(plan.levels, fills, strict=True)
    )
    launches = (1 + workload.layers) * step + fired / workload.length
    return sizes + (
        f"{blocks_text(plan.block_sizes)} | {token_bytes(workload, plan):.0f} | "
        f"{needed_nbytes(workload, plan) / 1e9:.2f} | "
        f"{1e6 * cost.plan(plan):.1f} | {1e6 * launches:.1f} |"
    )
