"""The loop over the tokens of a request: launched one by one, or one graph replay each."""

from __future__ import annotations

from collections.abc import Callable, Generator, Hashable
from contextlib import AbstractContextManager, closing, nullcontext

import torch
from torch import Tensor, nn
from tqdm import tqdm

from .endings import Rows
from .graphs import Graphs, cannot_capture_sampler, uncached_casts
from .host_tail import HostTail
from .interrupts import Interrupts
from .model_cache import DecodingCache
from .outputs import logits_of
from .request import Request
from .results import Results
from .sampling import graph_key
from .tail import Tail

#: Graphs that are kept: one for each kind of sampler, with and without stops, those used last.
_GRAPHS = 8


class TokenLoop:
    """Tokens of a model and its cache, one request after the other.

    device: of the model. graphs: how tokens are captured; None launches each of them from the host.
    A graph holds the embedding of the token before, the layers, the logits and the `Tail`; a
    sampler that cannot be captured runs behind it, with the rest of the tail. Fills are launched
    between replays.

    With graphs the host is one token ahead of what it looks at. A request that ends by a stop id or
    an exception takes back the token that it has begun, so the cache is left the same either way:
    everything but the newest token that was reported has been fed.
    """

    def __init__(
        self, model: nn.Module, cache: DecodingCache, device: torch.device, graphs: Graphs | None
    ) -> None:
        self._model, self._cache, self._device, self._graphs = model, cache, device, graphs
        rows, length = cache.batch_size, cache.max_new_tokens
        on_host = graphs is None and device.type == "cpu"
        self._tail: HostTail | Tail
        self._tail = HostTail(rows, length) if on_host else Tail(rows, length, device)
        self._cuda = device.type == "cuda"
        self._results = Results(self._tail.stored, self._cuda)
        self._captured: dict[Hashable, _CapturedToken] = {}
        self._open = False  # whether there is a token to take back

    def run(self, request: Request, logits: Tensor) -> Tensor:
        """The tokens of a request whose prompt is in the cache.

        logits: (B, V), of the last token of every prompt. Returns (R, N).
        """
        rows = Rows(request.ending, len(request.ids))
        bar = tqdm(total=request.steps, unit="tok", disable=not request.progress, leave=False)
        with bar, Interrupts() as interrupts, closing(self.tokens(request, logits, rows)) as tokens:
            count = 0
            for index, ids in enumerate(tokens):
                count = index + 1
                bar.update()
                if request.callback is not None and ids is not None:
                    with interrupts.at_once():
                        ended = request.callback(ids, index)
                    if ended is True:
                        break
                interrupts.check()
        new = self._tail.stored.new_full((len(request.ids), request.steps), request.ending.pad_id)
        new[:, :count] = self._tail.stored[:count, : len(request.ids)].T
        for row, n in enumerate(rows.counts):
            new[row, n:] = request.ending.pad_id
        return new

    def tokens(
        self, request: Request, logits: Tensor, rows: Rows
    ) -> Generator[Tensor | None, None, None]:
        """Make the tokens of a request, one by one, until all rows have ended.

        Gives new ids (R,) on the host, or None where nobody watches. Closed early it takes back the
        token that has begun.
        """
        token = self._launch if self._graphs is None else self._replay(request, self._graphs)
        self._open = False
        self._tail.begin(request, logits.shape[-1])
        try:
            with self._on_device():
                self._tail.prepare(0)
                self._tail(logits)
                self._send(request, 0)
            for t in range(1, request.steps):
                # one that is launched begins when the one before was seen, a replay before it is
                if self._graphs is None:
                    yield self._receive(request, t - 1, rows)
                    if rows.ended:
                        return
                with self._on_device():
                    self._tail.prepare(t)
                    token()
                    self._send(request, t)
                if self._graphs is not None:
                    yield self._receive(request, t - 1, rows)
                    if rows.ended:
                        self._take_back()
                        return
            with self._on_device():
                self._finish()
            yield self._receive(request, request.steps - 1, rows)
        except BaseException:
            self._take_back()
            raise

    def _on_device(self) -> AbstractContextManager[object]:
        return torch.cuda.device(self._device) if self._cuda else nullcontext()

    def _send(self, request: Request, index: int) -> None:
        """A token has been launched."""
        if request.watched:
            self._results.send(index)

    def _receive(self, request: Request, index: int, rows: Rows) -> Tensor | None:
        """What the rows see of a token."""
        if not request.watched:
            return None
        return rows.see(self._results.receive(index))

    def _launch(self) -> None:
        """A token from the host; the cache keeps its books."""
        self._open = True
        logits = self._model(self._tail.ids, cache=self._cache)
        self._open = False
        self._tail(logits_of(logits).select(1, -1))

    def _replay(self, request: Request, graphs: Graphs) -> Callable[[], None]:
        """A token as a replay. Its books stay open until the next one begins."""
        assert isinstance(self._tail, Tail)
        whole = not cannot_capture_sampler(request.sampler)
        key = (graph_key(request.sampler), bool(request.ending.stop_ids)) if whole else None
        captured = self._captured.pop(key, None)
        if captured is None:
            if len(self._captured) == _GRAPHS:
                if self._cuda:  # its last replay may be under way
                    torch.cuda.synchronize(self._device)
                del self._captured[next(iter(self._captured))]
            tail = self._tail if whole else None
            captured = _CapturedToken(self._model, self._cache, self._tail.ids, tail, graphs)
        self._captured[key] = captured  # the one used last stands last

        def token() -> None:
            self._finish()
            self._cache.begin_token()
            self._open = True
            captured()
            if not whole:
                self._tail(captured.logits)

        return token

    def _finish(self) -> None:
        if self._open:
            self._cache.finish_token()
            self._open = False

    def _take_back(self) -> None:
        """The token that has begun, if there is one, when everything that was launched is over."""
        if self._cuda:
            torch.cuda.synchronize(self._device)
        if self._open:
            self._open = False
            self._cache.abort()


class _CapturedToken:
    """A token of the model on ids (B, 1), and the tail if it is given, as one graph.

    The first call launches it, so that kernels are compiled and loaded; the second captures it.
    """

    def __init__(
        self,
        model: nn.Module,
        cache: DecodingCache,
        ids: Tensor,
        tail: Tail | None,
        graphs: Graphs,
    ) -> None:
        self.logits = ids.new_empty(0)  # (B, V) of the newest token
        self._model, self._cache, self._ids, self._tail = model, cache, ids, tail
        self._graphs = graphs
        self._warm = False
        self._replay: Callable[[], None] | None = None

    def __call__(self) -> None:
        if not self._warm:
            self._graphs.warm(self._launch)
            self._warm = True
            return
        if self._replay is None:
            self._replay = self._graphs.capture(self._launch)
        self._replay()

    def _launch(self) -> None:
        with uncached_casts(), self._cache.capture():
            self._cache.sum_history(self._graphs.side)
            self.logits = logits_of(self._model(self._ids, cache=self._cache))[:, -1]
            if self._tail is not None:
                self._tail(self.logits, self._cache.draw_greedy)
