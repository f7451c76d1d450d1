"""``generate`` of transformers: sequences with a StreamCache against those of full recomputation.

4 beams and prompt lookup, the shipped model and HyenaDNA by its own code with fresh weights. In
float64 all sequences have to be the same. In float32 two ways to compute the same may end a tie
otherwise: sequences that differ are counted, and have to be as probable, by the model in float64.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import futurefill_kernels as ff

from ..harness import public_code
from ..harness.public_models import VOCABULARY, hyena_dna

#: largest difference of two sequences' log-probabilities, per new token, that makes them a tie
TIE = 1e-4
MODES: dict[str, dict[str, Any]] = {
    "4 beams": {"num_beams": 4},
    "prompt lookup": {"prompt_lookup_num_tokens": 5},
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``hf``."""
    parser.add_argument("--parts", default="shipped,dna", help="which models")
    parser.add_argument("--prompts", type=int, default=16, help="sequences of each row")
    parser.add_argument("--tokens", type=int, default=32, help="new ones of a sequence")


def run(args: argparse.Namespace) -> None:
    """Every mode and dtype of the models named in --parts."""
    parts = args.parts.split(",")
    unknown = sorted(set(parts) - {"shipped", "dna"})
    if unknown:
        raise ValueError(f"unknown parts {unknown}; expected some of shipped, dna")
    if find_spec("transformers") is None:
        args.report.add("shipped model", status="missing", note="pip install '.[hf]'")
        return
    prompts, tokens = (2, 8) if args.quick else (args.prompts, args.tokens)
    generator = torch.Generator("cpu").manual_seed(0)
    source = torch.tensor(list(_source().encode()), device="cpu")
    starts = torch.randint(len(source) - 24, (prompts,), generator=generator, device="cpu").tolist()
    code = [source[start : start + 24][None] for start in starts]
    if "shipped" in parts:
        _compare(args, "shipped model", _shipped, code, tokens, "")
    if "dna" not in parts:
        return
    why = public_code.missing("hyena-dna")
    if why is not None:
        args.report.add("HyenaDNA", status="missing", note=why)
        return
    bases = [
        torch.randint(7, VOCABULARY, (1, 12), generator=generator, device="cpu").repeat(1, 2)
        for _ in range(prompts)
    ]
    note = f"hyena-dna {public_code.commit('hyena-dna')}, fresh weights; "
    _compare(args, "HyenaDNA", _genome, bases, tokens, note)


@torch.no_grad()
def _compare(
    args: argparse.Namespace,
    variant: str,
    make: Callable[[torch.dtype], Any],
    prompts: list[Tensor],
    tokens: int,
    note: str,
) -> None:
    exact = make(torch.float64)
    for dtype in (torch.float64, torch.float32):
        model = make(dtype)
        for mode, options in MODES.items():
            same, worst = 0, 0.0
            for ids in prompts:
                fixed = {"max_new_tokens": tokens, "do_sample": False, "eos_token_id": None}
                streamed = model.generate(ids, **fixed, **options)
                alone = {"num_beams": options.get("num_beams", 1), "use_cache": False}
                whole = model.generate(ids, **fixed, **alone)
                if torch.equal(streamed, whole):
                    same += 1
                else:
                    gap = _log_probability(exact, streamed, tokens) - _log_probability(
                        exact, whole, tokens
                    )
                    worst = max(worst, abs(gap) / tokens)
            count = len(prompts)
            if dtype is torch.float64:
                worst = float(count - same)
            args.report.add(
                f"{variant}, {mode}", P=prompts[0].shape[1], dtype=dtype, error=worst,
                tolerance=0.0 if dtype is torch.float64 else TIE,
                quantity=f"of {count} sequences of {tokens} equal", value=same,
                note=f"{note}{count - same} ties",
            )  # fmt: skip


def _log_probability(model: Any, ids: Tensor, new: int) -> float:
    """Of the new ids of a sequence (1, T)."""
    log_p = model(ids).logits.log_softmax(-1)[:, -new - 1 : -1]
    return float(log_p.gather(-1, ids[:, -new:, None]).sum())


def _source() -> str:
    """Text of this package."""
    return Path(ff.__file__).with_name("functional.py").read_text()


def _shipped(dtype: torch.dtype) -> Any:
    return ff.hf.FutureFillForCausalLM.from_language_model(ff.nn.load_model().to(dtype))


def _genome(dtype: torch.dtype) -> Any:
    from transformers import PreTrainedConfig

    torch.manual_seed(0)
    adapted = ff.adapt(hyena_dna(2, longest=128).eval())

    class Config(PreTrainedConfig):
        model_type = "genome"

        def __init__(self, vocab_size: int = VOCABULARY, **kwargs: Any) -> None:
            self.vocab_size = vocab_size
            super().__init__(**kwargs)

    return ff.hf.AdaptedForCausalLM(Config(), adapted).to(dtype).eval()
