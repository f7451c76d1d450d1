"""The build: what installs without a compiler, what the source distribution holds."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

pytestmark = pytest.mark.skipif(
    not (ROOT / "setup.py").exists(), reason="not run from a source tree"
)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of what the build reads."""
    for name in ("setup.py", "pyproject.toml", "MANIFEST.in", "LICENSE", "README.md"):
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "csrc", tmp_path / "csrc")
    ignored = shutil.ignore_patterns("*.so", "_build_info.json", "__pycache__", "weights")
    shutil.copytree(ROOT / "futurefill_kernels", tmp_path / "futurefill_kernels", ignore=ignored)
    return tmp_path


def setup_py(tree: Path, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    outside = {k: v for k, v in os.environ.items() if not k.startswith("FUTUREFILL_")}
    outside["FUTUREFILL_SKIP_CUDA_BUILD"] = "1"  # minutes of nvcc
    return subprocess.run(
        [sys.executable, "setup.py", *command],
        cwd=tree,
        env=outside | environment,
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize(
    ("environment", "reason"),
    [
        pytest.param(
            {"FUTUREFILL_SKIP_CPU_BUILD": "1"},
            "FUTUREFILL_SKIP_CPU_BUILD=1",
            marks=pytest.mark.slow,
        ),
        ({"CXX": "no-such-compiler"}, "there was no C++ compiler (no-such-compiler)"),
    ],
)
def test_without_kernels(tree, environment, reason):
    result = setup_py(tree, "build", **environment)
    assert result.returncode == 0, result.stderr
    assert "building without compiled kernels: the" in result.stdout
    (info,) = tree.glob("build/lib*/futurefill_kernels/_build_info.json")
    recorded = json.loads(info.read_text())
    assert recorded["built"] is False
    assert reason in recorded["reason"]
    code = "from futurefill_kernels import native; print(native.unavailable_reason)"
    imported = subprocess.run(
        [sys.executable, "-c", code], cwd=info.parent.parent, capture_output=True, text=True
    )
    assert reason in imported.stdout, imported.stderr


@pytest.mark.parametrize(
    ("environment", "reason"),
    [
        pytest.param(
            {"FUTUREFILL_SKIP_CUDA_BUILD": "1"},
            "FUTUREFILL_SKIP_CUDA_BUILD=1",
            marks=pytest.mark.slow,
        ),
        ({"CUDA_HOME": "/nowhere"}, "there was no nvcc in /nowhere/bin"),
        pytest.param(
            {"CUDA_HOME": "", "PATH": ""}, "there was no nvcc on the PATH", marks=pytest.mark.slow
        ),
    ],
)
def test_without_cuda_kernels(tree, environment, reason):
    environment = {"FUTUREFILL_SKIP_CUDA_BUILD": "0", "CXX": sys.executable} | environment
    result = setup_py(tree, "build_py", **environment)
    assert result.returncode == 0, result.stderr
    lines = [line for line in result.stdout.splitlines() if "without CUDA kernels" in line]
    assert len(lines) == 1
    assert reason in lines[0]
    (info,) = tree.glob("build/lib*/futurefill_kernels/_build_info.json")
    recorded = json.loads(info.read_text())
    assert recorded["cuda"] is None
    assert reason in recorded["cuda_reason"]


needs_nvcc = pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc")


@needs_nvcc
@pytest.mark.parametrize(
    ("asked", "error"),
    [
        pytest.param(
            "Ampere",
            "expected TORCH_CUDA_ARCH_LIST like '8.0;9.0+PTX', got 'Ampere'",
            marks=pytest.mark.slow,
        ),
        ("8.0 7.5", "expected GPU architectures from 8.0 on, got '7.5'"),
    ],
)
def test_other_architectures_are_refused(tree, asked, error):
    environment = {"FUTUREFILL_SKIP_CUDA_BUILD": "0", "TORCH_CUDA_ARCH_LIST": asked}
    result = setup_py(tree, "build_py", **environment)
    assert result.returncode != 0
    assert error in result.stderr


@needs_nvcc
@pytest.mark.slow
def test_the_architectures_are_recorded(tree):
    environment = {"FUTUREFILL_SKIP_CUDA_BUILD": "0", "TORCH_CUDA_ARCH_LIST": "8.0 9.0+PTX"}
    assert setup_py(tree, "build_py", **environment).returncode == 0
    (info,) = tree.glob("build/lib*/futurefill_kernels/_build_info.json")
    assert json.loads(info.read_text())["cuda"] == "sm_80, sm_90 and PTX of sm_90"


def test_forced_build_fails_with_the_reason(tree):
    result = setup_py(tree, "build", FUTUREFILL_FORCE_BUILD="1", CXX="no-such-compiler")
    assert result.returncode != 0
    assert "there was no C++ compiler (no-such-compiler)" in result.stderr


@pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler")
def test_sources_that_do_not_compile(tree):
    for source in (tree / "csrc").rglob("*.cpp"):
        source.write_text("#error broken\n")
    result = setup_py(tree, "build")
    assert result.returncode == 0, result.stderr
    (info,) = tree.glob("build/lib*/futurefill_kernels/_build_info.json")
    assert "compiling failed" in json.loads(info.read_text())["reason"]
    assert setup_py(tree, "build", FUTUREFILL_FORCE_BUILD="1").returncode != 0


def test_source_distribution_holds_the_sources(tree):
    result = setup_py(tree, "sdist", FUTUREFILL_SKIP_CPU_BUILD="1")
    assert result.returncode == 0, result.stderr
    (archive,) = (tree / "dist").glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        packed = {name.split("/", 1)[1] for name in tar.getnames() if "/" in name}
    sources = {str(p.relative_to(tree)) for p in (tree / "csrc").rglob("*.*") if p.is_file()}
    assert sources <= packed
