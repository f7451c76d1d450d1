"""One CUDA graph for a model's step: every token replays it, fills are launches behind the replay.

Positions live on the device, so nothing in the graph depends on the token; a future fill depends
only on finished layers, so the host launches it after the replay.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..planning.capabilities import CAPABILITIES
from .model_cache import DecodingCache

#: capture(call) -> replay; `replay` repeats on the device what `call` launched
Capture = Callable[[Callable[[], None]], Callable[[], None]]


def cannot_capture(cache: DecodingCache, ids: Tensor) -> list[str]:
    """Why a step of this cache cannot be captured; empty when it can."""
    reasons = []
    if ids.device.type != "cuda":
        reasons.append(f"CUDA graphs need a CUDA device, the ids are on {ids.device}")
    if not cache.capabilities.capturable:
        able = ", ".join(name for name, c in CAPABILITIES.items() if c.capturable)
        reasons.append(
            f"impl={cache.impl!r} reads positions on the host, which would be baked into the "
            f"graph; expected one of {able}"
        )
    return reasons


class GraphedStep:
    """``step(ids) -> logits`` as one graph of the whole model.

    model, cache: as in ``model(ids, cache=cache)``, after the prompt and one step. ids: (B, 1),
    their shape and device. capture: how a call becomes a graph, CUDA's by default. Capturing leaves
    the cache's state as it was. Raises RuntimeError with the reasons when something would be baked
    in.
    """

    def __init__(
        self, model: nn.Module, cache: DecodingCache, ids: Tensor, capture: Capture | None = None
    ) -> None:
        if capture is None:
            reasons = cannot_capture(cache, ids)
            if reasons:
                raise RuntimeError("the step cannot be captured: " + "; ".join(reasons))
        if not cache.stepped:
            raise RuntimeError(
                "the step cannot be captured before every row has made one: the first call of a "
                "cache is the prompt, and the first step compiles kernels"
            )
        self._cache, self._ids = cache, ids.clone()
        self._logits: Tensor | None = None

        def call() -> None:
            with cache.capture():
                self._logits = model(self._ids, cache=cache)

        cache.begin_token()  # fills joined: not possible inside a capture
        self._replay = (capture or _cuda_capture)(call)

    def __call__(self, ids: Tensor) -> Tensor:
        """ids: (B, 1). Returns logits (B, 1, V), overwritten by the next call."""
        if ids.shape != self._ids.shape or ids.dtype != self._ids.dtype:
            raise ValueError(
                f"expected ids {tuple(self._ids.shape)} {self._ids.dtype} as captured, "
                f"got {tuple(ids.shape)} {ids.dtype}"
            )
        self._cache.begin_token()
        self._ids.copy_(ids)
        self._replay()
        self._cache.finish_token()
        assert self._logits is not None
        return self._logits


def _cuda_capture(call: Callable[[], None]) -> Callable[[], None]:
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay
