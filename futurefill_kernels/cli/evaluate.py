"""``python -m futurefill_kernels evaluate``: held-out bits per byte, and the model card."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from ..decoding.model_cache import DecodingCache
from ..nn.language_model import LanguageModel
from ..nn.pretrained import SHIPPED, load_model, read_record
from .corpus import HELD_OUT, SEPARATOR, Corpus, standard_library
from .device import add_device_argument, resolve_device
from .generate import DTYPES

#: Largest difference between the two modes that a card may be written with, in bits per byte. In
#: half precision the modes round at different places.
TOLERANCE = 1e-4
HALF_TOLERANCE = 5e-3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``evaluate``."""
    parser.add_argument("--weights", type=Path, default=SHIPPED, help="of the model")
    parser.add_argument("--window", type=int, default=4096, help="bytes read from a fresh state")
    parser.add_argument("--batch-size", type=int, default=32, help="windows at once")
    parser.add_argument("--limit", type=int, default=None, help="use only that many windows")
    add_device_argument(parser)
    parser.add_argument(
        "--dtype", choices=DTYPES, default=None, help="of weights and activations; default as saved"
    )
    parser.add_argument("--impl", default="auto", help="implementation in decode mode")
    parser.add_argument("--threads", type=int, default=None, help="of torch; its own if unset")
    parser.add_argument("--card", type=Path, default=None, help="write the model card here")


def run(args: argparse.Namespace) -> None:
    """Print bits per byte in both modes; write the card to ``args.card`` when given.

    Raises RuntimeError when the modes differ by more than `TOLERANCE` (`HALF_TOLERANCE`).
    """
    if args.threads:
        torch.set_num_threads(args.threads)
    device = resolve_device(args.device)
    model, corpus = load_model(args.weights).to(device), standard_library()
    if args.dtype is not None:
        model = model.to(DTYPES[args.dtype])
    record = read_record(args.weights)
    if record.get("corpus_fingerprint") not in (None, corpus.fingerprint):
        print(f"trained on another corpus: {record['corpus']}; its split may differ in detail")
    batches = [
        (ids.to(device), lengths.to(device))
        for ids, lengths in windows(corpus, args.window, args.batch_size, args.limit)
    ]
    scored = sum(int(lengths.sum()) for _, lengths in batches)
    results: dict[str, Any] = {"window": args.window, "scored_bytes": scored}
    results["parallel"] = sum(parallel_bits(model, *batch) for batch in batches) / scored
    print(f"parallel: {results['parallel']:.6f} bits per byte on {scored:,} held-out bytes")
    stepped = (
        decode_mode_bits(model, ids, lengths, args.impl)
        for ids, lengths in tqdm(batches, unit="batch")
    )
    results["decode"] = sum(stepped) / scored
    print(f"decode:   {results['decode']:.6f} bits per byte")
    difference = abs(results["parallel"] - results["decode"])
    half = next(model.parameters()).dtype.itemsize < 4
    if not difference <= (HALF_TOLERANCE if half else TOLERANCE):
        raise RuntimeError(f"the modes differ by {difference:.2e} bits per byte")
    if args.card is not None:
        args.card.write_text(card(model, corpus, record, results))
        print(f"wrote {args.card}")


def windows(
    corpus: Corpus, window: int, batch_size: int, limit: int | None = None
) -> list[tuple[Tensor, Tensor]]:
    """Held-out files cut into windows, longest first, in batches: ids (B, T+1) and lengths (B,).

    A row is a separator and up to ``window`` bytes, all of which are predicted.
    """
    pieces = [piece for text in corpus.held_out.values() for piece in text.split(window)]
    pieces.sort(key=len, reverse=True)
    pieces = pieces[:limit]
    batches = []
    for start in range(0, len(pieces), batch_size):
        rows = pieces[start : start + batch_size]
        ids = nn.utils.rnn.pad_sequence(rows, batch_first=True).long()
        lengths = torch.tensor([len(row) for row in rows], device="cpu")
        batches.append((F.pad(ids, (1, 0), value=SEPARATOR), lengths))
    return batches


@torch.no_grad()
def parallel_bits(model: LanguageModel, ids: Tensor, lengths: Tensor) -> float:
    """Sum of bits over the valid bytes of one batch, all positions at once. ids: (B, T+1)."""
    return sum(
        bits(
            model(row[None, :n]),
            row[None, 1 : n + 1],
            torch.ones(1, n, dtype=torch.bool, device=row.device),
        )
        for row, n in zip(ids, lengths.tolist(), strict=True)
    )


@torch.no_grad()
def decode_mode_bits(
    model: LanguageModel, ids: Tensor, lengths: Tensor, impl: str = "auto"
) -> float:
    """The same sum with one step per byte: the separator is the prompt. ids: (B, T+1)."""
    steps = ids.shape[1] - 1
    cache = DecodingCache(model, len(ids), steps, impl=impl)
    total = 0.0
    for t in range(steps):
        logits = model(ids[:, t : t + 1], cache=cache)
        total += bits(logits, ids[:, t + 1 : t + 2], (t < lengths)[:, None])
    return total


def bits(logits: Tensor, targets: Tensor, valid: Tensor) -> float:
    """Negative log2 likelihood of the valid targets. logits: (B, T, V). targets, valid: (B, T)."""
    loss = F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), reduction="none")
    return (loss.double() * valid.flatten()).sum().item() / math.log(2)


def card(
    model: LanguageModel, corpus: Corpus, record: dict[str, Any], results: dict[str, Any]
) -> str:
    """The model card in Markdown; every number is computed or read from the weights' record."""
    config = model.config
    parameters = sum(p.numel() for p in model.parameters())
    dtype = str(next(model.parameters()).dtype).removeprefix("torch.")
    training = "\n".join(f"| {key.replace('_', ' ')} | {value} |" for key, value in record.items())
    mixer = {
        "hyena": "an order-2 Hyena mixer",
        "stu": f"an STU mixer of {config.spectral_filters} spectral filters",
    }[config.mixer]
    return f"""# stdlib-{config.mixer}

A byte-level language model of Python source: {config.layers} blocks of {mixer}
and a gated MLP, width {config.channels}, MLP width {config.mlp_hidden},
context {config.context_length}, {parameters:,} {dtype} parameters. It exists to show and
test exact decoding on real text; it is too small to write useful programs.

Written by `python -m futurefill_kernels evaluate --card`; no number here is typed by hand.

## Data

Python's own standard library source without tests, `encodings` and `pydoc_data`: every `*.py` file
is preceded by a zero byte. Held out from training, by top-level module:
{", ".join(sorted(HELD_OUT))}.

## Training

| | |
|---|---|
{training}

## Held-out bits per byte

{results["scored_bytes"]:,} bytes of {len(corpus.held_out)} held-out files, in windows of
{results["window"]} bytes that start from an empty state:

| mode | bits per byte |
|---|---|
| parallel (one FFT convolution per layer) | {results["parallel"]:.6f} |
| decode (one step per byte) | {results["decode"]:.6f} |

The model is released under the package's licence; its training text is under the Python Software
Foundation License.
"""
