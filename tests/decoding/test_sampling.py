import pytest
import torch

from futurefill_kernels.decoding.draws import uniforms
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


@pytest.mark.parametrize("options", [{}, {"temperature": 0.7}, {"top_k": 3}, {"top_p": 0.8}])
def test_draws_follow_the_distribution(options):
    sampler = RandomSampler(seed=1, **options)
    draws = sampler(LOGITS[:1].expand(20000, -1), 0)
    expected = sampler.probabilities(LOGITS)[0]
    torch.testing.assert_close(draws.bincount(minlength=4) / 20000, expected, rtol=0, atol=0.015)
    assert (expected[draws] > 0).all()
    numbers = uniforms([1], 0, 20000)[:, 0].to(LOGITS.device)
    along = sampler.draw(LOGITS[:1].expand(20000, -1), numbers)
    torch.testing.assert_close(along.bincount(minlength=4) / 20000, expected, rtol=0, atol=0.015)


def test_the_seed_determines_the_draws():
    logits = torch.zeros(50, 10)
    first, same, other = (RandomSampler(seed=s)(logits, 7) for s in (3, 3, 4))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)
    sampler = RandomSampler(seed=3)
    assert torch.equal(sampler(logits, 7), sampler(logits, 7))
    assert not torch.equal(sampler(logits, 8), first)


def test_a_row_draws_the_same_in_every_batch():
    logits = torch.randn(6, 100)
    whole = RandomSampler(seed=20)(logits, 3)
    assert torch.equal(other_rows(logits, [24], [4]), whole[4:5])
    assert torch.equal(other_rows(logits, [22, 20], [2, 0]), whole[[2, 0]])


def other_rows(logits, seeds, rows):
    return RandomSampler(seed=seeds)(logits[rows], 3)


def test_a_number_is_turned_into_the_id_whose_share_it_falls_into():
    sampler = RandomSampler()
    numbers = [0.0, 0.49, 0.51, 0.74, 0.76, 0.89, 0.91, 1 - 2**-53]
    numbers = torch.tensor(numbers, dtype=torch.float64)
    drawn = sampler.draw(LOGITS[:1].double().expand(8, -1), numbers)
    assert drawn.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


def test_no_number_draws_an_id_that_was_dropped():
    """The first and the last ids have no share; 0 and almost 1 would fall there."""
    logits = torch.full((2, 1000), -torch.inf)
    logits[:, 300:700] = torch.randn(2, 400)
    numbers = torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64)
    assert RandomSampler().draw(logits, numbers).tolist() == [300, 699]


@pytest.mark.parametrize("seed", [[1, 2], torch.tensor([1, 2]), (1, 2)])
def test_seeds_that_are_not_one_per_row_are_refused(seed):
    sampler = RandomSampler(seed=seed)
    assert sampler.seeds(2) == [1, 2]
    with pytest.raises(ValueError, match=r"seed to be an int or \(3,\), got \(2,\)"):
        sampler(torch.zeros(3, 4), 0)


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
