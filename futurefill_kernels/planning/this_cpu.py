"""The rates of this machine's processor and where they come from.

Measured ones of `tune`, else those of a `probe`, which runs once per processor, at the first plan
that asks for it, and stores what it finds beside them. ``FUTUREFILL_TUNING=off`` takes the shipped
ones instead. A process goes on with the probe's rates that it has found first.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from .. import native
from .cpu_cost import CpuRates, shipped_rates
from .device import DeviceInfo
from .probe import probe
from .processor import processor_name
from .rates import load_rates, rates_path, read_rates, store_rates, tuning_mode


@dataclass(frozen=True)
class Found:
    """rates: as ``CpuRates.from_dict`` takes them. source: where they come from, in words.
    probe: whether a probe would tell more.
    """

    rates: dict[str, Any]
    source: str
    probe: bool = False


_PROBED: dict[tuple[str, Path | None], Found] = {}
_LOCK = threading.Lock()


def rates_of(info: DeviceInfo, probed: bool) -> CpuRates:
    """Rates for plans. probed: those of the probe count, and it runs where nothing is stored."""
    found = find_rates(measure=True) if probed else _unprobed()
    return CpuRates.from_dict(found.rates, info)


def find_rates(measure: bool) -> Found:
    """What plans for this CPU go by; measure: the probe runs where nothing is stored."""
    found = _unprobed()
    if not found.probe:
        return found
    return _probed(processor_name(), found.rates, measure) or Found(
        found.rates, "shipped with the package, until the first plan measures this processor"
    )


def _unprobed() -> Found:
    """Tuned rates or the shipped ones."""
    reason = native.cpu_unavailable_reason()
    shipped = shipped_rates(native.cpu_isa() if reason is None else "avx2")
    if tuning_mode() == "off":
        return Found(shipped, "shipped with the package (FUTUREFILL_TUNING=off)")
    if reason is not None:
        return Found(shipped, "shipped with the package (there are no kernels to measure)")
    name = processor_name()
    tuned = load_rates("cpu", name, native.cpu_lanes(torch.float32))
    if tuned is None:
        return Found(shipped, "shipped with the package", probe=True)
    return Found(tuned, f"measured by tune ({rates_path('cpu', name)})")


def _probed(name: str, shipped: dict[str, Any], measure: bool) -> Found | None:
    """The probe's rates: this process's, else stored ones, else measured and stored now."""
    path = rates_path("probe-cpu", name)
    with _LOCK:
        if (name, path) in _PROBED:
            return _PROBED[name, path]
        try:
            stored = None if path is None else read_rates(path)
        except (OSError, ValueError):  # another version's, or nobody's: measured again
            stored = None
        if stored is not None:
            found = Found(stored, f"measured by a probe ({path})")
        elif measure:
            found = _measured(name, shipped, path)
        else:
            return None
        _PROBED[name, path] = found
        return found


def _measured(name: str, shipped: dict[str, Any], path: Path | None) -> Found:
    try:
        rates = probe(shipped)
    except RuntimeError as error:
        return Found(shipped, f"shipped with the package: {error}")
    if path is not None:
        try:
            store_rates("probe-cpu", name, native.cpu_lanes(torch.float32), rates)
            return Found(rates, f"measured by a probe ({path})")
        except OSError:  # a read-only home: the next process measures again
            pass
    return Found(rates, "measured by a probe in this process; its folder cannot be written")
