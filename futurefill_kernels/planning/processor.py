"""This machine's processor and memory, as the operating system tells them."""

from __future__ import annotations

import contextlib
import os
import platform
from functools import lru_cache
from pathlib import Path

from .. import native

_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
_GROUPS, _OWN_GROUP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
_MEMORY = Path("/proc/meminfo")


@lru_cache(maxsize=1)
def processor_name() -> str:
    """What the processor calls itself, with the instruction set that the kernels use."""
    try:
        name = name_in(Path("/proc/cpuinfo").read_text())
    except OSError:  # not Linux: the platform's name is what there is
        name = ""
    name = name or platform.processor() or platform.machine()
    reason = native.cpu_unavailable_reason()
    return f"{name} {native.cpu_isa() if reason is None else 'no kernels'}"


def name_in(cpuinfo: str) -> str:
    """The name in ``/proc/cpuinfo``; of an ARM core, which has none, maker and part."""
    lines = (line.partition(":") for line in cpuinfo.splitlines())
    found = {key.strip(): value.strip() for key, _, value in lines}
    if "model name" in found:
        return found["model name"]
    parts = [found[key] for key in ("CPU implementer", "CPU part") if key in found]
    return " ".join(["ARM", *parts]) if parts else ""


def memory_bytes() -> int:
    """Bytes of memory, or as many as the process's control groups allow; 16 GiB where the system
    does not say.
    """
    try:
        whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not a POSIX system
        whole = 16 << 30
    return min([whole, *limited_groups(_GROUPS, _OWN_GROUP).values()])


def free_bytes() -> int:
    """Bytes of memory that the process can still take, as far as the system says."""
    left = [limit - used_in(group) for group, limit in limited_groups(_GROUPS, _OWN_GROUP).items()]
    with contextlib.suppress(OSError):  # not Linux
        left.append(available_in(_MEMORY.read_text()))
    return max(min(left), 0) if left else memory_bytes()


def available_in(meminfo: str) -> int:
    """``MemAvailable`` of ``/proc/meminfo``: free memory, and what the system would give up for
    more.
    """
    for line in meminfo.splitlines():
        key, _, value = line.partition(":")
        if key == "MemAvailable":
            return size_in_bytes(value.replace("kB", "K").replace(" ", ""))
    return memory_bytes()


@lru_cache(maxsize=8)
def limited_groups(root: Path, own: Path) -> dict[Path, int]:
    """The control groups (version 2) that the process is in and that limit its memory, with the
    bytes; found once.
    """
    try:
        path = own.read_text().partition("0::/")[2].partition("\n")[0]
    except OSError:  # not Linux
        return {}
    found, group = {}, root / path
    while group.is_relative_to(root):
        with contextlib.suppress(OSError):  # the root has none
            limit = (group / "memory.max").read_text().strip()
            if limit.isdigit():
                found[group] = int(limit)
        group = group.parent
    return found


def used_in(group: Path) -> int:
    """Bytes that a control group uses, without file pages that are given up for more."""
    used = int((group / "memory.current").read_text())
    pages = (group / "memory.stat").read_text().split()
    return used - int(pages[pages.index("inactive_file") + 1])


def second_level_bytes() -> int:
    """Bytes of a core's second-level cache, 512 KiB where the system does not say."""
    for folder in sorted(_CACHES.glob("index*")):
        if (folder / "level").read_text().strip() == "2":
            return size_in_bytes((folder / "size").read_text())
    return 512 << 10


def last_level_bytes() -> int:
    """Bytes of the largest cache, 16 MiB where the system does not say."""
    sizes = (size_in_bytes(path.read_text()) for path in _CACHES.glob("index*/size"))
    return max(sizes, default=0) or 16 << 20


def size_in_bytes(text: str) -> int:
    """``512K`` in bytes, 0 for what is not a size."""
    text = text.strip()
    unit = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}.get(text[-1:], 1)
    digits = text.rstrip("KMG")
    return int(digits) * unit if digits.isdigit() else 0
