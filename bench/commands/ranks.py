"""Tokens of a model over 1, 2, 4 ... processes of this machine, with gloo, in turns."""

from __future__ import annotations

import argparse
import multiprocessing
import time
from collections.abc import Sequence
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import distributed, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    parallelize_module,
)

import futurefill_kernels as ff
from futurefill_kernels.nn.language_model import LanguageModel, LanguageModelConfig
from futurefill_kernels.nn.parallel.agreement import alike
from futurefill_kernels.nn.parallel.linear import Columns, Rows
from futurefill_kernels.planning.rank_plan import ModelSizes

from ..harness.timing import Times

#: Of the logits' largest, between numbers of ranks: another order of float32 sums.
_TOLERANCE = 1e-4
_PAIRS = ("plain tensors", "DTensors")
_PATIENCE = timedelta(seconds=300)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``ranks``."""
    parser.add_argument("--counts", default="1,2,4", help="numbers of ranks; 1 comes first")
    parser.add_argument("--tokens", type=int, default=64, help="tokens of a turn")
    parser.add_argument("--repeats", type=int, default=7)


def run(args: argparse.Namespace) -> None:
    """Check logits against those of one process, then time tokens and sums in turns."""
    counts = [int(n) for n in args.counts.split(",")]
    if counts[0] != 1 or sorted(set(counts)) != counts:
        raise ValueError(f"expected --counts from 1 on and rising, got {args.counts}")
    shapes, tokens, repeats = args.shapes or [(1, 768, 4096)], args.tokens, args.repeats
    if args.quick:
        shapes, counts, tokens, repeats = [(1, 32, 64)], [1, 2], 4, 1
    for batch, channels, length in shapes:
        config = LanguageModelConfig(256, length, channels, 2, 3 * channels)
        found = _measure(config, counts, batch, tokens, repeats)
        sizes = ModelSizes(channels, 2, 3 * channels, 256, length, batch)
        common = {"B": batch, "D": channels, "L": length, "layers": 2, "dtype": torch.float32}
        first = Times(tuple(found[0]["token"]))
        plain, of_dtensors = (Times(tuple(found[0][x])) for x in _PAIRS)
        for name, times in zip(_PAIRS, (plain, of_dtensors), strict=True):
            args.report.add(
                name, **common, times=times, note="two linear maps and a sum over one rank",
                baseline=None if times is plain else (_PAIRS[0], plain),
            )  # fmt: skip
        for n, one in zip(counts, found, strict=True):
            times = Times(tuple(one["token"]))
            args.report.add(
                f"{n} rank{'s'[: n > 1]}", **common, times=times, tokens=batch, plan=one["plan"],
                impl="cpu", error=one["error"], tolerance=_TOLERANCE,
                baseline=("1 rank", first) if n > 1 else None, note="a token",
            )  # fmt: skip
            if n > 1:
                args.report.add(
                    f"{n} ranks, a sum alone", **common, times=Times(tuple(one["sum"])),
                    note="one of 5 sums of a token",
                )  # fmt: skip
                args.report.add(
                    f"{n} ranks, a comparison alone", **common,
                    times=Times(tuple(one["comparison"])), note="one of a token",
                )  # fmt: skip
            expected = sizes.weight_nbytes(n)
            state = sizes.state_nbytes(n, one["plan"], one["layout"], one["taps"])
            args.report.add(
                f"{n} rank{'s'[: n > 1]}, weights of one", **common, value=float(one["weights"]),
                unit="bytes", error=float(abs(one["weights"] - expected)), tolerance=0.0,
                quantity="weights",
            )  # fmt: skip
            args.report.add(
                f"{n} rank{'s'[: n > 1]}, state of one", **common, value=float(one["state"]),
                unit="bytes", error=float(abs(one["state"] - state)), tolerance=0.0,
                quantity="state and prepared filters",
            )  # fmt: skip


def _measure(
    config: LanguageModelConfig, counts: Sequence[int], batch: int, tokens: int, repeats: int
) -> list[dict[str, Any]]:
    """What the first rank says of every count."""
    context = multiprocessing.get_context("spawn")
    receive, send = context.Pipe(duplex=False)
    with TemporaryDirectory() as folder:
        work = (counts, folder, config, batch, tokens, repeats, send)
        processes = [
            context.Process(target=_rank, args=(rank, *work), daemon=True)
            for rank in range(counts[-1])
        ]
        for process in processes:
            process.start()
        send.close()
        try:
            found: list[dict[str, Any]] = receive.recv()
        except EOFError:
            raise RuntimeError("a rank ended before it had measured") from None
        for process in processes:
            process.join()
    return found


@torch.no_grad()
def _rank(
    rank: int,
    counts: Sequence[int],
    folder: str,
    config: LanguageModelConfig,
    batch: int,
    tokens: int,
    repeats: int,
    send: Connection,
) -> None:
    torch.set_num_threads(1)
    world = counts[-1]
    store = distributed.FileStore(str(Path(folder) / "store"), world)
    distributed.init_process_group(
        "gloo", store=store, rank=rank, world_size=world, timeout=_PATIENCE
    )
    pairs = _Pairs(config.channels)
    models = [_Model(n, rank, config, batch, tokens * repeats + 2) for n in counts]
    for model in models:
        model.logits = model.step() if rank < model.ranks else torch.empty(0)
        distributed.barrier()
    found: list[dict[str, Any]] = [{"token": [], "sum": [], "comparison": []} for _ in models]
    found[0] |= {name: [] for name in pairs.modules}
    for _ in range(repeats):
        if rank == 0:
            for name in pairs.modules:
                found[0][name].append(pairs.seconds(name, tokens))
        for model, one in zip(models, found, strict=True):
            if rank < model.ranks:
                one["token"].append(model.seconds(tokens))
                one["sum"].append(model.seconds_of_sums(batch * config.channels, 5 * tokens))
                one["comparison"].append(model.seconds_of_comparisons(tokens))
            distributed.barrier()  # the others wait without a core
    if rank == 0:
        for model, one in zip(models, found, strict=True):
            one |= model.facts(models[0].logits)
        send.send(found)
    distributed.barrier()
    distributed.destroy_process_group()


class _Pairs:
    """Two linear maps with a sum behind them, over one rank: ours, and torch's on DTensors."""

    def __init__(self, channels: int) -> None:
        mesh = DeviceMesh("cpu", torch.arange(1))
        self._x = torch.zeros(1, channels)
        self.modules: dict[str, nn.Module] = {}
        if distributed.get_rank() > 0:
            return
        for name, first, second in (
            (_PAIRS[0], Columns(), Rows()),
            (_PAIRS[1], ColwiseParallel(), RowwiseParallel()),
        ):
            pair = nn.Sequential(nn.Linear(channels, channels), nn.Linear(channels, channels))
            pair.requires_grad_(False)
            self.modules[name] = parallelize_module(pair, mesh, {"0": first, "1": second})

    def seconds(self, name: str, count: int) -> float:
        begin = time.perf_counter()
        for _ in range(count):
            self.modules[name](self._x)
        return (time.perf_counter() - begin) / count


class _Model:
    """A model over the first ranks of all, and its cache. Greedy tokens from one id on."""

    def __init__(
        self, ranks: int, rank: int, config: LanguageModelConfig, batch: int, steps: int
    ) -> None:
        self.ranks, self.logits = ranks, torch.empty(0)
        mesh = DeviceMesh("cpu", torch.arange(ranks))  # made by all, whoever is in it
        if rank >= ranks:
            return
        torch.manual_seed(0)
        self._model = LanguageModel(config).eval()
        if ranks > 1:
            parallelize_module(self._model, mesh, ff.nn.parallel_plan(self._model))
        self._group = mesh.get_group()
        self._cache = ff.DecodingCache(self._model, batch, steps, fused=False)
        self._ids = torch.arange(batch)[:, None]
        self._model(self._ids, cache=self._cache)

    def step(self) -> torch.Tensor:
        logits = self._model(self._ids, cache=self._cache)[:, -1]
        self._ids = logits.argmax(-1, keepdim=True)
        return logits

    def seconds(self, tokens: int) -> float:
        begin = time.perf_counter()
        for _ in range(tokens):
            self.step()
        return (time.perf_counter() - begin) / tokens

    def seconds_of_sums(self, entries: int, count: int) -> float:
        x = torch.zeros(entries)
        begin = time.perf_counter()
        for _ in range(count):
            distributed.all_reduce(x, group=self._group)
        return (time.perf_counter() - begin) / count

    def seconds_of_comparisons(self, count: int) -> float:
        at = {"positions": self._cache.positions.tolist()}
        begin = time.perf_counter()
        for _ in range(count):
            alike(self._cache.ranks, lambda: None, lambda _: at)
        return (time.perf_counter() - begin) / count

    def facts(self, first: torch.Tensor) -> dict[str, Any]:
        self._cache.reset()  # without what a call leaves until the next one
        state = self._cache.caches[0].state
        return {
            "plan": self._cache.plan,
            "layout": state.layout,
            "taps": state.filters.shape[2],
            "weights": sum(p.nbytes for p in self._model.parameters()),
            "state": self._cache.nbytes,
            "error": float((self.logits - first).abs().max() / first.abs().max()),
        }
