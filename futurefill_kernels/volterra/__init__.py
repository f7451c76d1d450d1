"""Equations with memory: each value depends on all before it through a convolution."""

from . import weights
from .caputo import solve_caputo
from .integral import solve_volterra
from .kernels import FunctionKernel, Kernel, PowerKernel
from .memory import Memory
from .solution import Solution

__all__ = [
    "FunctionKernel",
    "Kernel",
    "Memory",
    "PowerKernel",
    "Solution",
    "solve_caputo",
    "solve_volterra",
    "weights",
]
