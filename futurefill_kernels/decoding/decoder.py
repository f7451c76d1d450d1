"""Decoder: a model made ready for generations, one request after the other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain
from threading import Lock
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..checks import check_module, integer
from ..nn.changes import describe
from ..nn.parallel.agreement import alike
from ..plan import Plan
from . import graphs
from .endings import Detokenize, Rows, Stop, make_ending
from .interrupts import Interrupts
from .long_convs import ModelOptions
from .model_cache import DecodingCache
from .outputs import last_logits, logits_of, takes_positions
from .over_ranks import describe_request, same_call, tell_errors
from .request import Callback, Request, RequestOptions, make_request
from .sampling import Sampler, greedy
from .token_loop import TokenLoop

if TYPE_CHECKING:
    from typing_extensions import Unpack


class Decoder:
    """Generates with a model; state, packed weights and graphs are made once and kept.

    model: a module called as ``model(ids, cache=cache)`` whose mixers are ff.nn modules. It returns
        logits (B, T, V), an object with ``.logits`` or a tuple that begins with them. After a
        prompt one position is read: ff.nn.LanguageModel makes no other logits, and a forward that
        takes ``logits_to_keep`` is told of the positions.
        Parameters and buffers that have changed, hooks, patched forwards and the mode of training
        are noticed at the next request, which then makes everything anew (not what is written
        through ``.data``).
    batch_size: the most prompts of a request, ``B``. max_new_tokens: the most new tokens, ``N``.
    plan, impl, spectra_dtype, rollback, state_dtype, filters_dtype, memory, keep_prompt_spectra: as
        in `DecodingCache`.
    cuda_graph: a token is one replay of a CUDA graph: embedding of the token before, layers,
        logits, sampling, stops, store. Default: where that is possible; True: RuntimeError with the
        reasons where it is not. A sampler of one's own runs behind the graph.
    fill_stream: as in `FutureFillCache`, for tokens without a graph (cuda_graph=False).

    Raises what `DecodingCache` raises.
    """

    def __init__(
        self,
        model: nn.Module,
        batch_size: int,
        max_new_tokens: int,
        *,
        plan: Plan | None = None,
        impl: str = "auto",
        cuda_graph: bool | None = None,
        fill_stream: torch.cuda.Stream | None = None,
        spectra_dtype: torch.dtype | None = None,
        rollback: int | None = 0,
        state_dtype: torch.dtype | None = None,
        filters_dtype: torch.dtype | None = None,
        memory: str = "speed",
        keep_prompt_spectra: bool = False,
    ) -> None:
        if fill_stream is not None and cuda_graph is not False:
            raise ValueError(
                "fill_stream gains nothing in a token graph: the sums over older inputs are its "
                "first node, and fills are launched between replays; expected cuda_graph=False "
                "with it"
            )
        check_module(model)
        self.model, self.batch_size, self.max_new_tokens = model, batch_size, max_new_tokens
        self._options: ModelOptions = {
            "plan": plan, "impl": impl, "fill_stream": fill_stream, "spectra_dtype": spectra_dtype,
            "rollback": rollback, "state_dtype": state_dtype, "filters_dtype": filters_dtype,
            "memory": memory, "keep_prompt_spectra": keep_prompt_spectra,
        }  # fmt: skip
        self._cuda_graph = cuda_graph
        self._free = Lock()
        self._make()

    @property
    def cache(self) -> DecodingCache:
        """The state. After a request: prompts and all new tokens but the last; unused rows hold
        padding. Made anew when the model has changed.
        """
        return self._cache

    def __call__(
        self,
        prompt: Tensor | Sequence[Tensor],
        max_new_tokens: int | None = None,
        *,
        sampler: Sampler | None = None,
        lengths: Tensor | Sequence[int] | None = None,
        attention_mask: Tensor | None = None,
        stop_ids: Sequence[int] = (),
        stop: Stop | None = None,
        detokenize: Detokenize | None = None,
        pad_id: int = 0,
        progress: bool = False,
        callback: Callback | None = None,
    ) -> Tensor:
        """New ids (R, N) int64 after prompts (R, P), or a list of (P_r,), R at most batch_size.

        max_new_tokens: ``N``, default and at most the decoder's. The rest as in `decode`.

        When the callback for token ``t`` runs, token ``t + 1`` may have been computed; it is
        neither returned nor reported if all rows end, the callback raises or returns True, or
        Ctrl-C comes (which waits for the end of a token). ``cache`` then holds everything that was
        reported but its last token, and the decoder takes the next request. A row that `stop` ends
        before others goes on unseen there.

        RuntimeError while another request is running, in its callback or another thread.
        """
        request = self._agreed(
            prompt, max_new_tokens, sampler=sampler, lengths=lengths,
            attention_mask=attention_mask,
            ending=make_ending(stop_ids, stop, detokenize, pad_id), progress=progress,
            callback=callback,
        )  # fmt: skip
        if request.steps == 0:
            return request.ids.new_empty(len(request.ids), 0)
        self._begin()
        try:
            with torch.inference_mode(False), torch.no_grad():
                logits = self._prompts(request)
                new = self._loop.run(request, logits).to(request.ids.device)
                self._ended()
                return new
        finally:
            self._free.release()

    def iterate(
        self,
        prompt: Tensor | Sequence[Tensor],
        max_new_tokens: int | None = None,
        *,
        sampler: Sampler | None = None,
        lengths: Tensor | Sequence[int] | None = None,
        attention_mask: Tensor | None = None,
        stop_ids: Sequence[int] = (),
        stop: Stop | None = None,
        detokenize: Detokenize | None = None,
        pad_id: int = 0,
    ) -> Iterator[Tensor]:
        """The new ids (R,) of every token, on the host, as they come; arguments as in a call.

        The request begins with the first of them and lasts until the iterator is used up or closed
        (``break`` closes one that nobody else holds), which leaves the cache as an end by a
        callback does.
        """
        request = self._agreed(
            prompt, max_new_tokens, sampler=sampler, lengths=lengths,
            attention_mask=attention_mask,
            ending=make_ending(stop_ids, stop, detokenize, pad_id), progress=False, callback=None,
        )  # fmt: skip
        return self._iterate(replace(request, streamed=True))

    def _iterate(self, request: Request) -> Iterator[Tensor]:
        if request.steps == 0:
            return
        self._begin()
        try:
            with torch.inference_mode(False), torch.no_grad():
                logits = self._prompts(request)
            rows = Rows(request.ending, len(request.ids))
            tokens = self._loop.tokens(request, logits, rows)
            try:
                while True:
                    # modes and Ctrl-C's handler are not to reach the caller's code
                    with torch.inference_mode(False), torch.no_grad(), Interrupts():
                        ids = next(tokens, None)
                    if ids is None:
                        break
                    try:
                        yield ids
                    except GeneratorExit:  # the caller has seen enough
                        break
            finally:
                with torch.inference_mode(False), torch.no_grad():
                    tokens.close()
            self._ended()
        finally:
            self._free.release()

    def _agreed(
        self,
        prompt: Tensor | Sequence[Tensor],
        max_new_tokens: int | None,
        *,
        sampler: Sampler | None,
        **options: Unpack[RequestOptions],
    ) -> Request:
        """The request; over ranks the same on all, or a ValueError on all."""

        def make() -> Request:
            return self._request(prompt, max_new_tokens, sampler=sampler, **options)

        def describe_all(request: Request) -> dict[str, Any]:
            changed = describe(self.model, self._device) != self._made_of
            return describe_request(request) | {"answer to whether the model has changed": changed}

        ranks = self._cache.ranks
        request = alike(ranks, make, describe_all)
        return request if ranks is None else tell_errors(ranks, request)

    def _ended(self) -> None:
        """A request has ended with an answer, on all ranks at the same token or in an error."""
        ranks, taken = self._cache.ranks, self._cache.positions.tolist()
        if ranks is not None:
            name = "the end of a request (a callback, a stop or its caller said so)"
            same_call(ranks, name, taken, lambda: None, lambda _: {})

    def _request(
        self,
        prompt: Tensor | Sequence[Tensor],
        max_new_tokens: int | None,
        *,
        sampler: Sampler | None,
        **options: Unpack[RequestOptions],
    ) -> Request:
        """The request, checked; options as `make_request` takes them."""
        steps = self.max_new_tokens
        if max_new_tokens is not None:
            steps = integer("max_new_tokens", max_new_tokens)
        if not 0 <= steps <= self.max_new_tokens:
            raise ValueError(
                f"expected max_new_tokens in 0 .. {self.max_new_tokens}, which the decoder has "
                f"room for, got {steps}"
            )
        chosen = greedy if sampler is None else sampler
        request = make_request(self.model, prompt, steps, sampler=chosen, **options)
        if len(request.ids) > self.batch_size:
            raise ValueError(
                f"expected at most batch_size = {self.batch_size} prompts, got {len(request.ids)}"
            )
        if self._cuda_graph:
            _refuse(graphs.cannot_capture_sampler(request.sampler))
        return request

    def _begin(self) -> None:
        if not self._free.acquire(blocking=False):
            raise RuntimeError(
                "the decoder is inside another request; expected one at a time, or a second Decoder"
            )

    def _prompts(self, request: Request) -> Tensor:
        """Feed the prompts, after everything was made anew if the model is another. Returns logits
        (B, V) after each of them.
        """
        if describe(self.model, self._device) != self._made_of:
            self._make()
        self._cache.reset()
        try:
            return self._feed(request)
        except BaseException:
            self._cache.reset()
            raise

    @torch.inference_mode(False)
    def _make(self) -> None:
        """Everything that depends on the model's weights."""
        tensors = chain(self.model.parameters(), self.model.buffers())
        device = next((t.device for t in tensors), torch.device("cpu"))
        cache = DecodingCache(self.model, self.batch_size, self.max_new_tokens, **self._options)
        reasons = graphs.cannot_capture(cache, device)
        if self._cuda_graph:
            _refuse(reasons)
        captured = None if reasons or self._cuda_graph is False else graphs.CudaGraphs(device)
        self._cache, self._device = cache, device
        self._loop = TokenLoop(self.model, cache, device, captured)
        self._made_of = describe(self.model, device)

    def _feed(self, request: Request) -> Tensor:
        model, cache, rows = self.model, self._cache, len(request.ids)
        ids, valid = request.ids.to(self._device), request.lengths
        options: dict[str, Any] = {}
        kept: list[int] | None = None
        if takes_positions(model):
            kept = sorted({n - 1 for n in valid})
            options["logits_to_keep"] = torch.tensor(kept, device=self._device)
        with cache.select(rows=range(rows), lengths=valid, last=True):
            output = model(ids, cache=cache, **options)
        logits = last_logits(logits_of(output), valid, kept)
        if rows < self.batch_size:
            unused = range(rows, self.batch_size)
            padding = request.ids.new_full((len(unused), 1), request.ending.pad_id)
            with cache.select(rows=unused, lengths=[1] * len(unused)):
                output = model(padding.to(self._device), cache=cache)
            logits = torch.cat([logits, logits_of(output)[:, 0]])
        return logits


def _refuse(reasons: list[str]) -> None:
    if reasons:
        raise RuntimeError("the token cannot be captured: " + "; ".join(reasons))
