"""What a rejected call must leave as it was."""

from __future__ import annotations

import torch

from futurefill_kernels import FutureFillCache


def snapshot(cache: FutureFillCache) -> list[torch.Tensor]:
    """Copies of what calls change."""
    state = cache.state
    found = [state.ring, state.kept, state.work, state.undo, state.images, state.positions]
    found += [] if state.prompt_fill is None else [state.prompt_fill]
    return [x.clone() for x in found] + [cache.positions]
