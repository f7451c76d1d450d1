import pytest
import torch

from futurefill_kernels.decoding.sampling import RandomSampler, greedy, make_sampler

LOGITS = torch.tensor([[0.5, 0.25, 0.15, 0.1], [0.1, 0.15, 0.25, 0.5]]).log()


def test_greedy_takes_the_largest():
    assert greedy(LOGITS).tolist() == [0, 3]
    assert make_sampler(0) is greedy


def test_temperature_sharpens():
    expected = torch.tensor([0.5, 0.25, 0.15, 0.1]) ** 2
    found = RandomSampler(0.5).probabilities(LOGITS)[0]
    torch.testing.assert_close(found, expected / expected.sum())


def test_top_k_keeps_the_most_likely():
    found = RandomSampler(top_k=2).probabilities(LOGITS)
    torch.testing.assert_close(found[0], torch.tensor([2 / 3, 1 / 3, 0, 0]))
    torch.testing.assert_close(found[1], torch.tensor([0, 0, 1 / 3, 2 / 3]))
    torch.testing.assert_close(RandomSampler(top_k=9).probabilities(LOGITS), LOGITS.exp())


@pytest.mark.parametrize(("top_p", "kept"), [(1e-9, 1), (0.5, 1), (0.51, 2), (0.8, 3), (1.0, 4)])
def test_top_p_keeps_the_fewest_that_reach_p(top_p, kept):
    found = RandomSampler(top_p=top_p).probabilities(LOGITS.double())
    assert (found > 0).sum(1).tolist() == [kept, kept]
    torch.testing.assert_close(found.sum(1), torch.ones(2, dtype=torch.float64))


def test_draws_follow_the_distribution():
    draws = RandomSampler(seed=1)(LOGITS[:1].expand(20000, -1))
    frequency = draws.bincount(minlength=4) / 20000
    torch.testing.assert_close(frequency, LOGITS[0].exp(), rtol=0, atol=0.015)


def test_the_seed_determines_the_draws():
    logits = torch.zeros(50, 10)
    first, same, other = (RandomSampler(seed=s)(logits) for s in (3, 3, 4))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -1.0}, "temperature > 0, got -1.0"),
        ({"temperature": float("nan")}, "temperature > 0, got nan"),
        ({"temperature": 1.0, "top_k": 0}, "top_k >= 1, got 0"),
        ({"temperature": 1.0, "top_p": 0.0}, r"top_p in \(0, 1\], got 0.0"),
        ({"temperature": 1.0, "top_p": 1.5}, r"top_p in \(0, 1\], got 1.5"),
    ],
)
def test_values_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        make_sampler(**options)
