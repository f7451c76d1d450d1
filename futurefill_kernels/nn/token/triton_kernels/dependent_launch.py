"""Programmatic dependent launch: a kernel starts while the one before it still runs.

Rules of a chain (docs/kernels.md): every program of every kernel waits, also one that has nothing
to do, and outside loops; before it waits it writes nothing, and reads only what was there before
the token began; the first launch of a token is an ordinary one.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl
from triton.language.extra import cuda

gdc_wait: Any = getattr(cuda, "gdc_wait", None)
gdc_launch_dependents: Any = getattr(cuda, "gdc_launch_dependents", None)

#: Whether this Triton has the two instructions.
AVAILABLE = gdc_wait is not None


@triton.jit
def start_next(PDL: tl.constexpr):
    """Let the next kernel start once every program of this one has come here."""
    if PDL:
        gdc_launch_dependents()


@triton.jit
def wait_for_last(PDL: tl.constexpr):
    """Wait until the kernel before is complete and what it wrote can be read."""
    if PDL:
        gdc_wait()
