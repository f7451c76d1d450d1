"""``python -m bench.pages.kernels``: the times in docs/kernels.md, from those that plans go by and
from rows of `bench compile`.

Reads ``futurefill_kernels/planning/gpu_rates.json`` and ``bench/results/compile.csv``; no number is
typed by hand.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from futurefill_kernels.planning.device import DeviceInfo
from futurefill_kernels.planning.gpu_cost import (
    FFT,
    FFT_FILL_BYTES,
    GpuCost,
    apply_bytes,
    fft_fills,
    fill_bytes,
    fill_launches,
    history_bytes,
    host_seconds,
    measured_workload,
    own_kernels,
)
from futurefill_kernels.planning.gpu_times import SHIPPED, GpuTimes, Time
from futurefill_kernels.planning.workload import Workload

from ..harness.machine import ROOT
from ..harness.rows import read, seconds_text
from .docs import RESULTS

PAGE = ROOT / "docs" / "kernels.md"
BEGIN, END = "<!-- times: python -m bench.pages.kernels -->", "<!-- end of times -->"
#: Blocks of the table of what is fastest, and the stream that they are of.
_BLOCKS = tuple(1 << k for k in range(6, 21))
_STREAM = Workload(1 << 21, 1 << 21, 1024, 1, 24, 1024)
COMPILED = "<!-- compiling: python -m bench.pages.kernels -->"
END_COMPILED = "<!-- end of compiling -->"
_KINDS = {
    "steps": "A token, by its first block",
    "fills": "The first firing of a group, by its block",
    "prompts": "A prompt with gates, by its positions",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Write the tables into the page; with --check only say whether they are up to date."""
    parser = argparse.ArgumentParser(prog="python -m bench.pages.kernels", description=__doc__)
    parser.add_argument("--page", type=Path, default=PAGE)
    parser.add_argument("--check", action="store_true", help="write nothing, exit 1 on a change")
    args = parser.parse_args(argv)
    old = args.page.read_text()
    new = old
    for begin, end, text in ((BEGIN, END, times_text()), (COMPILED, END_COMPILED, compile_text())):
        before, rest = new.split(begin)
        new = f"{before}{begin}\n\n{text}\n\n{end}{rest.split(end)[1]}"
    if args.check:
        if old != new:
            print(f"{args.page} is not what python -m bench.pages.kernels writes")
        return int(old != new)
    args.page.write_text(new)
    return 0


def times_text() -> str:
    """Of every device that is shipped: its tables, and where each number comes from."""
    parts: list[str] = []
    for device, record in json.loads(SHIPPED.read_text()).items():
        times = GpuTimes.parse(record)
        parts += [record["about"], f"It reads {times.read_bytes_per_second / 1e12:.1f} TB/s."]
        for kind, title in _KINDS.items():
            parts += [f"**{title}**, us:", "\n".join(_table(times, kind))]
            parts.append("\n".join(_sources(record["implementations"], kind)))
            if kind == "fills" and FFT not in record["implementations"]:
                parts[-1] += (
                    f"\n- {FFT}: derived: {record['fft_fills_source']}; and {FFT_FILL_BYTES} bytes "
                    "per point for inputs gathered and outputs added."
                )
        parts += [_FASTEST, "\n".join(_fastest(DeviceInfo.named(device), times))]
    return "\n\n".join(parts)


_FASTEST = f"""**What each takes by the lines through these times**, us of the first firing of a
group, {_STREAM.layers} layers of {_STREAM.channels} channels, and with the host's launches, which
are counted for what plans choose by. `{FFT}` is what `impl="auto"` may take beside implementations;
in brackets, blocks that it does for one that has no kernels for them:"""


def _fastest(info: DeviceInfo, times: GpuTimes) -> Iterator[str]:
    """A row per block: what each takes, and which is taken."""
    cost = GpuCost(_STREAM, info)
    names = cost.fills
    shown = (f"{name} | with launches" for name in names)
    yield f"| block | {' | '.join(shown)} | taken |"
    yield "|---" * (2 + 2 * len(names)) + "|"
    for block in _BLOCKS:
        cells, found = [], {}
        for name in names:
            found[name] = cost.fill(name, block, 1, False)
            own = name == FFT or own_kernels(_STREAM, name, block)
            host = fill_launches(_STREAM, name, block)
            host *= host_seconds(times, name if own else FFT)
            text = f"{_us(found[name] - host)} | {_us(found[name])}"
            cells.append(text if own else f"({text.replace(' | ', ') | (')})")
        taken = min(found, key=lambda name: (found[name], name != FFT))
        yield f"| {block} | {' | '.join(cells)} | {taken} |"


def compile_text() -> str:
    """A line for each stream: how many kernels it compiles, and how long that takes where."""
    streams: dict[tuple[str, ...], list[dict[str, str]]] = {}
    for row in read([RESULTS / "compile.csv"]):
        named = ("L", "layers", "D", "B", "P", "value", "note", "device")
        streams.setdefault(tuple(row[name] for name in named), []).append(row)
    return "\n".join(
        f"- {int(length):,} tokens of {layers} layers of {channels} channels, rows: {batch}, "
        f"prompt: {prompt}: {kernels} kernels {note}, "
        + ", ".join(f"{seconds_text(float(row['p50']))} {row['variant']}" for row in rows)
        + f" ({device})."
        for (
            length,
            layers,
            channels,
            batch,
            prompt,
            kernels,
            note,
            device,
        ), rows in streams.items()
    )


def _table(times: GpuTimes, kind: str) -> Iterator[str]:
    """A row per size, with the floor of its bytes where they are all that it must do."""
    found = {
        name: {time[:3]: time.seconds for time in getattr(kernels, kind)}
        for name, kernels in times.kernels
    }
    if kind == "fills" and FFT not in found:
        found[FFT] = {time[:3]: time.seconds for time in fft_fills(times)}
    names = list(found)
    yield f"| size | layers | rows | floor | {' | '.join(names)} |"
    yield "|---" * (4 + len(names)) + "|"
    for size in sorted({size for own in found.values() for size in own}):
        floor = _floor(times, kind, Time(*size, 0.0))
        cells = [_cell(found[name].get(size), floor) for name in names]
        shown = "" if floor is None else _us(floor)
        yield f"| {' | '.join(map(str, size))} | {shown} | {' | '.join(cells)} |"


def _floor(times: GpuTimes, kind: str, time: Time) -> float | None:
    workload = measured_workload(times, time)
    if kind == "prompts":
        return None
    if kind == "steps":
        moved = history_bytes(workload, time.size) + apply_bytes(workload)
    else:
        moved = fill_bytes(workload, time.size, 1, False)
    return moved / times.read_bytes_per_second


def _cell(seconds: float | None, floor: float | None) -> str:
    if seconds is None:
        return ""
    return _us(seconds) + ("" if floor is None else f" ({seconds / floor:.1f}x)")


def _us(seconds: float) -> str:
    us = 1e6 * seconds
    return f"{us:.3g}" if us < 100 else f"{us:.0f}"


def _sources(implementations: dict[str, dict[str, Any]], kind: str) -> Iterator[str]:
    for name, found in implementations.items():
        yield f"- {name}: {found[f'{kind}_source']}."


if __name__ == "__main__":
    raise SystemExit(main())
