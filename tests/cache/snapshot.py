"""What a rejected call must leave as it was."""

from __future__ import annotations

import torch

from futurefill_kernels import FutureFillCache


def snapshot(cache: FutureFillCache) -> list[torch.Tensor]:
    """Copies of what calls change."""
    state = cache.state
    return [x.clone() for x in (state.ring, state.kept, state.prompt_fill, state.positions)] + [
        cache.positions
    ]
