"""Compiles single CUDA kernels to PTX, and all of them with ptxas for what it gave them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from tests.emulation import emulator

SOURCES = Path(__file__).parents[2] / "csrc" / "cuda"
NVCC_FLAGS = ["-std=c++17", "-O3", "--expt-relaxed-constexpr"]
#: architectures whose registers are counted
CAPABILITIES = (80, 86, 89, 90, 100, 120)

#: replacements (file, text, replacement), each applied once
Edits = tuple[tuple[str, str, str], ...]
#: registers, spilled and shared bytes of one kernel on one architecture
Row = dict[str, Any]


def unavailable() -> str | None:
    """Why CUDA kernels cannot be emulated here, or None."""
    if not SOURCES.exists():
        return "not run from a source tree"
    if shutil.which("nvcc") is None:
        return "no nvcc"
    return emulator.unavailable()


@lru_cache(maxsize=128)
def module(file: str, kernel: str, arch: str = "sm_80", edits: Edits = ()) -> Any:
    """The emulator's module with one kernel, a C++ expression such as ``prefill_inputs<float>``.

    edits: planted faults, applied to a copy of the sources.
    """
    with tempfile.TemporaryDirectory() as name:
        folder, sources = Path(name), SOURCES
        if edits:
            sources = folder / "cuda"
            shutil.copytree(SOURCES, sources)
        for edited, text, replacement in edits:
            before = (sources / edited).read_text()
            if text not in before:
                raise ValueError(f"{text!r} is not in {edited}")
            (sources / edited).write_text(before.replace(text, replacement, 1))
        unit, ptx = folder / "unit.cu", folder / "unit.ptx"
        unit.write_text(
            f'#include "{file}"\nusing namespace futurefill::cuda;\n'
            f"auto* const kernel [[gnu::used]] = &{kernel};\n"
        )
        command = ["nvcc", *NVCC_FLAGS, "-lineinfo", f"-arch={arch}", f"-I{sources}"]
        subprocess.run([*command, "-ptx", "-o", ptx, unit], check=True, capture_output=True)
        return emulator.load().Module(ptx.read_text())


@lru_cache(maxsize=8)
def resources(file: str) -> list[Row]:
    """Registers and spilled bytes of every kernel of a .cu file on every architecture."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        texts = list(pool.map(partial(_ptxas, file), CAPABILITIES))
    rows: list[Row] = []
    for line in "\n".join(texts).splitlines():
        entry = re.search(r"Compiling entry function '(\S+)' for 'sm_(\d+)'", line)
        spill = re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", line)
        used = re.search(r"Used (\d+) registers", line)
        if entry:
            rows.append({"kernel": entry[1], "sm": int(entry[2])})
        elif spill and rows:
            rows[-1]["spilled"] = int(spill[1])
        elif used and rows:
            rows[-1]["registers"] = int(used[1])
            static = re.search(r"(\d+) bytes smem", line)
            rows[-1]["shared"] = int(static[1]) if static else 0
    return rows


def _ptxas(file: str, capability: int) -> str:
    """What ptxas says of a file's kernels on one architecture."""
    code = f"-gencode=arch=compute_{capability},code=sm_{capability}"
    command = ["nvcc", *NVCC_FLAGS, code, "-Xptxas=-v", "-c", "-o", os.devnull]
    result = subprocess.run(
        [*command, str(SOURCES / file)], check=True, capture_output=True, text=True
    )
    return result.stderr
