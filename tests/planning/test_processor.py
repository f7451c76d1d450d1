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


def test_memory_that_is_free():
    assert 0 < processor.free_bytes() <= processor.memory_bytes()
    assert processor.available_in("MemTotal: 9 kB\nMemAvailable:   700 kB\n") == 700 << 10
    assert processor.available_in("MemTotal: 9 kB\n") == processor.memory_bytes()


@pytest.fixture
def groups(tmp_path, monkeypatch):
    """A control group with a limit inside one without, inside one with another; and the root."""
    own, root = tmp_path / "own", tmp_path / "groups"
    own.write_text("1:name=x:/old\n0::/outer/middle/inner\n")
    for name, limit, used, idle in (
        ("outer", "9000", 8000, 500), ("outer/middle", "max", 10, 0),
        ("outer/middle/inner", "5000", 3000, 1000),
    ):  # fmt: skip
        folder = root / name
        folder.mkdir(parents=True)
        (folder / "memory.max").write_text(f"{limit}\n")
        (folder / "memory.current").write_text(f"{used}\n")
        (folder / "memory.stat").write_text(f"anon 7\ninactive_file {idle}\nactive_file 3\n")
    monkeypatch.setattr(processor, "_GROUPS", root)
    monkeypatch.setattr(processor, "_OWN_GROUP", own)
    return own


def test_limits_of_control_groups_are_the_memory(groups):
    assert processor.memory_bytes() == 5000
    assert processor.free_bytes() == 9000 - 7500
    for change in (lambda: groups.write_text("1:name=x:/old\n"), groups.unlink):
        change()  # version 1 alone, and no Linux
        processor.limited_groups.cache_clear()
        assert processor.memory_bytes() > 1 << 28
