"""Models and caches for Hugging Face transformers; needs the extra ``[hf]``."""

try:
    import transformers  # noqa: F401
except ImportError as error:
    raise ImportError(
        "futurefill_kernels.hf needs transformers >= 5: pip install 'futurefill_kernels[hf]'"
    ) from error

from .adapted import AdaptedForCausalLM
from .config import FutureFillConfig
from .generation import StreamGenerationMixin
from .model import FutureFillForCausalLM
from .stream_cache import StreamCache, StreamLayer

__all__ = [
    "AdaptedForCausalLM",
    "FutureFillConfig",
    "FutureFillForCausalLM",
    "StreamCache",
    "StreamGenerationMixin",
    "StreamLayer",
]
