"""Requests over processes: each holds the whole model and takes the next request from one queue.

    python -m torch.distributed.run --standalone --nproc-per-node 2 examples/data_parallel.py

The queue is a counter in torch's key-value store, which hands every number to one process; results
come together at the end. A process that is slow takes fewer requests. Where the model itself is
too large for one device, its channels are cut over ranks instead (docs/scaling.md).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from datetime import timedelta

import torch
from torch import Tensor, distributed, nn

import futurefill_kernels as ff

#: What a process waits for the others, at the start and at the end.
TIME_OUT = timedelta(minutes=10)


def numbers(store: distributed.Store, count: int) -> Iterator[int]:
    """0 .. count-1, each given to one of the processes that share the store."""
    while (number := store.add("next request", 1) - 1) < count:
        yield number


def serve(
    model: nn.Module,
    prompts: Sequence[Tensor],
    max_new_tokens: int,
    store: distributed.Store,
    *,
    temperature: float = 0.7,
) -> list[tuple[int, Tensor]]:
    """This process's part: numbers of requests and their new ids (n,).

    prompts: (P,) of every request, the same list in every process. A request draws with its number
    as seed, so that it gets the same ids whoever takes it.
    """
    decoder = ff.Decoder(model, 1, max_new_tokens)
    found = []
    for number in numbers(store, len(prompts)):
        sampler = ff.RandomSampler(temperature, seed=number)
        found.append((number, decoder([prompts[number]], sampler=sampler)[0]))
    return found


def collect(found: list[tuple[int, Tensor]]) -> list[Tensor] | None:
    """All results in the order of the requests, in the first process; None in the others."""
    first = distributed.get_rank() == 0
    parts = [None] * distributed.get_world_size() if first else None
    distributed.gather_object(found, parts)
    if parts is None:
        return None
    return [ids for _, ids in sorted(pair for part in parts for pair in part)]


def main() -> None:
    """Continue some texts with the shipped model."""
    distributed.init_process_group("gloo", timeout=TIME_OUT)
    store = distributed.TCPStore(
        os.environ["MASTER_ADDR"],
        int(os.environ["MASTER_PORT"]),
        distributed.get_world_size(),
        is_master=False,
        timeout=TIME_OUT,
    )
    texts = [f"def f{i}(" for i in range(8)] + ["import ", "class "]
    prompts = [torch.tensor(list(text.encode())) for text in texts]
    found = serve(ff.nn.load_model(), prompts, 32, distributed.PrefixStore("requests", store))
    print(f"process {distributed.get_rank()}: {len(found)} of {len(prompts)} requests", flush=True)
    results = collect(found)
    for text, ids in zip(texts, results or [], strict=False):
        print(repr(text + bytes(ids.tolist()).decode(errors="replace")))
    distributed.destroy_process_group()


if __name__ == "__main__":
    main()
