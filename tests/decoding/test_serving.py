"""The serving example: a request gets what it gets alone, and nobody waits for a whole prompt."""

from __future__ import annotations

import itertools
import runpy
from pathlib import Path

import pytest
import torch
from torch import nn

import futurefill_kernels as ff
from tests.decoding.models import VOCABULARY, make

EXAMPLE = runpy.run_path(str(Path(__file__).parents[2] / "examples" / "serving.py"))
Request, serve = EXAMPLE["Request"], EXAMPLE["serve"]


class Recorder(nn.Module):
    """A model, and the shapes of the ids that it was called with."""

    def __init__(self, model):
        super().__init__()
        self.model, self.shapes = model, []

    def forward(self, ids, cache=None):
        self.shapes.append(tuple(ids.shape))
        return self.model(ids, cache=cache)


def some_requests(count, longest=40, most=20):
    g = torch.Generator().manual_seed(3)
    sizes = torch.stack([torch.randint(1, n + 1, (count,), generator=g) for n in (longest, most)])
    return [
        Request(torch.randint(VOCABULARY, (length,), generator=g), new)
        for length, new in sizes.T.tolist()
    ]


@pytest.mark.parametrize("name", ["language-model", "long-conv"])
@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("stop_id", [-1, 7])
def test_every_request_gets_what_it_gets_alone(name, rows, stop_id):
    model, requests = make(name), some_requests(9)
    served = list(serve(model, requests, rows=rows, max_new_tokens=20, chunk=7, stop_id=stop_id))
    assert len(served) == len(requests)
    assert {id(request) for request, _ in served} == {id(request) for request in requests}
    for request, ids in served:
        alone = ff.decode(model, request.prompt[None], request.max_new_tokens)[0]
        ends = (alone == stop_id).nonzero()
        assert torch.equal(ids, alone[: int(ends[0]) + 1] if len(ends) else alone)


def test_a_long_prompt_holds_nobody_up():
    """Between two tokens of the other row stands one chunk at most."""
    model = Recorder(make("language-model"))
    requests = [Request(torch.tensor([1]), 20), Request(torch.arange(40) % 9, 2)]
    done = list(serve(model, requests, rows=2, max_new_tokens=20, chunk=4))
    assert [len(ids) for _, ids in done] == [2, 20]
    widths = [width for _, width in model.shapes]
    assert max(widths) == 4
    chunks = [i for i, width in enumerate(widths) if width > 1]
    assert len(chunks) == 10
    assert all(b - a == 2 for a, b in itertools.pairwise(chunks))


def test_no_requests():
    assert list(serve(make("language-model"), [])) == []


def test_it_prints_what_it_served(capsys):
    EXAMPLE["main"](["--requests", "3", "--longest", "8"])
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 4
    assert "tokens" in printed[-1]
