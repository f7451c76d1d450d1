"""The compiled library: found and loaded on import, or the reason why there is none.

Loading it registers the ops of ``csrc/bindings/schemas.cpp``. It uses torch's stable ABI and no
Python API, so one file serves several versions of both; so do ``_plain_step`` and ``_unchanged``,
the modules that use Python's limited API.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import platform
import re
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import torch

_FOLDER = Path(__file__).parent

#: Functions of csrc/bindings/bound_step.h and its neighbours that are called by address.
_FUNCTIONS = (
    "futurefill_step", "futurefill_plain_step", "futurefill_run", "futurefill_step_is_short",
    "futurefill_begin_block", "futurefill_block", "futurefill_take_back", "futurefill_kept_bytes",
    "futurefill_move_slots", "futurefill_branches", "futurefill_branches_copy",
    "futurefill_branches_delete", "futurefill_branches_renew", "futurefill_branches_crop",
    "futurefill_branches_reorder", "futurefill_branches_common", "futurefill_reorder_alike",
)  # fmt: skip


def library_file() -> Path | None:
    """The compiled library of this installation, or None."""
    files = sorted(_FOLDER.glob("_C*.so")) + sorted(_FOLDER.glob("_C*.pyd"))
    return files[0] if files else None


def _recorded() -> dict[str, Any] | None:
    """What the build of this installation recorded, or None."""
    try:
        return dict(json.loads((_FOLDER / "_build_info.json").read_text()))
    except (OSError, ValueError):
        return None


def _recorded_reason() -> str:
    """Why this installation has no library."""
    info = _recorded()
    if info is None:
        return "the package was not installed by its setup.py (run: pip install .)"
    return info.get("reason") or "the library was built but its file is missing (install again)"


def _declared() -> dict[str, list[str]]:
    """The ops that the sources beside this folder declare, with the names of their arguments: none
    in an installation, which has no sources.
    """
    try:
        text = (_FOLDER.parent / "csrc" / "bindings" / "schemas.cpp").read_text()
    except OSError:
        return {}
    found = {}
    for literals in re.findall(r'm\.def\(\s*((?:"[^"]*"\s*)+)\)', text):
        schema = "".join(re.findall(r'"([^"]*)"', literals))
        name, _, rest = schema.partition("(")
        arguments = rest.rpartition(") ->")[0]
        names = (each.split()[-1].partition("=")[0] for each in arguments.split(", ") if each)
        found[name] = list(names)
    return found


def _registered(name: str) -> list[str] | None:
    """The names of an op's arguments in the library, or None where it has no such op."""
    try:
        schema = torch._C._get_schema(f"futurefill_kernels::{name}", "")
    except RuntimeError:
        return None
    return [argument.name for argument in schema.arguments]


def _of_other_sources(file: Path) -> str | None:
    """What a loaded library lacks that the sources here have, or None: one that was built before
    they changed, or from another tree.
    """
    library = ctypes.CDLL(str(file))
    missing = [name for name in _FUNCTIONS if not hasattr(library, name)]
    for name, arguments in _declared().items():
        found = _registered(name)
        if found is None:
            missing.append(name)
        elif found != arguments:
            missing.append(f"{name}({', '.join(arguments)})")
    if not missing:
        return None
    more = f" and {len(missing) - 1} more" if missing[1:] else ""
    return (
        f"{file.name} was built from other sources than those here: it has no {missing[0]}{more}; "
        f"build it again (python setup.py build_ext --inplace in {_FOLDER.parent}, or pip install)"
    )


def _load() -> str | None:
    """Load the library; returns why it is not available, or None."""
    file = library_file()
    if file is None:
        return _recorded_reason()
    try:
        torch.ops.load_library(str(file))
    except (OSError, RuntimeError) as error:
        return f"{file.name} did not load with torch {torch.__version__}: {error}"
    return _of_other_sources(file)


unavailable_reason: str | None = _load()


@lru_cache(maxsize=1)
def cpu_unavailable_reason() -> str | None:
    """Why the CPU kernels cannot run, or None.

    Besides a missing library: ``FUTUREFILL_CPU_ISA`` names an instruction set this machine lacks.
    """
    if unavailable_reason is not None:
        return unavailable_reason
    try:
        torch.ops.futurefill_kernels.cpu_isa()
    except RuntimeError as error:
        return str(error).splitlines()[0]
    return None


def _recorded_cuda_reason() -> str:
    return (_recorded() or {}).get("cuda_reason") or "the library was built without CUDA kernels"


def cuda_unavailable_reason() -> str | None:
    """Why there are no CUDA kernels, or None; says nothing about the GPU."""
    if unavailable_reason is not None:
        return unavailable_reason
    op = "futurefill_kernels::future_fill"
    if not torch._C._dispatch_has_kernel_for_dispatch_key(op, "CUDA"):
        return _recorded_cuda_reason()
    return None


def cuda_architectures() -> str:
    """GPU code in the library: ``sm_80, sm_90 and PTX of sm_90``."""
    return torch.ops.futurefill_kernels.cuda_architectures()


@lru_cache(maxsize=1)
def bound_step() -> tuple[Callable[..., Any], Callable[..., Any], Callable[..., Any]]:
    """The functions of csrc/bindings/bound_step.h in their order there; no GIL inside."""
    library = ctypes.CDLL(str(library_file()))
    step, plain = library.futurefill_step, library.futurefill_plain_step
    run = library.futurefill_run
    step.argtypes = [ctypes.c_void_p] * 6 + [ctypes.c_int64] * 2
    plain.argtypes = [ctypes.c_void_p] * 3 + [ctypes.c_int64]
    run.argtypes = [ctypes.c_void_p] * 5 + [ctypes.c_int64, ctypes.c_bool]
    step.restype = plain.restype = run.restype = ctypes.c_char_p
    return step, plain, run


@lru_cache(maxsize=1)
def move_slots() -> Callable[..., Any] | None:
    """The function of csrc/bindings/move_slots.h, or None where there is no library."""
    if unavailable_reason is not None:
        return None
    call = ctypes.CDLL(str(library_file())).futurefill_move_slots
    call.argtypes = [ctypes.c_void_p, ctypes.c_int64] * 2
    call.restype = ctypes.c_char_p
    return call


class BranchCalls(NamedTuple):
    """The functions of csrc/bindings/branches.h that are called by name, in their order there."""

    make: Callable[[int], int | None]
    copy: Callable[[int], int | None]
    delete: Callable[[int], None]
    renew: Callable[[int, int, int], None]
    crop: Callable[[int, int, int, int], None]
    reorder: Callable[[int, int, int], None]
    common: Callable[[int, int, int], int]


@lru_cache(maxsize=1)
def branch_calls() -> BranchCalls | None:
    """Those functions, or None where there is no library."""
    if unavailable_reason is not None:
        return None
    library = ctypes.CDLL(str(library_file()))
    address, number = ctypes.c_void_p, ctypes.c_int64

    def function(name: str, returns: Any, *takes: Any) -> Any:
        found = library[name]
        found.restype, found.argtypes = returns, takes
        return found

    return BranchCalls(
        function("futurefill_branches", address, number),
        function("futurefill_branches_copy", address, address),
        function("futurefill_branches_delete", None, address),
        function("futurefill_branches_renew", None, address, address, number),
        function("futurefill_branches_crop", None, address, address, address, number),
        function("futurefill_branches_reorder", None, address, address, address),
        function("futurefill_branches_common", number, address, number, number),
    )


def _module(name: str, check: Callable[[ModuleType], object]) -> ModuleType | str:
    """A module of csrc/python, or why there is none. check: what raises where tensors of this torch
    are not as it takes them to be.
    """
    if unavailable_reason is not None:
        return unavailable_reason
    try:
        module = importlib.import_module(f".{name}", __package__)
        check(module)
    except (ImportError, AttributeError, RuntimeError, TypeError) as error:
        return f"torch {torch.__version__}, Python {platform.python_version()}: {error}"
    return module


@lru_cache(maxsize=1)
def _plain_step() -> ModuleType | str:
    x = torch.zeros(1, dtype=torch.complex64, device="cpu")
    wanting = x.clone().requires_grad_()
    return _module("_plain_step", lambda m: m.check(x.imag, x.conj().imag, wanting))


@lru_cache(maxsize=1)
def _unchanged() -> ModuleType | str:
    x, y = (torch.zeros(1, dtype=torch.float32, device="cpu") for _ in range(2))
    return _module("_unchanged", lambda m: m.check(x, y.add_(1)))


def _there(found: ModuleType | str) -> ModuleType | None:
    return None if isinstance(found, str) else found


def _reason(found: ModuleType | str) -> str | None:
    return found if isinstance(found, str) else None


def plain_step() -> ModuleType | None:
    """The module whose steps need no Python between call and engine, or None."""
    return _there(_plain_step())


def plain_step_unavailable_reason() -> str | None:
    """Why steps go through Python, or None."""
    return _reason(_plain_step())


def unchanged() -> ModuleType | None:
    """The module that looks at dictionaries and tensors without Python, or None."""
    return _there(_unchanged())


def unchanged_unavailable_reason() -> str | None:
    """Why models are looked at in Python, or None."""
    return _reason(_unchanged())


@lru_cache(maxsize=1)
def addresses_of_steps() -> tuple[int, ...]:
    """Where the functions of csrc/bindings are that `plain_step` calls."""
    library = ctypes.CDLL(str(library_file()))
    functions = [library.futurefill_step, library.futurefill_step_is_short]
    functions += [library.futurefill_begin_block, library.futurefill_block]
    functions += [library.futurefill_take_back, library.futurefill_kept_bytes]
    functions += [library.futurefill_reorder_alike]
    return tuple(ctypes.cast(function, ctypes.c_void_p).value or 0 for function in functions)


def cpu_isa() -> str:
    """Instruction set the CPU kernels use: ``avx512``, ``avx2`` or ``portable``."""
    return torch.ops.futurefill_kernels.cpu_isa()


@lru_cache(maxsize=4096)
def step_threads(rows: int, channels: int, block: int, available: int) -> int:
    """Threads, of those available, that the engine spreads a float32 step of one layer over.

    rows: of the batch. block: ``T_0``. 1 where there is no engine to ask.
    """
    if cpu_unavailable_reason() is not None:
        return 1
    return torch.ops.futurefill_kernels.step_threads(rows, channels, block, available)


@lru_cache(maxsize=4096)
def fill_threads(layers: int, rows: int, channels: int, block: int, available: int) -> int:
    """Threads, of those available, that the engine spreads a float32 fill of all layers over.

    rows: of the batch that fire. block: of the level. 1 where there is no engine to ask.
    """
    if cpu_unavailable_reason() is not None:
        return 1
    return torch.ops.futurefill_kernels.fill_threads(layers, rows, channels, block, available)


def work_gaps() -> int:
    """Rows that a transform under way may take beyond its length in the engine."""
    return torch.ops.futurefill_kernels.work_gaps()


def cpu_lanes(dtype: torch.dtype) -> int:
    """Channels per vector for a float32 or float64 state."""
    return torch.ops.futurefill_kernels.cpu_lanes(dtype == torch.float64)


def tile_lanes(dtype: torch.dtype, channels: int) -> int:
    """Channels per tile of a stream with a float32 or float64 state: few where it has few."""
    return torch.ops.futurefill_kernels.tile_lanes(dtype == torch.float64, channels)
