"""Serving: requests of any length come and go in the rows of one cache while the others go on.

    python examples/serving.py

A new request waits for a free row. Its prompt is read in chunks, one between two tokens of the
other rows, which so wait for a chunk at most, however long the prompt is. A row is free again after
the request's last token. Work per token is done on tensors for all rows at once.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

import futurefill_kernels as ff


@dataclass(frozen=True)
class Request:
    """prompt: (P,) int64. max_new_tokens: at least 1."""

    prompt: Tensor
    max_new_tokens: int


@torch.no_grad()
def serve(
    model: nn.Module,
    requests: Iterable[Request],
    *,
    rows: int = 16,
    max_new_tokens: int = 256,
    chunk: int = 64,
    stop_id: int = -1,
) -> Iterator[tuple[Request, Tensor]]:
    """Finished requests with their new ids (n,), in the order in which they end; greedy.

    rows: requests at a time. max_new_tokens: the most of a request. chunk: prompt tokens that are
    read between two tokens. stop_id: ends a request, as its last id.
    """
    cache = ff.DecodingCache(model, rows, max_new_tokens)
    waiting, free = iter(requests), list(range(rows))
    asked: dict[int, Request] = {}
    new = torch.zeros(
        rows, max_new_tokens, dtype=torch.int64, device=next(model.parameters()).device
    )
    active = new.new_empty(0)  # rows that are past their prompt
    count, limit = new.new_zeros(rows), new.new_zeros(rows)
    reading, read = -1, 0  # the row whose prompt is being read, and how much of it

    def store(where: Tensor, logits: Tensor) -> None:
        """The next id of rows (R,) from logits (R, V)."""
        new[where, count[where]] = logits.argmax(-1)
        count[where] += 1

    while True:
        if reading < 0 and free and (request := next(waiting, None)) is not None:
            reading, read = free.pop(), 0
            asked[reading], count[reading], limit[reading] = request, 0, request.max_new_tokens
        if not asked:
            return
        if reading >= 0:
            part = asked[reading].prompt[read : read + chunk].to(new.device)
            with cache.select(rows=[reading], lengths=[len(part)]):
                logits = model(part[None], cache=cache)
            read += len(part)
            if read == len(asked[reading].prompt):
                active = torch.cat([active, active.new_tensor([reading])])
                store(active[-1:], logits[:, -1])
                reading = -1
        newest = new[active, count[active] - 1]
        ended = (count[active] == limit[active]) | (newest == stop_id)
        if ended.any():
            for row in active[ended].tolist():
                yield asked.pop(row), new[row, : count[row]].clone()
                free.append(row)
            cache.reset(active[ended])
            active, newest = active[~ended], newest[~ended]
        if len(active):
            with cache.select(rows=active):
                store(active, model(newest[:, None], cache=cache)[:, -1])


def main(argv: Sequence[str] | None = None) -> None:
    """Pieces of this file as prompts of the shipped model, short and long."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=24)
    parser.add_argument("--longest", type=int, default=200, help="of prompts and of new text")
    args = parser.parse_args(argv)
    model = ff.nn.load_model()
    text = torch.tensor(list(Path(__file__).read_bytes()))
    draw = random.Random(0)
    requests = []
    for _ in range(args.requests):
        length, most = draw.randint(1, args.longest), draw.randint(1, args.longest)
        begin = draw.randrange(len(text) - length)
        requests.append(Request(text[begin : begin + length], most))
    start, tokens = time.perf_counter(), 0
    for request, ids in serve(model, requests, max_new_tokens=args.longest):
        tokens += len(ids)
        print(f"{len(request.prompt):4} -> {len(ids):4}  {bytes(ids.tolist())[:50]!r}")
    print(f"{tokens} tokens, {tokens / (time.perf_counter() - start):.0f} per second")


if __name__ == "__main__":
    main()
