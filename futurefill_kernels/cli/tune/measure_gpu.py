"""Times of whole tokens per implementation, for ``tune`` on a GPU."""

from __future__ import annotations

import time
from collections.abc import Iterable

import torch

from ...cache.cache import FutureFillCache
from ...implementations.select import cannot_run

REPEATS = 3


def measure_implementations(
    device: torch.device,
    names: Iterable[str],
    *,
    channels: int = 1024,
    layers: int = 8,
    tokens: int = 512,
) -> list[tuple[str, float]]:
    """Seconds per token of a stream of ``tokens`` tokens, for every name that runs on the device.

    The same plan for all, interleaved, the fastest of three repeats after one that compiles.
    """
    reasons = cannot_run(device, torch.float32)
    torch.manual_seed(0)
    filters = [torch.randn(channels, tokens, device=device) / tokens for _ in range(layers)]
    caches = {
        name: FutureFillCache(filters, 1, tokens, impl=name) for name in names if not reasons[name]
    }
    best = dict.fromkeys(caches, float("inf"))
    for repeat in range(REPEATS + 1):
        for name, cache in caches.items():
            seconds = _stream_seconds(cache) / tokens
            if repeat:
                best[name] = min(best[name], seconds)
    return list(best.items())


def _stream_seconds(cache: FutureFillCache) -> float:
    """Seconds of a whole stream, from an empty cache."""

    def wait() -> None:
        if cache.device.type == "cuda":
            torch.cuda.synchronize(cache.device)

    cache.reset()
    u = torch.ones(1, cache.channels, device=cache.device)
    y = torch.empty_like(u)
    wait()
    start = time.perf_counter()
    for _ in range(cache.max_new_tokens):
        for layer in range(cache.layers):
            cache.step(u, layer, out=y)
    wait()
    return time.perf_counter() - start
