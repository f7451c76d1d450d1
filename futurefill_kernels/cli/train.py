"""``python -m futurefill_kernels train``: train the byte-level model on the standard library."""

from __future__ import annotations

import argparse
import math
import platform
import time
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from ..nn.language_model import ACTIVATIONS, MIXERS, LanguageModel, LanguageModelConfig
from ..nn.pretrained import save_model
from .corpus import Corpus, standard_library
from .device import add_device_argument, resolve_device

#: (end of the stage as a fraction of the run, crop length): most tokens in short crops, the last
#: ones in crops long enough to train the far lags.
STAGES = ((0.60, 1024), (0.80, 2048), (0.93, 4096), (0.98, 8192), (1.0, 16384))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``train``."""
    parser.add_argument("--out", type=Path, default=Path("model.safetensors"), help="weights")
    parser.add_argument("--steps", type=int, default=6320, help="optimiser steps")
    parser.add_argument("--minutes", type=float, default=math.inf, help="end the schedule sooner")
    parser.add_argument("--tokens-per-step", type=int, default=2048, help="bytes")
    parser.add_argument("--learning-rate", type=float, default=3e-3, help="at its highest")
    parser.add_argument("--seed", type=int, default=0, help="of weights and batches")
    add_device_argument(parser)
    parser.add_argument("--threads", type=int, default=None, help="of torch; its own if unset")
    sizes = parser.add_argument_group("the model")
    for name, text in (
        ("channels", "width"),
        ("layers", "blocks"),
        ("mlp_hidden", "width inside the MLP"),
        ("context_length", "taps of every filter"),
    ):
        option, default = f"--{name.replace('_', '-')}", getattr(LanguageModelConfig, name)
        sizes.add_argument(option, type=int, default=default, help=text)
    sizes.add_argument(
        "--mixer", choices=MIXERS, default=LanguageModelConfig.mixer, help="over time"
    )
    sizes.add_argument(
        "--activation", choices=ACTIVATIONS, default=LanguageModelConfig.activation,
        help="of the MLP's gate",
    )  # fmt: skip
    parser.add_argument("--evaluate-every", type=int, default=250, help="steps; also saves")


def run(args: argparse.Namespace) -> None:
    """Train with ``args`` and save the weights to ``args.out``, also after every evaluation."""
    if args.threads:
        torch.set_num_threads(args.threads)
    device = resolve_device(args.device)
    torch.manual_seed(args.seed)
    corpus = standard_library()
    config = LanguageModelConfig(
        context_length=args.context_length,
        channels=args.channels,
        layers=args.layers,
        mlp_hidden=args.mlp_hidden,
        mixer=args.mixer,
        activation=args.activation,
    )
    model = LanguageModel(config).to(device)
    parameters = sum(p.numel() for p in model.parameters())
    held_out = sum(map(len, corpus.held_out.values()))
    print(f"{parameters:,} parameters; {len(corpus.train):,} bytes, {held_out:,} held out")
    train(model, corpus, args)


def train(model: LanguageModel, corpus: Corpus, args: argparse.Namespace) -> None:
    """AdamW with warmup and cosine decay over crops that grow by `STAGES`."""
    optimizer = torch.optim.AdamW(_parameter_groups(model), betas=(0.9, 0.95), fused=True)
    generator = torch.Generator("cpu").manual_seed(args.seed)
    tokens, start = 0, time.monotonic()
    bar = tqdm(total=args.steps, unit="step", mininterval=10)
    for step in range(args.steps):
        minutes = (time.monotonic() - start) / 60
        progress = max(step / args.steps, minutes / args.minutes)
        if progress >= 1:
            break
        for group in optimizer.param_groups:
            group["lr"] = args.learning_rate * learning_rate_factor(progress, step)
        crop = min(crop_length(progress), model.config.context_length)
        ids = corpus.sample(max(1, args.tokens_per_step // crop), crop + 1, generator)
        loss = _cross_entropy(model, ids)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        tokens += ids[:, 1:].numel()
        bar.update()
        bar.set_postfix(crop=crop, bits=f"{loss.item() / math.log(2):.3f}", refresh=False)
        if (step + 1) % args.evaluate_every == 0:
            bits = quick_bits_per_byte(model, corpus)
            tqdm.write(f"step {step + 1}: {tokens:,} bytes, {minutes:.1f} min, held out {bits:.4f}")
            save_model(model, args.out, _record(args, corpus, step + 1, tokens, minutes))
    bar.close()
    minutes = (time.monotonic() - start) / 60
    save_model(model, args.out, _record(args, corpus, step + (progress < 1), tokens, minutes))


def crop_length(progress: float) -> int:
    """Crop length at a fraction ``progress`` of the run."""
    return next(crop for end, crop in STAGES if progress < end)


def learning_rate_factor(progress: float, step: int, warmup: int = 100) -> float:
    """Linear warmup, then a cosine from 1 to 0.02 over the run."""
    return min(1.0, (step + 1) / warmup) * (0.51 + 0.49 * math.cos(math.pi * progress))


@torch.no_grad()
def quick_bits_per_byte(model: LanguageModel, corpus: Corpus, length: int = 2048) -> float:
    """Bits per byte on the first crop of every held-out file that is long enough."""
    crops = [text[: length + 1].long() for text in corpus.held_out.values() if len(text) > length]
    losses = [_cross_entropy(model, crop[None]) for crop in crops]
    return torch.stack(losses).mean().item() / math.log(2)


def _cross_entropy(model: nn.Module, ids: Tensor) -> Tensor:
    ids = ids.to(next(model.parameters()).device)
    logits = model(ids[:, :-1])
    return F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())


def _parameter_groups(model: nn.Module) -> list[dict[str, object]]:
    """Weight decay for the matrices of linear maps; none for filters, gains, biases, embedding."""
    named = list(model.named_parameters())
    decayed = {n for n, p in named if p.ndim == 2 and n.endswith("weight") and "filter" not in n}
    decayed.discard("embedding.weight")
    return [
        {"params": [p for n, p in named if n in decayed], "weight_decay": 0.1},
        {"params": [p for n, p in named if n not in decayed], "weight_decay": 0.0},
    ]


def _record(
    args: argparse.Namespace, corpus: Corpus, steps: int, tokens: int, minutes: float
) -> dict[str, object]:
    """What the model card says about the training."""
    return {
        "steps": steps,
        "training_bytes_seen": tokens,
        "minutes": round(minutes, 1),
        "threads": torch.get_num_threads(),
        "seed": args.seed,
        "learning_rate": args.learning_rate,
        "tokens_per_step": args.tokens_per_step,
        "corpus": f"Python {platform.python_version()} standard library",
        "corpus_fingerprint": corpus.fingerprint,
        "corpus_bytes": len(corpus.train),
        "torch": torch.__version__,
    }
