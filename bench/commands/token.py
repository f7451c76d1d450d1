"""Where a token of the shipped model goes: its parts on their own, and whole tokens beside them.

On the CPU a token is one program (``nn/token``). A part is the program's instructions of one kind,
all of them in turn; what whole tokens take beyond the parts is Python. The bound is 1.4 times what
one core needs to read as many bytes as the weights have, by summing a buffer, and the long
convolutions. The look at the model that every call begins with stands beside two things that cost
the same everywhere in proportion: the call of an empty method and the cheapest operation of torch.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

import futurefill_kernels as ff
from futurefill_kernels.nn import load_model
from futurefill_kernels.nn.changes import Snapshot
from futurefill_kernels.nn.token import program
from futurefill_kernels.nn.token.cpu import FusedToken
from futurefill_kernels.nn.token.streams import BoundStreams

from ..harness.models import weight_nbytes
from ..harness.rows import relative_error
from ..harness.timing import Times, measure

_DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in ff.checks.DTYPES}
_TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}
_Instruction = program.Instruction | program.StreamStep
_PARTS = {
    "norms": (program.Norm,), "short convolutions": (program.ShortConv,),
    "MLP gates": (program.Gate,),
    "embedding, copies": (program.Embed, program.Load, program.Store, program.Add),
}  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``token``."""
    parser.add_argument("--tokens", type=int, default=1024, help="of a generation")
    parser.add_argument("--batch-sizes", default="1,8,64")
    parser.add_argument("--dtypes", default="float32,bfloat16,float64", help="of the model")
    parser.add_argument("--repeats", type=int, default=5)


def run(args: argparse.Namespace) -> None:
    """Time the parts and the whole for every dtype and number of rows."""
    batches = [2] if args.quick else [int(b) for b in args.batch_sizes.split(",")]
    tokens, repeats = (32, 2) if args.quick else (args.tokens, args.repeats)
    for name in args.dtypes.split(","):
        for batch in batches:
            _Run(args, _DTYPES[name], batch, tokens).report(repeats)


@dataclass(frozen=True)
class _Run:
    args: argparse.Namespace
    dtype: torch.dtype
    batch: int
    tokens: int

    @torch.no_grad()
    def report(self, repeats: int) -> None:
        """Check a token against the parallel model, then time everything in turns."""
        model = load_model().to(self.dtype)
        cache = ff.DecodingCache(model, self.batch, self.tokens + 1, impl=self.args.impl)
        if not isinstance(cache.fused, FusedToken):
            reasons = "; ".join(cache.not_fused)
            self.args.report.add("token", B=self.batch, status=f"not fused: {reasons}")
            return
        ids = torch.tensor([list(b"def ")] * self.batch)
        error = self._error(model, cache, ids)
        sampled = ids[:, :1, None].expand(-1, -1, model.config.vocabulary).to(self.dtype)
        calls = {
            **self._parts(cache, ids[:, -1:]),
            "greedy sampling": lambda: sampled[:, -1].argmax(-1, keepdim=True),
        }
        calls["a look at the model"] = Snapshot({"": model}).same
        y = torch.zeros(8, dtype=torch.float32)
        scale = {"an empty method": _Empty().method, "y.add_(1)": lambda: y.add_(1)}
        decoder = ff.Decoder(model, self.batch, self.tokens, impl=self.args.impl)
        wholes = {"token": self._generation(model, cache, None)}
        wholes["model call"] = self._calls(model, cache)
        if self.batch > 1:
            rows = list(range(self.batch - 1))
            wholes["token of all but one row"] = self._generation(model, cache, rows)
        reading = _read(weight_nbytes(model))
        times = measure(
            {
                **{name: _many(call, self.tokens) for name, call in (calls | scale).items()},
                **wholes,
                "decode": lambda: decoder(ids[:, :1], self.tokens),
                "first": lambda: decoder(ids[:, :1], 1),
                "reading the weights": _on_one_core(_many(reading, self.tokens)),
            },
            device=self.args.device,
            repeats=repeats,
            before=dict.fromkeys(("long convolutions", *wholes), lambda: _prompted(model, cache)),
        )
        times = {name: found * (1 / self.tokens) for name, found in times.items()}
        empty = times.pop("an empty program")
        for name in calls.keys() - {"an empty program", "greedy sampling", "a look at the model"}:
            times[name] += empty * -1
        self._rows(cache, times, {"error": error, "tolerance": _TOLERANCE[self.dtype]})

    def _rows(
        self, cache: ff.DecodingCache, times: dict[str, Times], check: dict[str, float]
    ) -> None:
        config = load_model().config
        fields = {
            "B": self.batch, "D": config.channels, "L": self.tokens, "layers": config.layers,
            "dtype": self.dtype, "impl": cache.impl, "quantity": "us per token",
        }  # fmt: skip
        whole, reading = times["token"], times.pop("reading the weights")
        call, first = times.pop("model call"), times.pop("first")
        decode = (times.pop("decode") + first * -1.0) * (self.tokens / (self.tokens - 1))
        scale = {name: times.pop(name) for name in ("an empty method", "y.add_(1)")}
        less = times.pop("token of all but one row", None)
        parts = {name: found for name, found in times.items() if name != "token"}
        parts["Python, and the rest"] = whole
        for found in times.values():
            if found is not whole:
                parts["Python, and the rest"] += found * -1
        for name, found in parts.items():
            share = f"{100 * found.p50 / whole.p50:.0f}% of a token"
            self.args.report.add(name, **fields, value=1e6 * found.p50, note=share)
        for name, found in {**scale, "reading the weights": reading}.items():
            self.args.report.add(name, **fields, value=1e6 * found.p50)
        convs = times["long convolutions"]
        self.args.report.add(
            "token", **fields, **check, plan=cache.plan, times=whole, tokens=self.batch,
            value=1e6 * whole.p50,
            note=f"{whole.ratio(reading + convs):.2f} of reading the weights and the long "
            "convolutions",
        )  # fmt: skip
        self.args.report.add(
            "model call", **fields, times=call, tokens=self.batch, value=1e6 * call.p50,
            note=f"{call.ratio(reading * 1.4 + convs):.2f} of 1.4 times reading the weights, "
            "and the long convolutions",
        )  # fmt: skip
        self.args.report.add(
            "decode", **fields, times=decode, tokens=self.batch, value=1e6 * decode.p50,
            note=f"{decode.ratio(call):.2f} of bare model calls, after the first token",
        )  # fmt: skip
        self.args.report.add(
            "first token of decode", **(fields | {"quantity": "us"}),
            value=1e6 * first.p50 * self.tokens,
            note="a prompt of one token and the state made empty",
        )  # fmt: skip
        if less is not None:
            self.args.report.add(
                "token of all but one row", **fields, times=less, tokens=self.batch - 1,
                value=1e6 * less.p50, note=f"{less.ratio(whole):.2f} of a token of all rows",
            )  # fmt: skip

    def _error(self, model: ff.nn.LanguageModel, cache: ff.DecodingCache, ids: Tensor) -> float:
        model(ids[:, :1], cache=cache)
        got = torch.cat([model(ids[:, t : t + 1], cache=cache) for t in (1, 2, 3)], 1)
        return relative_error(got, copy.deepcopy(model).double()(ids)[:, 1:])

    def _parts(self, cache: ff.DecodingCache, ids: Tensor) -> dict[str, Callable[[], object]]:
        """The instructions of a token by kind; ids (B, 1)."""
        token = cache.fused
        assert isinstance(token, FusedToken)
        memory, progress = token.program.memory(), torch.zeros(1, dtype=torch.int64)
        places = memory.weights, memory.scratch, memory.io, progress
        op, ids = torch.ops.futurefill_kernels.token.default, ids.contiguous()

        streams = BoundStreams(cache.caches, memory.io)

        def call(instructions: Sequence[_Instruction]) -> Callable[[], object]:
            code = program.encode(instructions)

            def run(code: Tensor = code, streams: BoundStreams = streams) -> None:  # they live on
                op(code, ids, None, *places)

            return run

        everything = token.instructions(streams.addresses)
        products = [i for i in everything if isinstance(i, program.Dense)]
        kinds = {name: [i for i in everything if isinstance(i, k)] for name, k in _PARTS.items()}
        kinds |= {
            "projections": products[:-1], "output head": products[-1:],
            "long convolutions": [i for i in everything if isinstance(i, program.StreamStep)],
            "an empty program": [],
        }  # fmt: skip
        return {name: call(instructions) for name, instructions in kinds.items()}

    def _calls(self, model: ff.nn.LanguageModel, cache: ff.DecodingCache) -> Callable[[], object]:
        """Calls of the model and nothing else."""
        ids = torch.full((self.batch, 1), 32)

        def call() -> None:
            with torch.no_grad():
                for _ in range(self.tokens):
                    model(ids, cache=cache)

        return call

    def _generation(
        self, model: ff.nn.LanguageModel, cache: ff.DecodingCache, rows: list[int] | None
    ) -> Callable[[], object]:
        count = self.batch if rows is None else len(rows)

        def generate() -> None:
            ids = torch.full((count, 1), 32)
            with torch.no_grad(), cache.select(rows=rows):
                for _ in range(self.tokens):
                    ids = model(ids, cache=cache)[:, -1].argmax(-1, keepdim=True)

        return generate


class _Empty:
    def method(self) -> None:
        """Nothing."""


def _prompted(model: ff.nn.LanguageModel, cache: ff.DecodingCache) -> None:
    """The prompt is over, and nearly the whole stream is free."""
    cache.reset()
    ids = torch.full((cache.batch_size, 1), 32)
    with torch.no_grad():
        model(ids, cache=cache)
        model(ids, cache=cache)


def _many(call: Callable[[], object], count: int) -> Callable[[], object]:
    def calls() -> None:
        for _ in range(count):
            call()

    return calls


def _read(nbytes: int) -> Callable[[], object]:
    """Reads as many bytes: a sum, which is what torch reads fastest."""
    return torch.ones(nbytes // 4, dtype=torch.float32).sum


def _on_one_core(call: Callable[[], object]) -> Callable[[], object]:
    def alone() -> None:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        call()
        torch.set_num_threads(threads)

    return alone
