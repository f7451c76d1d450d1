"""decode(): generate from a model, or from bare filters, one exact step after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from ..cache.cache import FutureFillCache
from ..checks import valid_lengths
from ..plan import Plan
from . import graphs
from .long_convs import CacheOptions
from .model_cache import DecodingCache
from .sampling import Sampler, greedy

Callback = Callable[[Tensor, int], Any]


def decode(
    model: nn.Module | Tensor,
    prompt: Tensor | Sequence[Tensor],
    max_new_tokens: int,
    *,
    sampler: Sampler | None = None,
    next_input: Callable[[Tensor], Tensor] | None = None,
    lengths: Tensor | Sequence[int] | None = None,
    stop_ids: Sequence[int] = (),
    pad_id: int = 0,
    plan: Plan | None = None,
    impl: str = "auto",
    cuda_graph: bool | None = None,
    fill_stream: torch.cuda.Stream | None = None,
    spectra_dtype: torch.dtype | None = None,
    progress: bool = False,
    callback: Callback | None = None,
) -> Tensor:
    """Generate ``max_new_tokens`` after a prompt; no gradients.

    model: a module called as ``model(ids, cache=cache) -> logits (B, T, V)`` whose mixers are ff.nn
        modules; prompt ids (B, P) or a list of (P_b,), returns new ids (B, N) int64.
        Or filters (D, L) or (G, L), tap 0 multiplies the newest input; prompt (B, D, P), returns
        the generated inputs (B, D, N), ``u_{t+1} = next_input(y_t)`` with y_t (B, D).
    sampler: logits (B, V) -> ids (B,), default greedy. next_input: default identity.
    lengths: (B,) valid positions of right-padded prompts.
    stop_ids: a row ends with the first of these; the rest of it is pad_id.
    plan, impl, fill_stream, spectra_dtype: as in FutureFillCache. progress: show a bar on stderr.
    cuda_graph: replay the model's step as one CUDA graph. Default: where that is possible; True:
        RuntimeError with the reasons where it is not.
    callback: called with the new ids (B,) or inputs (B, D) and their index 0 .. N-1.

    Raises ValueError or TypeError for prompts that are empty or have ids outside the vocabulary,
    and for options of the other form.
    """
    if max_new_tokens < 0:
        raise ValueError(f"expected max_new_tokens >= 0, got {max_new_tokens}")
    options: CacheOptions = {
        "plan": plan, "impl": impl, "fill_stream": fill_stream, "spectra_dtype": spectra_dtype,
    }  # fmt: skip
    loop = _Loop(max_new_tokens, options, cuda_graph, progress, callback)
    with torch.no_grad():
        if isinstance(model, Tensor):
            if sampler is not None or stop_ids:
                raise ValueError("sampler and stop_ids need a model; filters take next_input")
            if cuda_graph:
                raise ValueError("cuda_graph needs a model: next_input could not be captured")
            if not isinstance(prompt, Tensor):
                raise TypeError(f"expected prompt (B, D, P), got {type(prompt).__name__}")
            return _decode_filters(model, prompt, lengths, next_input or _identity, loop)
        if next_input is not None:
            raise ValueError("next_input needs filters; a model takes a sampler")
        ids, valid = _pad(prompt, lengths)
        _check_ids(model, ids, stop_ids, pad_id)
        return _decode_model(model, ids, valid, sampler or greedy, stop_ids, pad_id, loop)


class _Loop:
    """What both forms share: how long, with which cache, and who is told."""

    def __init__(
        self,
        steps: int,
        options: CacheOptions,
        cuda_graph: bool | None,
        progress: bool,
        callback: Callback | None,
    ) -> None:
        self.steps, self.options, self.cuda_graph = steps, options, cuda_graph
        self.callback = callback
        self.bar = tqdm(total=steps, unit="tok", disable=not progress, leave=False)

    def emit(self, token: Tensor, index: int) -> None:
        self.bar.update()
        if self.callback is not None:
            self.callback(token, index)


def _decode_model(
    model: nn.Module,
    ids: Tensor,
    lengths: list[int],
    sample: Sampler,
    stop_ids: Sequence[int],
    pad_id: int,
    loop: _Loop,
) -> Tensor:
    """ids: (B, P) right-padded to lengths. Returns (B, N)."""
    batch = len(ids)
    new = ids.new_full((batch, loop.steps), pad_id)
    if loop.steps == 0:
        return new
    cache = DecodingCache(model, batch, loop.steps, **loop.options)
    reasons = graphs.cannot_capture(cache, ids)
    if loop.cuda_graph and reasons:
        raise RuntimeError("the step cannot be captured: " + "; ".join(reasons))
    capture = not reasons if loop.cuda_graph is None else loop.cuda_graph
    with cache.select(lengths=lengths):
        logits = model(ids, cache=cache)  # (B, P, V)
    logits = logits[list(range(batch)), [n - 1 for n in lengths]]
    stops = torch.tensor(list(stop_ids), device=ids.device, dtype=ids.dtype)
    running = torch.ones(batch, dtype=torch.bool, device=ids.device)
    step: Callable[[Tensor], Tensor] = partial(model, cache=cache)
    with loop.bar:
        for t in range(loop.steps):
            token = sample(logits)  # (B,)
            if stop_ids:
                token = torch.where(running, token, pad_id)
                running &= ~torch.isin(token, stops)
            new[:, t] = token
            loop.emit(token, t)
            if t + 1 == loop.steps or (stop_ids and not running.any()):
                break
            logits = step(token[:, None])[:, 0]
            if capture and t == 0 and loop.steps > 2:
                step = graphs.GraphedStep(model, cache, token[:, None])
    return new


def _decode_filters(
    h: Tensor,
    prompt: Tensor,
    lengths: Tensor | Sequence[int] | None,
    next_input: Callable[[Tensor], Tensor],
    loop: _Loop,
) -> Tensor:
    """h: (G, L). prompt: (B, D, P). Returns (B, D, N)."""
    if prompt.ndim != 3 or 0 in prompt.shape:
        raise ValueError(f"expected prompt (B, D, P), not empty, got {tuple(prompt.shape)}")
    batch, channels, width = prompt.shape
    valid = valid_lengths(lengths, batch, width)
    new = prompt.new_empty(batch, channels, loop.steps)
    if loop.steps == 0:
        return new
    cache = FutureFillCache(
        h.detach(), batch, loop.steps, channels=channels, dtype=prompt.dtype, **loop.options
    )
    y = cache.prefill(prompt.detach(), lengths=valid)
    y_t = y[list(range(batch)), :, [n - 1 for n in valid]]  # (B, D)
    with loop.bar:
        for t in range(loop.steps):
            u_t = next_input(y_t)
            new[:, :, t] = u_t
            loop.emit(u_t, t)
            if t + 1 < loop.steps:
                y_t = cache.step(u_t)
    return new


def _identity(y_t: Tensor) -> Tensor:
    return y_t


def _pad(
    prompt: Tensor | Sequence[Tensor], lengths: Tensor | Sequence[int] | None
) -> tuple[Tensor, list[int]]:
    """Prompts as ids (B, P), 0 after the valid lengths, and these."""
    if not isinstance(prompt, Tensor):
        if lengths is not None:
            raise ValueError("lengths belong to a padded prompt (B, P); a list has its own")
        rows = list(prompt)
        if not rows or any(not isinstance(row, Tensor) or row.ndim != 1 for row in rows):
            raise ValueError("expected prompt ids (B, P) or a non-empty list of 1-D tensors")
        if any(len(row) == 0 for row in rows):
            raise ValueError("empty prompt: expected at least one id in every row")
        lengths = [len(row) for row in rows]
        prompt = nn.utils.rnn.pad_sequence(rows, batch_first=True)
    if prompt.ndim != 2:
        raise ValueError(f"expected prompt ids (B, P), got shape {tuple(prompt.shape)}")
    if 0 in prompt.shape:
        raise ValueError(f"empty prompt: expected ids (B, P), got shape {tuple(prompt.shape)}")
    if prompt.is_floating_point() or prompt.is_complex() or prompt.dtype == torch.bool:
        raise TypeError(f"expected prompt ids of an integer dtype, got {prompt.dtype}")
    valid = valid_lengths(lengths, *prompt.shape)
    counts = torch.tensor(valid, device="cpu")
    inside = torch.arange(prompt.shape[1], device="cpu") < counts[:, None]
    return prompt.long().where(inside.to(prompt.device), 0), valid


def _check_ids(model: nn.Module, ids: Tensor, stop_ids: Sequence[int], pad_id: int) -> None:
    """Every id inside the vocabulary, which is the size of the model's first embedding."""
    embedding = next((m for m in model.modules() if isinstance(m, nn.Embedding)), None)
    if embedding is None:
        return
    given = [int(ids.min()), int(ids.max()), *stop_ids, pad_id]
    for value in given:
        if not 0 <= value < embedding.num_embeddings:
            raise ValueError(
                f"expected ids in 0 .. {embedding.num_embeddings - 1} (the vocabulary), got {value}"
            )
