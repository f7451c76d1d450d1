"""``python -m futurefill_kernels generate``: stream text from the byte-level model."""

from __future__ import annotations

import argparse
import codecs
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

import torch
from torch import Tensor

from ..decoding.decode import decode
from ..decoding.endings import held_back
from ..decoding.sampling import make_sampler
from ..nn.language_model import LanguageModel
from ..nn.pretrained import load_model
from ..plan import Plan
from . import ranks
from .device import add_device_argument, resolve_device

DTYPES = {
    "float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16,
    "float64": torch.float64,
}  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``generate``."""
    parser.add_argument("--prompt", default="def ", help="text to continue")
    parser.add_argument("--tokens", type=int, default=8192, help="bytes to generate")
    parser.add_argument(
        "--stop", action="append", default=None, help="text that ends it, not printed; repeatable"
    )
    parser.add_argument("--temperature", type=float, default=None, help="0 is greedy; default 0.7")
    parser.add_argument("--top-k", type=int, default=None, help="draw from the k most likely bytes")
    parser.add_argument(
        "--top-p",
        type=float,
        default=None,
        help="draw from the fewest with this probability",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the draws")
    add_device_argument(parser)
    parser.add_argument(
        "--dtype", choices=DTYPES, default="float32", help="of weights and activations"
    )
    parser.add_argument("--impl", default="auto", help="implementation of the convolutions")
    parser.add_argument("--threads", type=int, default=None, help="of torch; its own if unset")
    parser.add_argument("--weights", type=Path, default=None, help="default: the shipped model")
    parser.add_argument(
        "--compare", action="store_true", help="greedy; repeat with the naive cache and compare"
    )
    ranks.add_ranks_argument(parser)


def run(args: argparse.Namespace) -> None:
    """Generate with ``args``: text to stdout, rates to stderr.

    Raises ValueError for options that contradict each other, RuntimeError for a device that is not
    there and when ``--compare`` finds different tokens, MemoryError for a stream that does not fit.
    """
    if args.threads is not None:
        if args.threads < 1:
            raise ValueError(f"expected --threads >= 1, got {args.threads}")
        torch.set_num_threads(args.threads)
    if args.tokens < 1:
        raise ValueError(f"expected --tokens >= 1, got {args.tokens}")
    temperature = (0.0 if args.compare else 0.7) if args.temperature is None else args.temperature
    if args.compare and temperature != 0:
        raise ValueError(f"--compare is greedy: expected --temperature 0, got {temperature}")
    stops: list[str] = args.stop or []
    if args.compare and stops:
        raise ValueError("--compare repeats all tokens: expected no --stop with it")
    device, n = resolve_device(args.device), args.tensor_parallel
    ranks.check_ranks(n, device)
    sampler = make_sampler(temperature, top_k=args.top_k, top_p=args.top_p, seed=args.seed)
    model = load_model(args.weights, progress=sys.stderr.isatty())
    if model.config.vocabulary > 256:
        raise ValueError(
            f"generate writes bytes: expected --weights of a vocabulary of at most 256, got "
            f"{model.config.vocabulary}"
        )
    if n > 1 and not ranks.started():
        ranks.check_divides(model, n)
        ranks.start(n, args.arguments)
        return
    with ranks.on_ranks(n, model.to(DTYPES[args.dtype]), device) as device:
        prompt = torch.tensor([list(args.prompt.encode())], dtype=torch.int64, device=device)
        printer = TextPrinter(sys.stdout, args.prompt, stops)
        ids = decode(
            model, prompt, args.tokens, sampler=sampler, impl=args.impl, callback=printer,
            stop=[stop.encode() for stop in stops],
        )  # fmt: skip
        printer.close()
        report("FutureFill", prompt, printer)
        if args.compare:
            compare(model, prompt, ids, printer, args.impl)


def compare(
    model: LanguageModel, prompt: Tensor, ids: Tensor, fast: TextPrinter, impl: str
) -> None:
    """Repeat a greedy generation with the naive cache, O(t) per token, and report the ratio.

    ids: (1, N) that `fast` timed. Raises RuntimeError when the tokens differ.
    """
    tokens = ids.shape[1]
    with open(os.devnull, "w") as nowhere:
        naive = TextPrinter(nowhere)  # writing takes its time in both
        # one block as long as the stream: no future fill, every token sums over all earlier ones
        repeated = decode(
            model, prompt, tokens, plan=Plan(tokens, (tokens,)), impl=impl, callback=naive
        )
    report("naive cache", prompt, naive)
    if not torch.equal(ids, repeated):
        first = int((ids != repeated).nonzero()[0, 1])
        raise RuntimeError(f"the two runs differ from token {first} of {tokens} on")
    ratio = naive.seconds / fast.seconds
    print(f"identical {tokens} tokens; FutureFill is {ratio:.2f} times as fast", file=sys.stderr)


class TextPrinter:
    """Decode callback: writes bytes as text as they come, and keeps the time.

    out: where to write. before: written with the first byte. stops: texts that
    end it and are not written; what may be the beginning of one waits. Bytes that are not UTF-8
    show as replacement characters.
    """

    def __init__(self, out: TextIO, before: str = "", stops: Sequence[str] = ()) -> None:
        self._out, self._before, self._stops = out, before, stops
        self._waiting = ""  # text that may be the beginning of a stop
        self._text = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._start = self._first = self._last = time.perf_counter()
        self._count = 0

    def __call__(self, ids: Tensor, index: int) -> None:
        """ids: (1,), the byte at index."""
        self._last = time.perf_counter()
        if index == 0:
            self._first = self._last
        self._count = index + 1
        before = self._before if index == 0 else ""
        self._out.write(before + self._decided(self._text.decode(bytes([int(ids[0])]))))
        self._out.flush()

    def close(self) -> None:
        """Write what is left of a character and end the line."""
        rest = self._decided(self._text.decode(b"", final=True)) + self._waiting
        self._out.write(rest + "\n")
        self._out.flush()

    def _decided(self, text: str) -> str:
        """What can be written now that text has come."""
        text = self._waiting + text
        at = [text.index(stop) for stop in self._stops if stop in text]
        if at:
            self._waiting = ""
            return text[: min(at)]
        size = len(text) - held_back(text, self._stops)
        self._waiting = text[size:]
        return text[:size]

    @property
    def prefill_seconds(self) -> float:
        """From the start to the first token: preparing the filters and reading the prompt."""
        return self._first - self._start

    @property
    def seconds(self) -> float:
        """From the first to the last token."""
        return self._last - self._first

    @property
    def tokens_per_second(self) -> float:
        """Steps per second after the first token."""
        return (self._count - 1) / self.seconds if self._count > 1 else float("nan")


def report(name: str, prompt: Tensor, printer: TextPrinter) -> None:
    """One line on stderr."""
    print(
        f"{name} on {prompt.device}: {prompt.shape[1]} prompt tokens and preparation "
        f"{printer.prefill_seconds:.3f} s, "
        f"decode {printer.tokens_per_second:.0f} tokens/s ({printer.seconds:.2f} s)",
        file=sys.stderr,
    )
