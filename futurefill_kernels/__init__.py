"""Exact, fast autoregressive decoding of long-convolution sequence models."""

from . import reference
from ._version import __version__
from .cache import FutureFillCache
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
    "future_fill",
    "make_plan",
    "reference",
]
