"""decode(): generate from a model, or from bare filters, one exact step after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from tqdm import tqdm

from ..cache.cache import FutureFillCache
from ..checks import integer, valid_lengths
from ..plan import Plan
from .decoder import Decoder
from .long_convs import CacheOptions
from .request import Callback, pad
from .sampling import Sampler


def decode(
    model: nn.Module | Decoder | Tensor,
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
        modules, or a `Decoder` of one, which is kept; prompt ids (B, P) or a list of (P_b,),
        returns new ids (B, N) int64.
        Or filters (D, L) or (G, L), tap 0 multiplies the newest input; prompt (B, D, P), returns
        the generated inputs (B, D, N), ``u_{t+1} = next_input(y_t)`` with y_t (B, D).
    sampler: logits (B, V) -> ids (B,), or a `RandomSampler`; default greedy. next_input: default
        identity.
    lengths: (B,) valid positions of right-padded prompts.
    stop_ids: a row ends with the first of these; the rest of it is pad_id.
    plan, impl, fill_stream, spectra_dtype: as in FutureFillCache. progress: show a bar on stderr.
    cuda_graph: as in `Decoder`; with a fill_stream the default is False.
    callback: called with the new ids (B,), on the host, or inputs (B, D) and their index 0 .. N-1;
        what holds when it raises is said at `Decoder`.

    Raises ValueError or TypeError for prompts that are empty or have ids outside the vocabulary,
    and for options of the other form.
    """
    max_new_tokens = integer("max_new_tokens", max_new_tokens)
    if max_new_tokens < 0:
        raise ValueError(f"expected max_new_tokens >= 0, got {max_new_tokens}")
    options: CacheOptions = {
        "plan": plan, "impl": impl, "fill_stream": fill_stream, "spectra_dtype": spectra_dtype,
    }  # fmt: skip
    if isinstance(model, Tensor):
        if sampler is not None or stop_ids:
            raise ValueError("sampler and stop_ids need a model; filters take next_input")
        if cuda_graph:
            raise ValueError("cuda_graph needs a model: next_input could not be captured")
        if not isinstance(prompt, Tensor):
            raise TypeError(f"expected prompt (B, D, P), got {type(prompt).__name__}")
        bar = tqdm(total=max_new_tokens, unit="tok", disable=not progress, leave=False)
        with torch.no_grad(), bar:
            return _decode_filters(
                model, prompt, max_new_tokens, lengths, next_input or _identity, options, bar,
                callback,
            )  # fmt: skip
    if next_input is not None:
        raise ValueError("next_input needs filters; a model takes a sampler")
    if isinstance(model, Decoder):
        given = {**options, "impl": None if impl == "auto" else impl, "cuda_graph": cuda_graph}
        names = [name for name, value in given.items() if value is not None]
        if names:
            raise ValueError(f"the decoder has been made: {', '.join(names)} belong to its making")
        decoder = model
    else:
        ids, lengths = pad(prompt, lengths)
        prompt = ids
        if cuda_graph is None and fill_stream is not None:
            cuda_graph = False
        room = max(max_new_tokens, 1)
        decoder = Decoder(model, len(ids), room, cuda_graph=cuda_graph, **options)
    return decoder(
        prompt, max_new_tokens, sampler=sampler, lengths=lengths, stop_ids=stop_ids, pad_id=pad_id,
        progress=progress, callback=callback,
    )  # fmt: skip


def _decode_filters(
    h: Tensor,
    prompt: Tensor,
    steps: int,
    lengths: Tensor | Sequence[int] | None,
    next_input: Callable[[Tensor], Tensor],
    options: CacheOptions,
    bar: tqdm,
    callback: Callback | None,
) -> Tensor:
    """h: (G, L). prompt: (B, D, P). Returns (B, D, N)."""
    if prompt.ndim != 3 or 0 in prompt.shape:
        raise ValueError(f"expected prompt (B, D, P), not empty, got {tuple(prompt.shape)}")
    batch, channels, width = prompt.shape
    valid = valid_lengths(lengths, batch, width)
    new = prompt.new_empty(batch, channels, steps)
    if steps == 0:
        return new
    cache = FutureFillCache(
        h.detach(), batch, steps, channels=channels, dtype=prompt.dtype, **options
    )
    y = cache.prefill(prompt.detach(), lengths=valid)
    y_t = y[list(range(batch)), :, [n - 1 for n in valid]]  # (B, D)
    for t in range(steps):
        u_t = next_input(y_t)
        new[:, :, t] = u_t
        bar.update()
        if callback is not None:
            callback(u_t, t)
        if t + 1 < steps:
            y_t = cache.step(u_t)
    return new


def _identity(y_t: Tensor) -> Tensor:
    return y_t
