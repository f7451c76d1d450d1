"""The rules of the house: imports go downwards, variables are documented, names stay private."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests import house

ROOT = Path(__file__).parents[1]
#: Variables of other programs that the code reads.
FOREIGN = {"CXX", "CUDA_HOME", "CUDA_PATH", "MAX_JOBS", "TORCH_CUDA_ARCH_LIST", "XDG_CACHE_HOME",
    "OMP_NUM_THREADS", "TRITON_INTERPRET"}  # fmt: skip


def test_every_module_stands_in_a_room():
    assert {house.room(m) for m in house.modules()} == set(house.ROOMS)


@pytest.mark.parametrize("module", house.modules())
def test_imports_go_downwards(module):
    floor = house.ROOMS.index(house.room(module))
    above = [m for m in house.graph()[module] if house.ROOMS.index(house.room(m)) < floor]
    assert above == []


def test_the_rooms_stand_in_the_decisions():
    """From the top floor down; the package itself has no name there."""
    page = (ROOT / "docs" / "design.md").read_text()
    (said,) = re.findall(r"The package is a house: (.*?)\. A module", page, re.DOTALL)
    named = [room for room in house.ROOMS if not room.startswith("_")]
    assert re.findall(r"`(\w+)`", said) == named


def test_no_import_circle():
    house.floors(house.graph())


def test_a_circle_is_named():
    with pytest.raises(ValueError, match="a -> b -> a"):
        house.floors({"a": {"b"}, "b": {"a"}, "c": {"a"}})


@pytest.mark.parametrize(
    "path",
    [
        path
        for folder in (house.PACKAGE, ROOT / "bench", ROOT / "tests" / "emulation")
        for path in sorted(folder.rglob("*.py"))
    ],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_private_names_stay_in_their_module(path):
    assert house.private_names(path.read_text()) == []


def test_a_private_name_is_found():
    source = """
from elsewhere import _taken, free
class Own:
    _shared = 1
    def __init__(self):
        self._kept = free.__name__
    def clone(self, other):
        other._kept, other._put = self._kept, self._inherited
        return other._shared + other._asked + torch._C.version
"""
    found = ["line 2: _taken", "line 8: _put", "line 9: _asked"]
    assert sorted(house.private_names(source)) == found


def test_environment_variables_stand_in_the_conventions():
    sources = [ROOT / "setup.py", *(ROOT / "csrc").rglob("*.*"), *house.PACKAGE.rglob("*.py")]
    sources += [*(ROOT / "tests" / "emulation").rglob("*.py"), *(ROOT / "bench").rglob("*.py")]
    read = r'(?:environ(?:\.get)?[\[(]|getenv\(|enabled\()"(\w+)"'
    found = {name for path in sources for name in re.findall(read, path.read_text())}
    assert {"FUTUREFILL_CPU_ISA", "FUTUREFILL_NUM_THREADS", "FUTUREFILL_TUNING"} <= found
    page = (ROOT / "docs" / "conventions.md").read_text()
    assert [name for name in sorted(found - FOREIGN) if f"`{name}`" not in page] == []
