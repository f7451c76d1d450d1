"""Sizes and arguments of the streams that are called."""

from __future__ import annotations

import torch

B, D, N = 3, 4, 20


def token(*shape, dtype=torch.float32):
    return torch.zeros(shape or (B, D), dtype=dtype)


def taps(groups=2, count=30):
    return torch.ones(groups, count)


def saved(cache, **changes):
    return {**cache.state_dict(), **changes}


def without(cache, name):
    return {key: x for key, x in cache.state_dict().items() if key != name}
