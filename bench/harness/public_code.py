"""Public code, run from a folder that FUTUREFILL_PUBLIC_CODE names: a checkout for each repository.

What its files import and nothing of it needs is stood in for: trainers, GPU kernels, image layers.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import subprocess
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from torch import nn

VARIABLE = "FUTUREFILL_PUBLIC_CODE"
#: packages that are stood in for where they are not installed
_ABSENT = (
    "IPython", "flashfftconv", "pytorch_lightning", "pytorch_lightning.utilities", "torchvision",
    "torchvision.ops", "transformers.tokenization_utils",
)  # fmt: skip
#: what files of the repositories need, beside torch
_NEEDED = ("einops", "hydra", "omegaconf", "opt_einsum", "transformers")
#: packages of the repositories, which several of them call the same
_THEIRS = ("src", "flash_stu", "mini_stu", "standalone_hyenadna", "gconv_standalone")


def missing(repository: str) -> str | None:
    """Why the code of a repository cannot run here, None where it can."""
    root = os.environ.get(VARIABLE)
    if not root:
        return f"runs public code where {VARIABLE} names a folder of checkouts"
    if not (Path(root) / repository).is_dir():
        return f"{Path(root) / repository} is not there"
    absent = [name for name in _NEEDED if not _installed(name)]
    return f"needs {', '.join(absent)}" if absent else None


def commit(repository: str) -> str:
    """The commit of a checkout: of git, or what a file COMMIT in it says."""
    path = Path(os.environ[VARIABLE]) / repository
    if (path / "COMMIT").is_file():
        return (path / "COMMIT").read_text().strip()[:10]
    found = subprocess.run(
        ["git", "-C", str(path), "rev-parse", "HEAD"], capture_output=True, text=True
    )
    return found.stdout.strip()[:10] or "unknown"


@contextmanager
def importing(repository: str) -> Iterator[Callable[[str], types.ModuleType]]:
    """Inside, modules of a repository are imported by dotted name from its root."""
    path = str(Path(os.environ[VARIABLE]) / repository)
    for name in _NEEDED:  # before others stand in for what these look for
        importlib.import_module(name)
    stand_ins = {name: _StandIn(name) for name in _ABSENT if not _installed(name)}
    sys.modules.update(stand_ins)
    sys.path.insert(0, path)
    try:
        yield importlib.import_module
    finally:
        sys.path.remove(path)
        for name in list(sys.modules):
            if name in stand_ins or name.split(".")[0] in _THEIRS:
                del sys.modules[name]


class _StandIn(types.ModuleType):
    """A package all of whose names are modules that hand their input on."""

    def __getattr__(self, name: str) -> type[nn.Module]:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (_HandsOn,), {})


class _HandsOn(nn.Module):
    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__()

    def forward(self, x: object = None) -> object:
        return x


def _installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False
