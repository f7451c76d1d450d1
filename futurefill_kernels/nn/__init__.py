"""Mixers that decode exactly, and the byte-level model made of them."""

from .filters import LongFilter
from .hyena import Hyena, ImplicitFilter
from .language_model import LanguageModel, LanguageModelConfig
from .long_conv import ExplicitFilter, LongConv
from .parallel.plan import parallel_plan
from .pretrained import load_model, save_model
from .short_conv import ShortConv
from .stu import STU, spectral_filters

__all__ = [
    "STU",
    "ExplicitFilter",
    "Hyena",
    "ImplicitFilter",
    "LanguageModel",
    "LanguageModelConfig",
    "LongConv",
    "LongFilter",
    "ShortConv",
    "load_model",
    "parallel_plan",
    "save_model",
    "spectral_filters",
]
