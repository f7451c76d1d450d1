"""Building: what a source distribution holds, and an installation without a compiler."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.skipif(
    not (ROOT / "setup.py").exists(), reason="the tests run outside the source tree"
)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A copy of the sources without anything built."""
    copy = tmp_path / "source"
    copy.mkdir()
    for name in ("setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    ignore = shutil.ignore_patterns("*.so", "__pycache__", "_build_info.json")
    for name in ("csrc", "futurefill_kernels"):
        shutil.copytree(ROOT / name, copy / name, ignore=ignore)
    return copy


def _run(arguments: list[str], cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
    )


def test_the_source_distribution_holds_every_source(source):
    done = _run(["setup.py", "-q", "sdist", "--formats=gztar"], source)
    assert done.returncode == 0, done.stderr
    (archive,) = (source / "dist").glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        packed = {name.split("/", 1)[1] for name in tar.getnames() if "/" in name}
    wanted = {str(p.relative_to(source)) for p in (source / "csrc").rglob("*") if p.is_file()} | {
        "setup.py",
        "futurefill_kernels/cache.py",
        "futurefill_kernels/py.typed",
    }
    assert wanted <= packed
    assert any(name.endswith(".safetensors") for name in packed)


def test_installs_without_building_and_says_why(source, tmp_path):
    target = tmp_path / "installed"
    done = _run(
        [
            *("-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--no-index"),
            *("--target", str(target), "."),
        ],
        source,
        FUTUREFILL_SKIP_CPU_BUILD="1",
    )
    assert done.returncode == 0, done.stderr
    assert not list(target.glob("futurefill_kernels/_C*"))
    script = "from futurefill_kernels.__main__ import main; main(['env'])"
    report = _run(["-c", script], target, PYTHONPATH=str(target)).stdout
    assert "FUTUREFILL_SKIP_CPU_BUILD=1" in report
    assert "reference  available" in report


def test_a_forced_build_fails_where_it_cannot_build(source):
    done = _run(
        ["setup.py", "-q", "build_ext", "--inplace"],
        source,
        FUTUREFILL_FORCE_BUILD="1",
        CXX="no-such-compiler",
    )
    assert done.returncode != 0
    assert "FUTUREFILL_FORCE_BUILD is set, but there was no C++ compiler" in done.stderr
