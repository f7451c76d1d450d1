"""The example of requests over processes: each request once, with the ids that it gets alone."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
import torch
from torch import distributed

import futurefill_kernels as ff
from tests.nn.parallel.ranks import results
from tests.nn.parallel.stories import model_of, prompts

EXAMPLE = Path(__file__).parents[3] / "examples" / "data_parallel.py"


def _requests(model):
    whole = prompts(model, 9, rows=7)
    return [row[: 2 + n] for n, row in enumerate(whole)]


def _serve(rank, folder):
    example = runpy.run_path(str(EXAMPLE))
    model = model_of("language-model")
    store = distributed.FileStore(f"{folder}/queue", 2)
    found = example["serve"](model, _requests(model), 6, store)
    distributed.barrier()
    return [number for number, _ in found], example["collect"](found)


@pytest.mark.slow
def test_every_request_is_taken_once_and_gets_its_own_ids(tmp_path):
    (mine, ids), (others, nothing) = results(2, _serve, str(tmp_path))
    assert sorted(mine + others) == list(range(7))
    assert nothing is None
    model = model_of("language-model")
    for number, (prompt, got) in enumerate(zip(_requests(model), ids, strict=True)):
        sampler = ff.RandomSampler(0.7, seed=number)
        assert torch.equal(got, ff.decode(model, [prompt], 6, sampler=sampler)[0])
