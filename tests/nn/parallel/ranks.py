"""Processes that are the ranks of a mesh on the CPU, with gloo between them."""

from __future__ import annotations

import io
import multiprocessing
import traceback
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import distributed

#: Seconds that a collective may take; a busy machine starts processes late.
PATIENCE = 120


def on_ranks(n, function, *arguments, patience=PATIENCE):
    """``function(rank, *arguments)`` of every rank, results by rank.

    function: of a module, for the processes import it. What one raises comes back as its result;
    a process that ends by itself gives None.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.nn.parallel.preload"])
    with TemporaryDirectory() as folder:
        pipes, processes = [], []
        for rank in range(n):
            receive, send = context.Pipe(duplex=False)
            work = n, rank, folder, patience, function, arguments, send
            process = context.Process(target=_rank, args=work, daemon=True)
            process.start()
            send.close()
            pipes.append(receive)
            processes.append(process)
        found = []
        for pipe in pipes:
            try:
                found.append(torch.load(io.BytesIO(pipe.recv_bytes()), weights_only=False))
            except EOFError:
                found.append(None)
        for process in processes:
            process.join()
    return found


def results(n, function, *arguments):
    """The same, where a rank that raises fails the test."""
    found = on_ranks(n, function, *arguments)
    for rank, result in enumerate(found):
        assert not isinstance(result, BaseException), f"rank {rank}: {result}"
    return found


def _rank(n, rank, folder, patience, function, arguments, send):
    torch.set_num_threads(1)
    store = distributed.FileStore(str(Path(folder) / "store"), n)
    limit = timedelta(seconds=patience)
    distributed.init_process_group("gloo", store=store, rank=rank, world_size=n, timeout=limit)
    try:
        result = function(rank, *arguments)
    except Exception as error:
        traceback.print_exc()
        result = error
    written = io.BytesIO()  # torch's own way of sending tensors needs the process to stay
    torch.save(result, written)
    send.send_bytes(written.getvalue())
    distributed.destroy_process_group()
