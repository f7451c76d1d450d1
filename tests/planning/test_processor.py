"""What the operating system says of this machine's processor."""

from __future__ import annotations

import pytest

from futurefill_kernels import native
from futurefill_kernels.planning import processor


@pytest.mark.parametrize(
    ("text", "expected"),
    [("512K\n", 512 << 10), ("36M", 36 << 20), ("1G", 1 << 30), ("64", 64), ("", 0), ("large", 0)],
)
def test_sizes_as_the_system_writes_them(text, expected):
    assert processor.size_in_bytes(text) == expected


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("processor\t: 0\nmodel name\t: A: B 1\nflags\t: fpu\n", "A: B 1"),
        ("CPU implementer\t: 0x41\nCPU architecture: 8\nCPU part\t: 0xd40\n", "ARM 0x41 0xd40"),
        ("nothing of the kind", ""),
    ],
)
def test_names_as_the_system_writes_them(text, name):
    assert processor.name_in(text) == name


def test_this_processor():
    isa = "no kernels" if native.cpu_unavailable_reason() is not None else native.cpu_isa()
    name = processor.processor_name()
    assert name.endswith(f" {isa}")
    assert len(name) > len(isa) + 1
    assert 1 << 15 <= processor.second_level_bytes() <= processor.last_level_bytes()
    assert processor.memory_bytes() > 1 << 28
