"""Device records: the numbers of a machine that plans and launch configurations are chosen from.

A plan for a GPU can be made on a machine without one: nothing that takes a ``DeviceInfo`` touches
a device.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import torch

from . import processor
from .gpu_times import GpuTimes
from .rates import load_rates

_GIB = 1 << 30


@dataclass(frozen=True)
class DeviceInfo:
    """What a planner needs to know about a device.

    name: short name, ``"h100"``, or what the driver or the processor calls itself.
    kind: ``"cpu"`` or ``"cuda"``.
    sm_count: streaming multiprocessors; on a CPU the threads torch uses.
    memory_bytes: memory an allocation can use, as the driver reports it.
    dram_bytes_per_second: memory bandwidth (a CPU: of all threads together).
    fp32_flops: peak float32 operations per second, a fused multiply-add counting two.
    last_level_bytes: the largest cache: a GPU's second level, a CPU's third.
    launch_seconds: host time of one kernel launch; on a CPU of one op call.
    shared_per_block, shared_per_sm: shared memory in bytes, 0 on a CPU.
    registers_per_sm, threads_per_sm, blocks_per_sm: limits of resident work, 0 on a CPU.
    capability: CUDA compute capability, (0, 0) on a CPU.
    times: of a GPU's kernels, as ``tune`` measured; None for those that are shipped (gpu_times.py).

    GPU rates are the vendors' published peaks; ``python -m futurefill_kernels tune`` measures them.
    """

    name: str
    kind: str
    sm_count: int
    memory_bytes: int
    dram_bytes_per_second: float
    fp32_flops: float
    last_level_bytes: int
    launch_seconds: float
    shared_per_block: int = 0
    shared_per_sm: int = 0
    registers_per_sm: int = 0
    threads_per_sm: int = 0
    blocks_per_sm: int = 0
    capability: tuple[int, int] = (0, 0)
    times: GpuTimes | None = None

    @classmethod
    def named(cls, name: str) -> DeviceInfo:
        """A known GPU: ``a100, h100, h200, b200, l4, rtx4090``. ValueError for any other name."""
        try:
            return _NAMED[name.lower()]
        except KeyError:
            known = ", ".join(_NAMED)
            raise ValueError(f"unknown device name {name!r}; expected one of {known}") from None

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """The names that ``named`` knows."""
        return tuple(_NAMED)

    @classmethod
    def of(cls, device: torch.device | str | DeviceInfo) -> DeviceInfo:
        """The record of a device of this machine.

        device: ``"cpu"``, ``"cuda:1"``, a torch.device, or a record (returned as it is).
        Raises ValueError for another device type and when CUDA is asked for and not there.
        """
        if isinstance(device, DeviceInfo):
            return device
        device = torch.device(device)
        if device.type == "cpu":
            return _cpu(torch.get_num_threads())
        if device.type != "cuda":
            raise ValueError(f"expected a cpu or cuda device, got {device}")
        if not torch.cuda.is_available():
            raise ValueError(
                "device 'cuda' is not available here; plan with DeviceInfo.named(...) instead"
            )
        index = torch.cuda.current_device() if device.index is None else device.index
        return _cuda(index)


# Ampere, Ada, Hopper and Blackwell all have 64 Ki registers per SM and leave 1 KiB of the shared
# memory to the driver. Memory is what the driver reports, not what the box says. Launch: about 3 us
# from a C++ loop, 11 us through Triton's Python launcher (tritonbench, PR 1002).
_LAUNCH = 11e-6
_REGISTERS = 1 << 16


#: Shared memory in KiB, resident threads and blocks of a multiprocessor, by compute capability.
_LIMITS = {
    (8, 0): (164, 2048, 32),
    (8, 9): (100, 1536, 24),
    (9, 0): (228, 2048, 32),
    (10, 0): (228, 2048, 32),
}


def _gpu(
    name: str,
    capability: tuple[int, int],
    sm_count: int,
    memory_gib: float,
    dram_gb: float,
    tflops: float,
    l2_mib: int,
) -> DeviceInfo:
    shared_kib, threads_per_sm, blocks_per_sm = _LIMITS[capability]
    return DeviceInfo(
        name=name,
        kind="cuda",
        sm_count=sm_count,
        memory_bytes=int(memory_gib * _GIB),
        dram_bytes_per_second=dram_gb * 1e9,
        fp32_flops=tflops * 1e12,
        last_level_bytes=l2_mib << 20,
        launch_seconds=_LAUNCH,
        shared_per_block=(shared_kib - 1) << 10,
        shared_per_sm=shared_kib << 10,
        registers_per_sm=_REGISTERS,
        threads_per_sm=threads_per_sm,
        blocks_per_sm=blocks_per_sm,
        capability=capability,
    )


_NAMED = {
    gpu.name: gpu
    for gpu in (
        _gpu("a100", (8, 0), 108, 79.2, 2039, 19.5, 40),
        _gpu("h100", (9, 0), 132, 79.1, 3350, 66.9, 50),
        _gpu("h200", (9, 0), 132, 139.8, 4800, 66.9, 50),
        _gpu("b200", (10, 0), 148, 178.3, 8000, 74.5, 126),
        _gpu("l4", (8, 9), 58, 22.0, 300, 30.3, 48),
        _gpu("rtx4090", (8, 9), 128, 23.5, 1008, 82.6, 72),
    )
}


def _cuda(index: int) -> DeviceInfo:
    """Record of a present GPU: limits from the driver, rates from the table."""
    p = torch.cuda.get_device_properties(index)
    capability = (p.major, p.minor)
    words = p.name.lower().replace("-", " ").split()
    known = next((d for key, d in _NAMED.items() if key in words or key in "".join(words)), None)
    # an unknown model gets the rates of the nearest known one per SM
    base = known or min(
        _NAMED.values(),
        key=lambda d: (abs(d.capability[0] - p.major), abs(d.sm_count - p.multi_processor_count)),
    )
    scale = p.multi_processor_count / base.sm_count
    shared_per_sm = getattr(p, "shared_memory_per_multiprocessor", base.shared_per_sm)
    second_level = getattr(p, "L2_cache_size", 0)
    stored = load_rates("cuda", p.name, p.multi_processor_count) or {}
    found = replace(
        base,
        name=base.name if known else p.name,
        sm_count=p.multi_processor_count,
        memory_bytes=p.total_memory,
        dram_bytes_per_second=base.dram_bytes_per_second * (1 if known else scale),
        fp32_flops=base.fp32_flops * scale,
        last_level_bytes=second_level or base.last_level_bytes,
        shared_per_block=getattr(p, "shared_memory_per_block_optin", shared_per_sm - 1024),
        shared_per_sm=shared_per_sm,
        registers_per_sm=getattr(p, "regs_per_multiprocessor", _REGISTERS),
        threads_per_sm=getattr(p, "max_threads_per_multi_processor", base.threads_per_sm),
        capability=capability,
    )
    times = stored.pop("times", None)
    return replace(found, times=None if times is None else GpuTimes.parse(times), **stored)


# One core of an AMD Zen 2 server: a 256 MiB read streams at 15.6 GB/s, torch.mm reaches 68 GFLOP/s.
# Two cores share most of the memory bandwidth.
_CPU_DRAM_ONE, _CPU_DRAM_ALL, _CPU_FLOPS = 15.6e9, 25e9, 68e9
_CPU_CALL = 1.5e-6


@lru_cache(maxsize=8)
def _cpu(threads: int) -> DeviceInfo:
    return DeviceInfo(
        name="cpu",
        kind="cpu",
        sm_count=threads,
        memory_bytes=processor.memory_bytes(),
        dram_bytes_per_second=_CPU_DRAM_ONE if threads == 1 else _CPU_DRAM_ALL,
        fp32_flops=_CPU_FLOPS * threads,
        last_level_bytes=processor.last_level_bytes(),
        launch_seconds=_CPU_CALL,
    )
