"""Draws in NumPy are those of the sampler."""

from __future__ import annotations

import pytest
import torch

from futurefill_kernels import RandomSampler
from futurefill_kernels.decoding import host_draws
from futurefill_kernels.decoding.host_draws import draw

OPTIONS = [
    {},
    {"top_k": 1},
    {"top_k": 5},
    {"top_k": 1000},
    {"top_p": 0.7071},
    {"top_p": 1e-9},
    {"top_p": 1.0},
    {"top_k": 7, "top_p": 0.4142},
]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("temperature", [1e-30, 0.6, 3.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize(("rows", "vocabulary"), [(1, 256), (5, 31), (3, 1)])
@pytest.mark.parametrize("alike", [False, True])
def test_draws(options, temperature, dtype, rows, vocabulary, alike):
    """A number lies in the drawn id's share of the sampler's probabilities, but for rounding."""
    sampler = RandomSampler(temperature, **options)
    for _ in range(5):
        logits = torch.stack([torch.randperm(vocabulary) / 32 for _ in range(rows)])
        if alike:  # of those that are, top_p drops the last
            logits = logits.round()
        logits = logits.to(dtype)
        logits[:, 1::7] -= torch.inf  # ids that cannot come
        uniform = torch.rand(rows, dtype=torch.float64)
        ids = torch.from_numpy(draw(sampler, logits, uniform))[:, None]
        p = sampler.probabilities(logits).double()
        end = p.cumsum(-1).gather(-1, ids)[:, 0]
        share = p.gather(-1, ids)[:, 0]
        assert (share > 0).all()
        assert (uniform < end + 1e-5).all()
        assert (uniform > end - share - 1e-5).all()


def test_the_ends_of_the_numbers():
    logits = torch.zeros(2, 4)
    logits[:, 0] = -torch.inf
    uniform = torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64)
    assert draw(RandomSampler(1.0), logits, uniform).tolist() == [1, 3]


def test_large_ones_are_the_sampler_s(monkeypatch):
    monkeypatch.setattr(host_draws, "LARGEST", 49)
    sampler, logits = RandomSampler(0.8, top_k=9), torch.randn(2, 50)
    uniform = torch.rand(2, dtype=torch.float64)
    assert draw(sampler, logits, uniform).tolist() == sampler.draw(logits, uniform).tolist()


class Always(RandomSampler):
    """The last id."""

    def draw(self, logits, uniform):
        return torch.full((len(logits),), logits.shape[-1] - 1)


def test_a_sampler_that_draws_otherwise_is_asked():
    assert draw(Always(), torch.zeros(2, 9), torch.zeros(2)).tolist() == [8, 8]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("temperature", [1e-40, 1.0, 1e39])
@pytest.mark.parametrize("row", [[3e38, -3e38, 0], [-torch.inf, 5, 5], [torch.inf, 0, 1]])
def test_numbers_of_any_size_are_no_warning(temperature, row):
    sampler, logits = RandomSampler(temperature), torch.tensor([row])
    uniform = torch.tensor([0.3], dtype=torch.float64)
    assert draw(sampler, logits, uniform).tolist() == sampler.draw(logits, uniform).tolist()


@pytest.mark.parametrize("options", OPTIONS)
def test_nan_is_refused(options):
    logits = torch.zeros(3, 20)
    logits[1, 4] = torch.nan
    with pytest.raises(ValueError, match=r"without NaN, got NaN in rows \[1\]"):
        draw(RandomSampler(1.0, **options), logits, torch.zeros(3, dtype=torch.float64))
