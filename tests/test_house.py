"""The rules of the house: imports go downwards, variables are documented, names stay private."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests import house

ROOT = Path(__file__).parents[1]
#: Variables of other programs that the code reads.
FOREIGN = {"CXX", "CUDA_HOME", "CUDA_PATH", "MAX_JOBS", "TORCH_CUDA_ARCH_LIST", "XDG_CACHE_HOME",
    "TRITON_INTERPRET"}  # fmt: skip


def test_every_module_stands_in_a_room():
    assert {house.room(m) for m in house.modules()} == set(house.ROOMS)


@pytest.mark.parametrize("module", house.modules())
def test_imports_go_downwards(module):
    floor = house.ROOMS.index(house.room(module))
    above = [m for m in house.graph()[module] if house.ROOMS.index(house.room(m)) < floor]
    assert above == []


def test_no_import_circle():
    house.floors(house.graph())


def test_a_circle_is_named():
    with pytest.raises(ValueError, match="a -> b -> a"):
        house.floors({"a": {"b"}, "b": {"a"}, "c": {"a"}})


def test_environment_variables_stand_in_the_conventions():
    sources = [ROOT / "setup.py", *(ROOT / "csrc").rglob("*.*"), *house.PACKAGE.rglob("*.py")]
    read = r'(?:environ(?:\.get)?[\[(]|getenv\(|enabled\()"(\w+)"'
    found = {name for path in sources for name in re.findall(read, path.read_text())}
    assert {"FUTUREFILL_CPU_ISA", "FUTUREFILL_NUM_THREADS", "FUTUREFILL_TUNING"} <= found
    page = (ROOT / "docs" / "conventions.md").read_text()
    assert [name for name in sorted(found - FOREIGN) if f"`{name}`" not in page] == []
