"""decode(): generate from a model, or from bare filters, one exact step after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn
from tqdm import tqdm

from ..cache.cache import FutureFillCache
from ..cache.chunk import TOKENS, NextInput
from ..checks import integer, valid_lengths
from ..plan import Plan
from .decoder import Decoder
from .endings import Detokenize, Stop
from .long_convs import CacheOptions
from .request import Callback, pad
from .sampling import Sampler


def decode(
    model: nn.Module | Decoder | Tensor,
    prompt: Tensor | Sequence[Tensor],
    max_new_tokens: int,
    *,
    sampler: Sampler | None = None,
    next_input: Callable[[Tensor], Tensor] | NextInput | None = None,
    lengths: Tensor | Sequence[int] | None = None,
    attention_mask: Tensor | None = None,
    stop_ids: Sequence[int] = (),
    stop: Stop | None = None,
    detokenize: Detokenize | None = None,
    pad_id: int = 0,
    plan: Plan | None = None,
    impl: str = "auto",
    cuda_graph: bool | None = None,
    fill_stream: torch.cuda.Stream | None = None,
    spectra_dtype: torch.dtype | None = None,
    state_dtype: torch.dtype | None = None,
    filters_dtype: torch.dtype | None = None,
    memory: str = "speed",
    progress: bool = False,
    callback: Callback | None = None,
) -> Tensor:
    """Generate ``max_new_tokens`` after a prompt; no gradients.

    model: a module called as ``model(ids, cache=cache)``, which returns logits (B, T, V) or an
        object with ``.logits``, and whose mixers are ff.nn modules, or a `Decoder` of one, which
        is kept; prompt ids (B, P) or a list of (P_b,), returns new ids (B, N) int64.
        Or filters (D, L) or (G, L), tap 0 multiplies the newest input; prompt (B, D, P), returns
        the generated inputs (B, D, N), ``u_{t+1} = next_input(y_t)`` with y_t (B, D).
    sampler: logits (B, V) -> ids (B,), or a `RandomSampler`; default greedy. next_input: a function
        (B, D) -> (B, D), or "identity", the default, or "relu". On the CPU no Python runs between
        the steps of these two, but for a callback or a plan with slack.
    lengths: (B,) valid positions of right-padded prompts. attention_mask: (B, P), nonzero where
        prompts are, of prompts padded on any side.
    stop_ids: a row ends with the first of these; the rest of it is pad_id.
    stop: a row ends, too, with the last id of the first of these sequences: of ids (of bytes, for a
        model of bytes), or of characters of the text that detokenize(new ids of a row) gives.
    plan, impl, fill_stream, spectra_dtype, state_dtype, filters_dtype, memory: as in
        `FutureFillCache`. progress: show a bar on stderr.
    cuda_graph: as in `Decoder`; with a fill_stream the default is False.
    callback: called with the new ids (B,), on the host, or inputs (B, D) and their index 0 .. N-1;
        the generation ends where it returns True, and the rest is pad_id or zero. What holds then,
        and when it raises, is said at `Decoder`.

    Raises ValueError or TypeError for prompts that are empty or have ids outside the vocabulary,
    and for options of the other form.
    """
    max_new_tokens = integer("max_new_tokens", max_new_tokens)
    if max_new_tokens < 0:
        raise ValueError(f"expected max_new_tokens >= 0, got {max_new_tokens}")
    options: CacheOptions = {
        "plan": plan, "impl": impl, "fill_stream": fill_stream, "spectra_dtype": spectra_dtype,
        "state_dtype": state_dtype, "filters_dtype": filters_dtype, "memory": memory,
    }  # fmt: skip
    if isinstance(model, Tensor):
        if sampler is not None or stop_ids or stop or attention_mask is not None:
            raise ValueError(
                "sampler, stop_ids, stop and attention_mask need a model; filters take next_input"
            )
        if cuda_graph:
            raise ValueError("cuda_graph needs a model: next_input could not be captured")
        if not isinstance(prompt, Tensor):
            raise TypeError(f"expected prompt (B, D, P), got {type(prompt).__name__}")
        bar = tqdm(total=max_new_tokens, unit="tok", disable=not progress, leave=False)
        with torch.no_grad(), bar:
            return _decode_filters(
                model, prompt, max_new_tokens, lengths, next_input or "identity", options, bar,
                callback,
            )  # fmt: skip
    if next_input is not None:
        raise ValueError("next_input needs filters; a model takes a sampler")
    decoder = _decoder(model, prompt, max_new_tokens, lengths, cuda_graph, options)
    return decoder(
        prompt, max_new_tokens, sampler=sampler, lengths=lengths, attention_mask=attention_mask,
        stop_ids=stop_ids, stop=stop, detokenize=detokenize, pad_id=pad_id, progress=progress,
        callback=callback,
    )  # fmt: skip


def iterate(
    model: nn.Module | Decoder,
    prompt: Tensor | Sequence[Tensor],
    max_new_tokens: int,
    *,
    sampler: Sampler | None = None,
    lengths: Tensor | Sequence[int] | None = None,
    attention_mask: Tensor | None = None,
    stop_ids: Sequence[int] = (),
    stop: Stop | None = None,
    detokenize: Detokenize | None = None,
    pad_id: int = 0,
    plan: Plan | None = None,
    impl: str = "auto",
    cuda_graph: bool | None = None,
    fill_stream: torch.cuda.Stream | None = None,
    spectra_dtype: torch.dtype | None = None,
    state_dtype: torch.dtype | None = None,
    filters_dtype: torch.dtype | None = None,
    memory: str = "speed",
) -> Iterator[Tensor]:
    """The new ids (B,) of every token after a prompt, on the host, as they come.

    Arguments as in `decode`. The iterator may be left at any token. What is wrong with the
    arguments is raised by this call.
    """
    max_new_tokens = integer("max_new_tokens", max_new_tokens)
    if max_new_tokens < 0:
        raise ValueError(f"expected max_new_tokens >= 0, got {max_new_tokens}")
    options: CacheOptions = {
        "plan": plan, "impl": impl, "fill_stream": fill_stream, "spectra_dtype": spectra_dtype,
        "state_dtype": state_dtype, "filters_dtype": filters_dtype, "memory": memory,
    }  # fmt: skip
    decoder = _decoder(model, prompt, max_new_tokens, lengths, cuda_graph, options)
    return decoder.iterate(
        prompt, max_new_tokens, sampler=sampler, lengths=lengths, attention_mask=attention_mask,
        stop_ids=stop_ids, stop=stop, detokenize=detokenize, pad_id=pad_id,
    )  # fmt: skip


def _decoder(
    model: nn.Module | Decoder,
    prompt: Tensor | Sequence[Tensor],
    max_new_tokens: int,
    lengths: Tensor | Sequence[int] | None,
    cuda_graph: bool | None,
    options: CacheOptions,
) -> Decoder:
    """The decoder that was given, or one for this request."""
    if isinstance(model, Decoder):
        usual = {"impl": "auto", "memory": "speed"}
        given = {**options, "cuda_graph": cuda_graph}
        names = [name for name, value in given.items() if value != usual.get(name)]
        if names:
            raise ValueError(f"the decoder has been made: {', '.join(names)} belong to its making")
        return model
    if not isinstance(model, nn.Module):
        raise TypeError(f"expected model to be a module or a Decoder, got {type(model).__name__}")
    ids, _ = pad(prompt, lengths)
    if cuda_graph is None and options["fill_stream"] is not None:
        cuda_graph = False
    return Decoder(model, len(ids), max(max_new_tokens, 1), cuda_graph=cuda_graph, **options)


def _decode_filters(
    h: Tensor,
    prompt: Tensor,
    steps: int,
    lengths: Tensor | Sequence[int] | None,
    next_input: Callable[[Tensor], Tensor] | NextInput,
    options: CacheOptions,
    bar: tqdm,
    callback: Callback | None,
) -> Tensor:
    """h: (G, L). prompt: (B, D, P). Returns (B, D, N)."""
    if prompt.ndim != 3 or 0 in prompt.shape:
        raise ValueError(f"expected prompt (B, D, P), not empty, got {tuple(prompt.shape)}")
    if isinstance(next_input, str) and next_input not in _NAMED:
        names = " or ".join(map(repr, _NAMED))
        raise ValueError(f"expected next_input a function, {names}, got {next_input!r}")
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
    if isinstance(next_input, str):
        beside = options["fill_stream"] is not None or cache.plan.slack_from is not None
        if callback is None and not beside:
            u_t = new[..., 0] = _NAMED[next_input](y_t)
            bar.update()
            for t in range(1, steps, TOKENS):
                part = new[..., t : t + TOKENS]
                part[:] = cache.generate(u_t, part.shape[2], next_input)
                u_t = part[..., -1]
                bar.update(part.shape[2])
            return new
        next_input = _NAMED[next_input]
    for t in range(steps):
        u_t = next_input(y_t)
        new[:, :, t] = u_t
        bar.update()
        if callback is not None and callback(u_t, t) is True:
            new[:, :, t + 1 :] = 0
            break
        if t + 1 < steps:
            y_t = cache.step(u_t)
    return new


def _identity(y_t: Tensor) -> Tensor:
    return y_t


#: What may come between the steps without Python.
_NAMED: dict[str, Callable[[Tensor], Tensor]] = {"identity": _identity, "relu": torch.relu}
