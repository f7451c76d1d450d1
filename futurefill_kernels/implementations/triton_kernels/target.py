"""Compiles for a GPU that need not be here, into the disk cache that one would read."""

from __future__ import annotations

from types import SimpleNamespace

import triton
from triton.backends.compiler import GPUTarget

WARP = 32


def compile_for(capability: tuple[int, int]) -> None:
    """From now on `Launch.compile` is for a GPU of that compute capability, whatever is here.

    A process has one target: nothing can be launched in it any more.
    """
    major, minor = capability
    target = GPUTarget("cuda", 10 * major + minor, WARP)
    triton.runtime.driver.set_active(
        SimpleNamespace(
            get_current_device=lambda: 0,
            get_current_stream=lambda device: 0,
            get_current_target=lambda: target,
        )
    )
