"""The tail on the host stores what the one on the device does."""

from __future__ import annotations

import pytest
import torch

from futurefill_kernels.decoding.endings import make_ending
from futurefill_kernels.decoding.host_tail import HostTail
from futurefill_kernels.decoding.request import Request
from futurefill_kernels.decoding.sampling import RandomSampler, greedy
from futurefill_kernels.decoding.tail import Tail

VOCABULARY = 13


def tails(batch, length):
    return HostTail(batch, length), Tail(batch, length, torch.device("cpu"))


def request(sampler, rows, steps, stop_ids=()):
    seeds = sampler.seeds(rows) if isinstance(sampler, RandomSampler) else []
    ending = make_ending(stop_ids, None, None, 11)
    ids = torch.ones(rows, 3, dtype=torch.int64)
    return Request(ids, [3] * rows, steps, sampler, seeds, ending, False, None)


SAMPLERS = {
    "greedy": greedy,
    "random": RandomSampler(0.7, top_k=9, seed=5),
    "own": lambda logits: (-logits).argmax(-1).int(),
}


@pytest.mark.parametrize("stop_ids", [(), (2, 5, 40)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", SAMPLERS)
def test_both_store_the_same(name, dtype, stop_ids):
    host, device = tails(5, 70)
    generator = torch.Generator().manual_seed(0)
    for rows, steps in ((5, 70), (3, 7), (1, 66)):  # nothing of the request before is left
        one = request(SAMPLERS[name], rows, steps, stop_ids)
        for tail in (host, device):
            tail.begin(one, VOCABULARY)
        for t in range(steps):
            logits = torch.randn(5, 1, VOCABULARY, generator=generator).mul(2).round().to(dtype)
            for tail in (host, device):
                tail.prepare(t)
                tail(logits[:, -1])
            assert torch.equal(host.ids, device.ids)
        width = 6 if stop_ids else 5  # nobody reads how many go on where there are no stops
        assert torch.equal(host.stored[:steps, :width], device.stored[:steps, :width])


def test_the_lowest_of_equal_ids_and_every_layout():
    host, _ = tails(2, 1)
    host.begin(request(greedy, 2, 1), 4)
    logits = torch.tensor([[0.0, -0.0, -1.0, 0.0], [-2.0, 3.0, 3.0, -torch.inf]])
    column, negative = logits.T.contiguous().T, (-logits)._neg_view()
    for same in (logits, column, negative, logits.clone().requires_grad_()):
        host.prepare(0)
        host(same)
        assert host.ids.tolist() == [[0], [1]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_nan_is_refused_and_infinity_is_not(dtype):
    host, _ = tails(2, 3)
    host.begin(request(greedy, 2, 3), 4)
    logits = torch.zeros(2, 4, dtype=dtype)
    logits[0, 2], logits[1, 1:] = torch.inf, -torch.inf
    host.prepare(0)
    host(logits)
    assert host.ids.tolist() == [[2], [0]]
    logits[1, 3] = torch.nan
    with pytest.raises(ValueError, match=r"NaN in rows \[1\]"):
        host(logits)
