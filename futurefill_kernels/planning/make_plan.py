"""make_plan: block sizes from a cost model of operations and bytes."""

from __future__ import annotations

import dataclasses

import torch

from ..checks import check_dtype, check_filters_dtype, check_spectra_dtype, integer, ring_dtype
from ..checks import state_dtype as arithmetic_dtype
from ..plan import Plan
from . import cpu_plan, gpu_plan
from .capabilities import planned_for
from .device import DeviceInfo
from .small import check_memory_choice, made_small
from .this_cpu import rates_of
from .workload import Workload

OBJECTIVES = ("throughput", "latency")

#: An endless stream is planned like one of so many times its filters' length, where the beginning
#: no longer matters, and of at least so many tokens.
ENDLESS = 16, 4096


def make_plan(
    length: int | None,
    channels: int,
    *,
    batch_size: int = 1,
    layers: int = 1,
    groups: int | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | DeviceInfo = "cpu",
    objective: str = "throughput",
    filter_length: int | None = None,
    impl: str = "auto",
    spectra_dtype: torch.dtype | None = None,
    state_dtype: torch.dtype | None = None,
    filters_dtype: torch.dtype | None = None,
    memory: str = "speed",
) -> Plan:
    """Block sizes with the least modelled time per token.

    length: tokens the stream can take, None for any number (`Plan`). channels, batch_size, layers:
    ``D``, ``B`` and layers. groups: filter rows ``G``, default ``D``. device: where it will run, or
    a DeviceInfo, which needs no such device. objective: "throughput", the least total time;
    "latency", no slow steps: large fills are spread over many steps. filter_length: taps that may
    be non-zero, default ``length``; an endless stream needs it. impl: what will run it: GPU
    implementations differ in their times and in the largest block of one launch. "auto" takes for
    each level what is fastest at it, as a cache does. dtype, spectra_dtype, state_dtype,
    filters_dtype: as in FutureFillCache; they say what is held and moved. memory: "speed": filter
    spectra are made when levels fire only where the model says at most 2 % of a token, and kept
    input spectra take no more than the ring; "small": from 1,024 tokens on a row takes at most 4.1
    bytes per token and channel (2.2 with a state of 16 bits) and a filter 5.1 (3.1), its taps
    included, where filters are as long as the stream; not for "latency", which takes no state of 16
    bits either.

    Pure arithmetic from rates. The first plan for ``"cpu"`` on a machine measures them, within a
    second, and stores them; ``FUTUREFILL_TUNING=off`` takes the shipped ones, and so does a
    DeviceInfo unless ``tune`` has measured. Raises ValueError or TypeError for arguments out of
    range, and ValueError, with the bytes needed and with what would fit, when no plan fits the
    memory of a GPU.
    """
    if length is None:
        if filter_length is None:
            raise ValueError("expected filter_length with length None, got None")
        if objective == "latency":
            raise ValueError(
                "expected objective 'throughput' with length None, for an endless plan has no "
                "slack; got 'latency'"
            )
        times, least = ENDLESS
        plan = make_plan(
            max(times * filter_length, least), channels, batch_size=batch_size, layers=layers,
            groups=groups, dtype=dtype, device=device, objective=objective,
            filter_length=filter_length, impl=impl, spectra_dtype=spectra_dtype,
            state_dtype=state_dtype, filters_dtype=filters_dtype, memory=memory,
        )  # fmt: skip
        endless = dataclasses.replace(plan, length=None)
        return made_small(endless) if memory == "small" else endless
    groups = channels if groups is None else groups
    taps = length if filter_length is None else filter_length
    sizes = {
        "length": length, "channels": channels, "batch_size": batch_size, "layers": layers,
        "groups": groups, "filter_length": taps,
    }  # fmt: skip
    for name, value in sizes.items():
        if integer(name, value) < 1:
            raise ValueError(f"expected {name} >= 1, got {value}")
    if channels % groups:
        raise ValueError(f"expected groups to divide channels = {channels}, got {groups}")
    if objective not in OBJECTIVES:
        raise ValueError(f"expected objective to be one of {OBJECTIVES}, got {objective!r}")
    check_dtype(dtype)
    if check_memory_choice(memory) == "small" and objective == "latency":
        raise ValueError(
            "expected memory='speed' for objective='latency': levels with slack hold their spectra"
        )
    arithmetic, ring = arithmetic_dtype(dtype, state_dtype), ring_dtype(dtype, state_dtype)
    if objective == "latency" and ring != arithmetic:
        raise ValueError(
            f"expected state_dtype None or {arithmetic} for objective='latency', whose levels have "
            f"slack, got {state_dtype}"
        )
    info = DeviceInfo.of(device)
    workload = Workload(
        length, min(taps, length), channels, batch_size, layers, groups, arithmetic.itemsize,
        check_spectra_dtype(spectra_dtype, arithmetic).itemsize, planned_for(impl, spectra_dtype),
        ring.itemsize, check_filters_dtype(filters_dtype, arithmetic).itemsize,
    )  # fmt: skip
    if info.kind == "cuda":
        if objective == "latency":
            return gpu_plan.latency_plan(workload, info)
        return gpu_plan.cheapest_plan(workload, info, memory)
    rates = rates_of(info, probed=not isinstance(device, DeviceInfo))
    if objective == "latency":
        return cpu_plan.latency_plan(workload, rates)
    return cpu_plan.cheapest_plan(workload, rates, memory)
