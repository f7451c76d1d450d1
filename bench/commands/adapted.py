"""Adapted public models: the same logits and tokens as their own code, and how much sooner.

1. families: each of them, small: teacher-forced logits and greedy tokens against full
   recomputation.
2. dna: a genome of the shape of hyenadna-small-32k (4 layers of width 256, fresh weights), base by
   base, against the public forward over everything so far for every base; that is timed at some
   lengths and integrated between them. Times are processor time, which is what one thread takes
   when nobody else has the machine.
3. prompt: what a prompt's logits take: of its last position, as a Decoder asks, and of all. The
   most memory that the process has held, before and after each.

Public code is not part of this repository: without it rows say what is missing.
"""

from __future__ import annotations

import argparse
import resource
import time
from itertools import pairwise

import torch
from torch import nn

import futurefill_kernels as ff

from ..harness import public_code
from ..harness.adapted import agreement
from ..harness.public_models import PUBLIC, VOCABULARY, hyena_dna
from ..harness.rows import relative_error
from ..harness.timing import Times

#: largest difference of logits, relative to the largest
TOLERANCE = 5e-6
PROMPT = 16


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``adapted``."""
    parser.add_argument("--parts", default="families,dna,prompt", help="which of them")
    parser.add_argument("--bases", type=int, default=32768, help="new ones of the genome")
    parser.add_argument("--samples", type=int, default=8, help="lengths of the public forward")


def run(args: argparse.Namespace) -> None:
    """The parts named in --parts."""
    known = {"families": _families, "dna": _dna, "prompt": _prompt}
    for part in args.parts.split(","):
        if part not in known:
            raise ValueError(f"unknown part {part!r}; expected some of {', '.join(known)}")
        known[part](args)


def _families(args: argparse.Namespace) -> None:
    names = list(PUBLIC)[:1] if args.quick else list(PUBLIC)
    for name in names:
        repository, build = PUBLIC[name]
        why = public_code.missing(repository)
        if why is not None:
            args.report.add(name, status="missing", note=why)
            continue
        torch.manual_seed(0)
        found = agreement(build().eval())
        args.report.add(
            name, dtype=torch.float32, error=max(found.parallel, found.teacher_forced),
            tolerance=TOLERANCE, quantity=f"of {found.tokens} greedy tokens equal",
            value=found.same,
            note=f"{repository} {public_code.commit(repository)}; {found.near_ties} near ties",
        )  # fmt: skip


@torch.no_grad()
def _dna(args: argparse.Namespace) -> None:
    width, layers, bases, samples = 256, 4, args.bases, args.samples
    if args.quick:
        width, layers, bases, samples = 16, 2, 64, 2
    why = public_code.missing("hyena-dna")
    if why is not None:
        args.report.add("ours", status="missing", note=why)
        return
    torch.manual_seed(0)
    longest = PROMPT + bases
    model = hyena_dna(2, width=width, layers=layers, longest=longest, filter_order=64).eval()
    prompt = torch.randint(VOCABULARY, (1, PROMPT), device="cpu")
    sampler = ff.RandomSampler(1.0, seed=0)
    start = time.process_time()
    adapted = ff.adapt(model)
    decoder = ff.Decoder(adapted, 1, bases)
    made = time.process_time() - start
    ids = torch.cat([prompt, decoder(prompt, sampler=sampler)], 1)
    ours = time.process_time() - start
    error = _teacher_forced(model, adapted, decoder, ids)
    fields = {
        "B": 1, "D": width, "L": bases, "P": PROMPT, "layers": layers, "dtype": torch.float32,
    }  # fmt: skip
    commit = public_code.commit("hyena-dna")
    args.report.add(
        "ours", **fields, impl=decoder.cache.impl, plan=decoder.cache.plan, times=Times([ours]),
        tokens=bases, error=error, tolerance=TOLERANCE,
        note=f"hyena-dna {commit}, fresh weights; processor time, {made:.1f} s of it before the "
        "first base",
    )  # fmt: skip
    lengths = [PROMPT + bases * (i + 1) // samples for i in range(samples)]
    seconds = []
    for length in lengths:
        start = time.process_time()
        model(ids[:, :length])
        seconds.append(time.process_time() - start)
    # trapezoids between the sampled lengths; the first reaches down to nothing
    ends, costs = [0, *lengths], [0.0, *seconds]
    total = sum(
        (b - a) * (x + y) / 2
        for a, b, x, y in zip(ends[:-1], ends[1:], costs[:-1], costs[1:], strict=True)
    )
    args.report.add(
        "public full forward", **fields, times=Times([total]), tokens=bases,
        baseline=("ours", Times([ours])),
        note=f"processor time, sampled at {samples} of {bases} lengths: "
        f"{100 * samples / bases:.2g}% of it was run",
    )  # fmt: skip


@torch.no_grad()
def _prompt(args: argparse.Namespace) -> None:
    why = public_code.missing("hyena-dna")
    if why is not None:
        args.report.add("logits of the last position", status="missing", note=why)
        return
    length, vocabulary, width = (256, 3200, 16) if args.quick else (8192, 32000, 64)
    torch.manual_seed(0)
    model = hyena_dna(
        width=width, layers=2, longest=length + 1, filter_order=16, vocabulary=vocabulary,
        scale=1.0,
    )  # fmt: skip
    adapted = ff.adapt(model.eval())
    ids = torch.randint(vocabulary, (1, length), device="cpu")
    commit = public_code.commit("hyena-dna")
    made: dict[bool, torch.Tensor] = {}
    held, before = {}, _most_held()
    for last in (True, False):  # the most that was ever held only grows: the smaller one first
        cache = ff.DecodingCache(adapted, 1, 1)
        with cache.select(last=last):
            logits = adapted(ids, cache=cache)
        held[last] = _most_held() - before
        made[last] = logits[:, -1:].clone()
        del logits
    error = relative_error(made[True], made[False])
    for last, variant in ((True, "logits of the last position"), (False, "logits of all")):
        args.report.add(
            variant, B=1, D=width, P=length, layers=2, dtype=torch.float32, error=error,
            tolerance=TOLERANCE, quantity="more memory than before", value=held[last] / 2**20,
            unit="MiB", note=f"hyena-dna {commit}, a vocabulary of {vocabulary}, fresh weights",
        )  # fmt: skip


def _most_held() -> int:
    """Bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def _teacher_forced(
    model: nn.Module, adapted: nn.Module, decoder: ff.Decoder, ids: torch.Tensor
) -> float:
    """Of the last steps before 256 positions, and of the end of the whole as one prompt."""
    early = ids[:, : min(256, ids.shape[1])]
    cache = ff.DecodingCache(adapted, 1, early.shape[1])
    cuts = [0, PROMPT, *range(PROMPT + 1, early.shape[1] + 1)]
    steps = [adapted(early[:, a:b], cache=cache) for a, b in pairwise(cuts)]
    first = relative_error(torch.cat(steps, 1), model(early))
    whole = model(ids)[:, -1:]
    step = adapted(ids[:, -1:], cache=decoder.cache)  # it has taken all before the last
    return max(first, relative_error(step, whole))
