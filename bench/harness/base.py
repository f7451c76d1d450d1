"""``--base GITREF``: the same bench with an older package, in turns with this one."""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from .machine import ROOT
from .rows import note

_KEYS = ("variant", "B", "D", "G", "L", "P", "layers", "states", "dtype", "quantity")


def compare(ref: str, arguments: list[str], turns: int = 3) -> int:
    """Build ``ref`` in a temporary worktree, run both in turns, print the paired ratios.

    The bench code is this one's; the package and kernels are the commit's. Returns the exit status.
    Raises ValueError when ``ref`` is unknown, RuntimeError when it cannot be built or run.
    """
    known = subprocess.run(
        ["git", "-C", ROOT, "rev-parse", "--verify", "--quiet", ref + "^{commit}"],
        capture_output=True,
    )
    if known.returncode:
        raise ValueError(f"unknown git reference {ref!r} for --base")
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "base"
        _run(["git", "-C", ROOT, "worktree", "add", "--detach", tree, ref], ROOT)
        try:
            shutil.rmtree(tree / "bench", ignore_errors=True)
            shutil.copytree(ROOT / "bench", tree / "bench")
            note(f"building {ref}")
            # without a GPU nothing runs the CUDA kernels, which take most of a build
            skip = {} if torch.cuda.is_available() else {"FUTUREFILL_SKIP_CUDA_BUILD": "1"}
            _run([sys.executable, "setup.py", "-q", "build_ext", "--inplace"], tree, skip)
            return _turns(ref, tree, arguments, turns, Path(folder))
        finally:
            _run(["git", "-C", ROOT, "worktree", "remove", "--force", tree], ROOT)


def _turns(ref: str, tree: Path, arguments: list[str], turns: int, folder: Path) -> int:
    ratios: dict[tuple[Any, ...], list[float]] = {}
    for turn in range(turns):
        found = []
        for where in (tree, ROOT):
            note(f"turn {turn + 1} of {turns}: {ref if where == tree else 'working tree'}")
            out = folder / "rows.json"
            _run([sys.executable, "-m", "bench", *arguments, "--json", str(out)], where)
            rows = json.loads(out.read_text())
            found.append({tuple(r[k] for k in _KEYS): r["p50"] for r in rows if r["p50"] != ""})
        for key in found[0].keys() & found[1].keys():
            ratios.setdefault(key, []).append(found[1][key] / found[0][key])
    for key, values in ratios.items():
        name = " ".join(f"{k}={v}" for k, v in zip(_KEYS[1:], key[1:], strict=True) if v != "")
        print(f"{key[0]:<28} {name}  time here / time at {ref}: {statistics.median(values):.3f}")
    return 0


def _run(command: list[Any], where: Path, variables: dict[str, str] | None = None) -> None:
    done = subprocess.run(
        list(map(str, command)), cwd=where, capture_output=True, text=True,
        env={**os.environ, **(variables or {})},
    )  # fmt: skip
    if done.returncode:
        tail = (done.stderr or done.stdout)[-600:]
        raise RuntimeError(f"{command[0]} failed in the comparison with --base: {tail}")
