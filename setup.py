"""Builds the C++ library, or installs without it and records why.

FUTUREFILL_SKIP_CPU_BUILD=1   install without compiled kernels
FUTUREFILL_SKIP_CUDA_BUILD=1  leave out the CUDA kernels
FUTUREFILL_FORCE_BUILD=1      fail where the kernels cannot be built, instead of going without
MAX_JOBS                      compilers to run at a time
TORCH_CUDA_ARCH_LIST          GPU architectures, as for every torch extension
"""

from __future__ import annotations

import json
import os
import platform
import shlex
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

PACKAGE = "futurefill_kernels"
ROOT = Path(__file__).parent
SOURCES = ["csrc/ops.cpp", "csrc/ops_cpu.cpp", "csrc/parallel.cpp"]
SOURCES += ["csrc/cpu/dispatch.cpp", "csrc/cpu/twiddles.cpp"]
# compiled once for every instruction set, with its flags
KERNELS = ["csrc/cpu/short_range_step.cpp", "csrc/cpu/future_fill.cpp"]
ISA_FLAGS = {
    "portable": ["-DFF_VECTOR_BYTES=16"],
    "avx2": ["-DFF_VECTOR_BYTES=32", "-mavx2", "-mfma"],
    "avx512": [
        *("-DFF_VECTOR_BYTES=64", "-mprefer-vector-width=512", "-mfma"),
        *("-mavx512f", "-mavx512dq", "-mavx512vl", "-mavx512bw"),
    ],
}
X86 = platform.machine().lower() in ("x86_64", "amd64")
ISAS = ["portable", "avx2", "avx512"] if X86 else ["portable"]
CXX_FLAGS = ["-O3", "-std=c++17", "-fvisibility=hidden", "-Wno-psabi", "-g0"]
DEFINES = ["-DTORCH_TARGET_VERSION=0x020a000000000000"]  # the stable ABI of torch 2.10
DEFINES += ["-DFUTUREFILL_X86"] if X86 else []


def enabled(flag: str) -> bool:
    return os.environ.get(flag, "0") not in ("", "0")


def reason_not_to_build() -> str | None:
    """Why there will be no compiled kernels, or None."""
    if enabled("FUTUREFILL_SKIP_CPU_BUILD"):
        return "the package was installed with FUTUREFILL_SKIP_CPU_BUILD=1"
    try:
        import torch.utils.cpp_extension  # noqa: F401
    except ImportError as error:
        return f"torch was not importable when the package was installed ({error})"
    compiler = shlex.split(os.environ.get("CXX", "c++"))[0]
    if shutil.which(compiler) is None:
        return f"there was no C++ compiler ({compiler}) when the package was installed"
    return None


def record(command, reason: str | None, inplace: bool) -> None:
    """Write what the package reports about its build; every build writes it."""
    folder = ROOT / PACKAGE if inplace else Path(command.build_lib) / PACKAGE
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"built": reason is None, "reason": reason, "isas": ISAS}, indent=1)
    (folder / "_build_info.json").write_text(text + "\n")
    if reason is not None:
        print(f"{PACKAGE}: building without compiled kernels: {reason}")


REASON = reason_not_to_build()
if REASON is not None and enabled("FUTUREFILL_FORCE_BUILD"):
    raise SystemExit(f"{PACKAGE}: FUTUREFILL_FORCE_BUILD is set, but {REASON}")


class BuildPython(build_py):
    def run(self) -> None:
        super().run()
        record(self, REASON, inplace=getattr(self, "editable_mode", False))


def native_build() -> dict:
    """The setup() arguments of the compiled library."""
    from torch.utils.cpp_extension import BuildExtension, CppExtension

    class BuildKernels(BuildExtension):
        def run(self) -> None:
            try:
                super().run()
            except Exception as error:
                if enabled("FUTUREFILL_FORCE_BUILD"):
                    raise
                self.extensions = []
                last_line = str(error).strip().splitlines()[-1:]
                reason = f"compiling failed when the package was installed: {last_line}"
                record(self, reason, bool(self.inplace))

        def build_extensions(self) -> None:
            self.extensions[0].extra_objects += self.compile_kernels()
            super().build_extensions()

        def compile_kernels(self) -> list[str]:
            """One object per kernel and instruction set; the rest goes through ninja."""

            def compile_one(job: tuple[str, str]) -> str:
                isa, source = job
                (built,) = self.compiler.compile(
                    [source],
                    output_dir=os.path.join(self.build_temp, isa),
                    extra_postargs=[*CXX_FLAGS, f"-DFF_ISA={isa}", *ISA_FLAGS[isa]],
                    depends=[str(p) for p in sorted((ROOT / "csrc/cpu").glob("*.h"))],
                )
                return built

            jobs = [(isa, source) for isa in ISAS for source in KERNELS]
            with ThreadPoolExecutor(int(os.environ.get("MAX_JOBS", os.cpu_count() or 1))) as pool:
                return list(pool.map(compile_one, jobs))

    extension = CppExtension(
        f"{PACKAGE}._C",
        SOURCES,
        py_limited_api=True,
        extra_compile_args={"cxx": [*CXX_FLAGS, *DEFINES]},
    )
    return {
        "ext_modules": [extension],
        "cmdclass": {"build_py": BuildPython, "build_ext": BuildKernels},
        "options": {"bdist_wheel": {"py_limited_api": "cp310"}},
    }


setup(
    package_data={PACKAGE: ["_build_info.json"]},
    **(native_build() if REASON is None else {"cmdclass": {"build_py": BuildPython}}),
)
