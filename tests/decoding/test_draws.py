"""Counted draws: the published numbers, and the same for every batch and chunk."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from futurefill_kernels.decoding.draws import philox, uniforms
from futurefill_kernels.decoding.endings import make_ending
from futurefill_kernels.decoding.request import Request
from futurefill_kernels.decoding.sampling import RandomSampler
from futurefill_kernels.decoding.tail import Tail

# of Random123's kat_vectors, "philox4x32 10": counter, key, result
KNOWN = [
    (
        (0, 0, 0, 0),
        (0, 0),
        (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8),
    ),
    (
        (0xFFFFFFFF,) * 4,
        (0xFFFFFFFF,) * 2,
        (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD),
    ),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN)
def test_known_answers(counter, key, expected):
    words = philox(np.array(counter, dtype=np.uint64), np.array(key, dtype=np.uint64))
    assert words.tolist() == list(expected)


def philox_in_integers(counter, key):
    """Ten rounds as the paper writes them."""
    word = (1 << 32) - 1
    c, k = list(counter), list(key)
    for _ in range(10):
        first, second = c[0] * 0xD2511F53, c[2] * 0xCD9E8D57
        c = [second >> 32 ^ c[1] ^ k[0], second & word, first >> 32 ^ c[3] ^ k[1], first & word]
        k = [k[0] + 0x9E3779B9 & word, k[1] + 0xBB67AE85 & word]
    return c


def test_uniforms_are_53_bits_of_the_words_of_seed_and_index():
    seeds = [0, 1, -1, 2**40 + 7, 2**64 + 3]
    found = uniforms(seeds, 5, 9)
    assert found.dtype == torch.float64
    for n, line in zip(range(5, 9), found.tolist(), strict=True):
        for seed, value in zip(seeds, line, strict=True):
            key = seed % 2**32, seed // 2**32 % 2**32
            a, b, _, _ = philox_in_integers((n, 0, 0, 0), key)
            assert value == ((a >> 5) * 2**26 + (b >> 6)) / 2**53


def test_every_batch_and_chunk_has_the_same_numbers():
    whole = uniforms([3, 4, 5], 0, 20)
    assert torch.equal(uniforms([4], 0, 20), whole[:, 1:2])
    assert torch.equal(torch.cat([uniforms([3, 4, 5], a, a + 5) for a in (0, 5, 10, 15)]), whole)
    assert whole.unique().numel() == whole.numel()


def test_uniforms_are_uniform():
    found = uniforms(list(range(100)), 0, 1000)
    assert found.min() >= 0
    assert found.max() < 1
    counts = found.flatten().histc(50, 0, 1)
    chi_square = float(((counts - 2000) ** 2 / 2000).sum())
    assert 20 < chi_square < 90  # 49 degrees of freedom: beyond 90 in one of 3000 sets
    pairs = found[:-1] * found[1:]
    assert abs(float(pairs.mean()) - 0.25) < 0.003


def test_a_request_of_many_draws_makes_them_in_pieces():
    """The table of a request, whatever piece a draw is in, and nothing of the request before."""
    tail = Tail(2, 150, torch.device("cpu"))
    logits = torch.linspace(-1, 1, 50).expand(2, 50)
    for seed in (9, 5):
        sampler = RandomSampler(seed=[seed, seed + 1])
        ids = torch.ones(2, 3, dtype=torch.int64)
        ending = make_ending((), None, None, 0)
        request = Request(ids, [3, 3], 150, sampler, sampler.seeds(2), ending, False, None)
        tail.begin(request, 50)
        for t in range(150):
            tail.prepare(t)
            tail(logits)
            assert torch.equal(tail.ids[:, 0], sampler(logits, t))
