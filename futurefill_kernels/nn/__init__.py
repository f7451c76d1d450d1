"""Mixers built on the decoding cache, and the byte-level model made of them."""

from .cache import DecodingCache, make_cache
from .filters import LongFilter
from .hyena import Hyena, ImplicitFilter
from .language_model import LanguageModel, LanguageModelConfig
from .long_conv import ExplicitFilter, LongConv
from .pretrained import load_model, save_model
from .short_conv import ShortConv
from .stu import STU, spectral_filters

__all__ = [
    "STU",
    "DecodingCache",
    "ExplicitFilter",
    "Hyena",
    "ImplicitFilter",
    "LanguageModel",
    "LanguageModelConfig",
    "LongConv",
    "LongFilter",
    "ShortConv",
    "load_model",
    "make_cache",
    "save_model",
    "spectral_filters",
]
