"""Equations with memory: each value depends on all before it through a convolution."""

from . import weights
from .caputo import solve_caputo
from .hawkes import HawkesPaths, hawkes_paths
from .integral import solve_volterra
from .kernels import FunctionKernel, Kernel, PowerKernel
from .memory import Memory
from .rough_heston import RoughHeston, RoughHestonPaths, log_moment, rough_heston_paths
from .sde import volterra_paths
from .solution import Solution

__all__ = [
    "FunctionKernel",
    "HawkesPaths",
    "Kernel",
    "Memory",
    "PowerKernel",
    "RoughHeston",
    "RoughHestonPaths",
    "Solution",
    "hawkes_paths",
    "log_moment",
    "rough_heston_paths",
    "solve_caputo",
    "solve_volterra",
    "volterra_paths",
    "weights",
]
