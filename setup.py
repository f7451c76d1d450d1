"""Builds the C++ library, or installs without it and records why.

FUTUREFILL_SKIP_CPU_BUILD=1   install without compiled kernels
FUTUREFILL_SKIP_CUDA_BUILD=1  leave out the CUDA kernels
FUTUREFILL_FORCE_BUILD=1      fail where the kernels cannot be built, instead of going without
MAX_JOBS                      compilers to run at a time
TORCH_CUDA_ARCH_LIST          GPU architectures, as for every torch extension: "8.0;9.0+PTX"
CUDA_HOME                     CUDA toolkit, default that of the nvcc on the PATH

The CUDA kernels are built when there is an nvcc; torch itself may be a CPU build, and one library
serves both builds.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shlex
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

PACKAGE = "futurefill_kernels"
THIS = Path(__file__)
ROOT = THIS.parent
BINDINGS = ("schemas", "threads", "cpu_ops", "cpu_fills", "cpu_offline", "cpu_prompt")
BINDINGS += ("cpu_token", "bound_step", "bound_run", "token_run", "move_slots", "branches")
BINDINGS += ("reorder",)
SOURCES = [f"csrc/bindings/{name}.cpp" for name in BINDINGS]
SOURCES += [f"csrc/infra/{name}.cpp" for name in ("parallel", "pool", "move_slots", "branches")]
SOURCES += ["csrc/cpu/dispatch.cpp", "csrc/cpu/twiddles.cpp", "csrc/cpu/scratch.cpp"]
# compiled once for every instruction set, with its flags
STREAM_KERNELS = [f"csrc/cpu/{n}.cpp" for n in ("short_range_step", "future_fill", "fill_stages")]
KERNELS = ["csrc/cpu/offline_conv.cpp", "csrc/cpu/prompt_blocks.cpp"]
KERNELS += ["csrc/cpu/dense.cpp", "csrc/cpu/token_rows.cpp"]
AVX2 = ["-mavx2", "-mfma", "-mf16c"]
AVX512 = ["-mfma", "-mavx512f", "-mavx512dq", "-mavx512vl", "-mavx512bw"]
ISA_FLAGS = {
    "portable": ["-DFF_VECTOR_BYTES=16"],
    "avx2": ["-DFF_VECTOR_BYTES=32", *AVX2],
    "avx512": ["-DFF_VECTOR_BYTES=64", "-mprefer-vector-width=512", *AVX512],
    "avx2_narrow": ["-DFF_VECTOR_BYTES=16", *AVX2],
    "avx512_narrow": ["-DFF_VECTOR_BYTES=16", *AVX512],
}
X86 = platform.machine().lower() in ("x86_64", "amd64")
ISAS = ["portable", "avx2", "avx512"] if X86 else ["portable"]
# for streams of a channel or a few: the instructions of the others, short vectors
NARROW = ["avx2_narrow", "avx512_narrow"] if X86 else []
CXX_FLAGS = ["-O3", "-std=c++17", "-fvisibility=hidden", "-Wno-psabi", "-g0"]
CXX_FLAGS += [f"-ffile-prefix-map={ROOT}=."]  # the same library from every folder
DEFINES = ["-DTORCH_TARGET_VERSION=0x020a000000000000"]  # the stable ABI of torch 2.10
DEFINES += ["-DFUTUREFILL_X86"] if X86 else []

CUDA_OPS = ["csrc/bindings/cuda_ops.cpp", "csrc/bindings/cuda_prompt.cpp"]
CUDA_KERNELS = ["csrc/cuda/history.cu", "csrc/cuda/apply_step.cu", "csrc/cuda/future_fill.cu"]
CUDA_KERNELS += ["csrc/cuda/long_fill.cu", "csrc/cuda/early_fill.cu", "csrc/cuda/prefill.cu"]
CUDA_ARCHITECTURES = "8.0;8.6;8.9;9.0;10.0;12.0+PTX"
NVCC_FLAGS = ["-std=c++17", "-O3", "--expt-relaxed-constexpr"]
NVCC_FLAGS += ["--objdir-as-tempdir"]  # names in the code follow the folder, not the process
NVCC_FLAGS += ["-Xcompiler=-fPIC,-fvisibility=hidden", "-Xfatbin=-compress-all"]


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


@lru_cache(maxsize=1)
def cuda_home() -> Path | None:
    """The toolkit's folder, or None when there is no nvcc."""
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    if home:
        return Path(home) if (Path(home) / "bin" / "nvcc").exists() else None
    if shutil.which("nvcc") is None:
        return None
    # the one on the PATH may be a wrapper: it knows its own folder
    dry = subprocess.run(["nvcc", "--dryrun", "-E", "-x", "cu", os.devnull], stderr=subprocess.PIPE)
    top = re.search(r"^#\$ TOP=(.*)$", dry.stderr.decode(), re.MULTILINE)
    return Path(top.group(1)).resolve() if top else None


def cuda_library_folder() -> Path | None:
    """Where the toolkit keeps the static runtime."""
    folders = [cuda_home() / "lib64", cuda_home() / "lib", *cuda_home().glob("targets/*/lib")]
    return next((f for f in folders if (f / "libcudart_static.a").exists()), None)


def reason_not_to_build_cuda() -> str | None:
    """Why there will be no CUDA kernels, or None."""
    if enabled("FUTUREFILL_SKIP_CUDA_BUILD"):
        return "the package was installed with FUTUREFILL_SKIP_CUDA_BUILD=1"
    if cuda_home() is None:
        asked = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
        where = f"in {asked}/bin" if asked else "on the PATH"
        return f"there was no nvcc {where} when the package was installed"
    if cuda_library_folder() is None:
        return f"{cuda_home()} had no libcudart_static.a when the package was installed"
    return None


def cuda_architectures() -> list[tuple[int, bool]]:
    """(80, False), ..., (120, True): architectures to build, and whether as PTX too.

    Of the default list those that nvcc knows; of TORCH_CUDA_ARCH_LIST all, or an error.
    """
    asked = os.environ.get("TORCH_CUDA_ARCH_LIST")
    result = []
    for item in re.split(r"[;,\s]+", (asked or CUDA_ARCHITECTURES).strip()):
        match = re.fullmatch(r"(\d+)\.(\d)a?(\+PTX)?", item)
        if match is None:
            raise SystemExit(
                f"{PACKAGE}: expected TORCH_CUDA_ARCH_LIST like '8.0;9.0+PTX', got {asked!r}"
            )
        major, minor, ptx = match.groups()
        if int(major) < 8:
            raise SystemExit(f"{PACKAGE}: expected GPU architectures from 8.0 on, got {item!r}")
        result.append((int(major) * 10 + int(minor), ptx is not None))
    if asked:
        return result
    nvcc = subprocess.run(
        [str(cuda_home() / "bin" / "nvcc"), "--list-gpu-code"], capture_output=True, text=True
    )
    known = [arch for arch in result if f"sm_{arch[0]}" in nvcc.stdout.split()]
    return [*known[:-1], (known[-1][0], True)]


def architecture_text(architectures: list[tuple[int, bool]]) -> str:
    """ "sm_80, sm_90 and PTX of sm_90"."""
    code = ", ".join(f"sm_{arch}" for arch, _ in architectures)
    ptx = ", ".join(f"sm_{arch}" for arch, as_ptx in architectures if as_ptx)
    return f"{code} and PTX of {ptx}" if ptx else code


def record(command, reason: str | None, inplace: bool, python_reason: str | None = None) -> None:
    """Write what the package reports about its build; every build writes it."""
    folder = ROOT / PACKAGE if inplace else Path(command.build_lib) / PACKAGE
    folder.mkdir(parents=True, exist_ok=True)
    info = {"built": reason is None, "reason": reason, "isas": ISAS}
    info["cuda"] = architecture_text(cuda_architectures()) if CUDA_REASON is None else None
    info["cuda_reason"] = reason or CUDA_REASON
    info["python_reason"] = reason or python_reason
    (folder / "_build_info.json").write_text(json.dumps(info, indent=1) + "\n")
    if reason is not None:
        print(f"{PACKAGE}: building without compiled kernels: {reason}")
    elif CUDA_REASON is not None:
        print(f"{PACKAGE}: building without CUDA kernels: {CUDA_REASON}")
    if reason is None and python_reason is not None:
        print(f"{PACKAGE}: building without a module for Python: {python_reason}")


REASON = reason_not_to_build()
CUDA_REASON = reason_not_to_build_cuda()
if REASON is not None and enabled("FUTUREFILL_FORCE_BUILD"):
    raise SystemExit(f"{PACKAGE}: FUTUREFILL_FORCE_BUILD is set, but {REASON}")


class BuildPython(build_py):
    def run(self) -> None:
        super().run()
        record(self, REASON, inplace=getattr(self, "editable_mode", False))


def native_build() -> dict:
    """The setup() arguments of the compiled library."""
    from setuptools import Extension
    from torch.utils.cpp_extension import (
        BuildExtension,
        CppExtension,
        include_paths,
        library_paths,
    )

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

        def build_extension(self, ext) -> None:
            """The modules for Python are optional: they alone need Python's headers."""
            try:
                super().build_extension(ext)
            except Exception as error:
                if not ext.optional or enabled("FUTUREFILL_FORCE_BUILD"):
                    raise
                reason = f"compiling {ext.name} failed: {str(error).strip().splitlines()[-1:]}"
                record(self, None, bool(self.inplace), reason)

        def build_extensions(self) -> None:
            self.extensions[0].extra_objects += self.compile_kernels()
            if CUDA_REASON is None:
                self.extensions[0].extra_objects += self.compile_cuda_kernels()
            super().build_extensions()

        def compile_cuda_kernels(self) -> list[str]:
            """One object per .cu file, with the code of all architectures."""
            jobs = os.environ.get("MAX_JOBS", str(os.cpu_count() or 1))
            command = [str(cuda_home() / "bin" / "nvcc"), *NVCC_FLAGS, f"--threads={jobs}"]
            for arch, ptx in cuda_architectures():
                code = f"[sm_{arch},compute_{arch}]" if ptx else f"sm_{arch}"
                command.append(f"-gencode=arch=compute_{arch},code={code}")
            newest = max(p.stat().st_mtime for p in [*(ROOT / "csrc/cuda").iterdir(), THIS])
            folder = Path(self.build_temp) / "cuda"
            folder.mkdir(parents=True, exist_ok=True)
            objects = []
            for source in CUDA_KERNELS:
                built = folder / (Path(source).stem + ".o")
                stamp = folder / (Path(source).stem + ".command")
                text = " ".join(command)
                current = built.exists() and stamp.exists() and stamp.read_text() == text
                if not current or built.stat().st_mtime < newest:
                    subprocess.run([*command, "-c", source, "-o", str(built)], check=True)
                    stamp.write_text(text)
                objects.append(str(built))
            return objects

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

            jobs = [(isa, source) for isa in ISAS for source in [*STREAM_KERNELS, *KERNELS]]
            jobs += [(isa, source) for isa in NARROW for source in STREAM_KERNELS]
            with ThreadPoolExecutor(int(os.environ.get("MAX_JOBS", os.cpu_count() or 1))) as pool:
                return list(pool.map(compile_one, jobs))

    extension = CppExtension(
        f"{PACKAGE}._C",
        SOURCES if CUDA_REASON is not None else [*SOURCES, *CUDA_OPS],
        include_dirs=[str(ROOT / "csrc")],
        py_limited_api=True,
        extra_compile_args={"cxx": [*CXX_FLAGS, *DEFINES]},
    )
    if CUDA_REASON is None:
        home = cuda_home()
        architectures = architecture_text(cuda_architectures())
        extension.define_macros.append(("FUTUREFILL_CUDA_ARCHITECTURES", f'"{architectures}"'))
        extension.include_dirs.append(str(home / "include"))
        extension.library_dirs.append(str(cuda_library_folder()))
        extension.libraries += ["cudart_static", "dl", "rt", "pthread"]
        extension.extra_link_args += ["-Wl,--exclude-libs,ALL", "-Wl,-z,defs"]
    unchanged = Extension(
        f"{PACKAGE}._unchanged",
        ["csrc/python/unchanged.cpp"],
        include_dirs=[*include_paths(), str(ROOT / "csrc")],
        library_dirs=library_paths(),
        libraries=["c10", "torch_cpu"],
        language="c++",
        py_limited_api=True,
        optional=True,
        extra_compile_args=list(CXX_FLAGS),
    )
    plain_step = Extension(
        f"{PACKAGE}._plain_step",
        [f"csrc/python/plain_{name}.cpp" for name in ("stream", "step", "block", "reorder")],
        include_dirs=[*include_paths(), str(ROOT / "csrc")],
        library_dirs=library_paths(),
        libraries=["c10", "torch_cpu", "torch_python"],
        # a torch without one of the functions fails the import, not the first step
        extra_link_args=["-Wl,-z,now"] if platform.system() == "Linux" else [],
        language="c++",
        py_limited_api=True,
        optional=True,
        extra_compile_args=list(CXX_FLAGS),
    )
    return {
        "ext_modules": [extension, plain_step, unchanged],
        "cmdclass": {"build_py": BuildPython, "build_ext": BuildKernels},
        "options": {"bdist_wheel": {"py_limited_api": "cp310"}},
    }


setup(
    package_data={PACKAGE: ["_build_info.json"]},
    **(native_build() if REASON is None else {"cmdclass": {"build_py": BuildPython}}),
)
