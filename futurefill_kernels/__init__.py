"""Exact, fast autoregressive decoding of long-convolution sequence models."""

from . import nn, ops, reference
from ._version import __version__
from .cache import FutureFillCache
from .decode import decode
from .device import DeviceInfo
from .functional import causal_conv, future_fill
from .plan import Plan
from .planner import make_plan

__all__ = [
    "DeviceInfo",
    "FutureFillCache",
    "Plan",
    "__version__",
    "causal_conv",
    "decode",
    "future_fill",
    "make_plan",
    "nn",
    "ops",
    "reference",
]
