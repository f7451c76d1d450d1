"""Peers' C++ kernels, compiled for this machine when the first of them is made.

``-O3 -march=native`` and compiler vectors, called through ctypes: a call costs less than a
microsecond. Without a compiler the peers' torch forms take their place, under their own name.
"""

from __future__ import annotations

import ctypes
import os
import shlex
import shutil
import subprocess
import tempfile
from functools import lru_cache
from pathlib import Path

import torch

SOURCE = Path(__file__).with_name("kernels.cpp")
FLAGS = ("-O3", "-march=native", "-std=c++17", "-Wno-psabi", "-fopenmp", "-shared", "-fPIC")


class Recurrence(ctypes.Structure):
    """As in kernels.cpp."""

    _fields_ = [(name, ctypes.c_void_p) for name in ("poles", "weights", "x", "y")]
    _fields_ += [
        (name, ctypes.c_int64) for name in ("batch", "channels", "states", "is_complex", "threads")
    ]


class Dot(ctypes.Structure):
    """As in kernels.cpp."""

    _fields_ = [(name, ctypes.c_void_p) for name in ("u", "h", "pending", "y")]
    _fields_ += [
        (name, ctypes.c_int64)
        for name in ("batch", "channels", "u_stride", "h_stride", "pending_stride", "threads")
    ]


def compiler() -> list[str] | None:
    """The C++ compiler's command, None where there is none."""
    command = shlex.split(os.environ.get("CXX", "c++"))
    return command if shutil.which(command[0]) else None


def is_available(device: torch.device) -> bool:
    """Whether a peer on the device can have its step in C++."""
    return device.type == "cpu" and compiler() is not None


@lru_cache(maxsize=1)
def library() -> ctypes.CDLL:
    """The kernels, compiled once per process. RuntimeError with what the compiler said."""
    command = compiler()
    if command is None:
        raise RuntimeError("the compiled peers need a C++ compiler")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "peers.so"
        done = subprocess.run(
            [*command, *FLAGS, str(SOURCE), "-o", str(path)], capture_output=True, text=True
        )
        if done.returncode:
            raise RuntimeError(f"{command[0]} cannot compile {SOURCE}: {done.stderr[-1000:]}")
        loaded = ctypes.CDLL(str(path))
    loaded.lanes.restype = ctypes.c_int
    loaded.recurrence_step.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
    loaded.dot_step.argtypes = [ctypes.c_void_p, ctypes.c_void_p, *4 * [ctypes.c_int64]]
    for function in (loaded.recurrence_step, loaded.dot_step):
        function.restype = None
    return loaded
