"""Exact, fast autoregressive decoding of long-convolution sequence models."""

import importlib
from typing import Any

from . import nn, ops, reference, volterra
from ._version import __version__
from .adapting.adapt import adapt
from .cache.cache import FutureFillCache
from .decoding.decode import decode, iterate
from .decoding.decoder import Decoder
from .decoding.model_cache import DecodingCache
from .decoding.sampling import RandomSampler
from .functional import causal_conv, future_fill
from .plan import Plan
from .planning.device import DeviceInfo
from .planning.make_plan import make_plan

__all__ = [
    "Decoder",
    "DecodingCache",
    "DeviceInfo",
    "FutureFillCache",
    "Plan",
    "RandomSampler",
    "__version__",
    "adapt",
    "causal_conv",
    "decode",
    "future_fill",
    "iterate",
    "make_plan",
    "nn",
    "ops",
    "reference",
    "volterra",
]


def __getattr__(name: str) -> Any:
    """``hf``, imported when it is first asked for: it needs transformers."""
    if name == "hf":
        return importlib.import_module(".hf", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
