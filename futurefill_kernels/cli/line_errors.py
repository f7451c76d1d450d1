"""How far the lines of a GPU's model are off the times that they go through."""

from __future__ import annotations

from ..planning.device import DeviceInfo
from ..planning.gpu_cost import BASE, FFT, fft_fills, fill_lines, made_line, step_line, times_of
from ..planning.gpu_times import GpuTimes, Line


def largest_errors(times: GpuTimes) -> dict[str, float]:
    """The largest relative error by kind, of all implementations; of kinds that were timed."""
    steps = [step_line(times, name) for name, found in times.kernels if found.steps]
    names = [name for name, found in times.kernels if found.fills]
    names += [FFT] if FFT not in names and fft_fills(times) else []
    fills = [line for name in names for line in fill_lines(times, name).values()]
    made = [made_line(times)] if times.made else []
    kinds: dict[str, list[Line]] = {"steps": steps, "fills": fills, "spectra made": made}
    return {kind: max(line.error for line in lines) for kind, lines in kinds.items() if lines}


def errors_text(info: DeviceInfo) -> str:
    """A line for people, that says whose times they are."""
    times = times_of(info)
    found = ", ".join(f"{kind} {100 * x:.0f}%" for kind, x in largest_errors(times).items())
    if info.times is not None:
        whose = "this device's times"
    elif info.name == BASE:
        whose = f"the shipped times of an {BASE.upper()}"
    else:
        whose = f"an {BASE.upper()}'s times, as much slower or faster as published rates are"
    return f"modelled by lines through {whose}; off these by up to: {found}"
