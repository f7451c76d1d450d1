"""Uniform numbers by counting: Philox 4x32-10 of a row's seed and the index of a drawn token.

There is no generator and no state: a number depends on seed and index alone, so it is the same on
every device, in any batch, inside a CUDA graph and outside. Philox: Salmon et al., "Parallel random
numbers: as easy as 1, 2, 3" (2011).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_WORD = (1 << 32) - 1
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10


def philox(counter: Tensor, key: Tensor) -> Tensor:
    """Four random words of every counter under its key; all are int64 tensors of 32-bit words.

    counter: (4, ...), word 0 first. key: (2, ...), of shapes that broadcast. Returns (4, ...).
    """
    shape = (2,) + (1,) * (counter.ndim - 1)
    multipliers = torch.tensor(_MULTIPLIERS, device=counter.device).view(shape)
    weyl = torch.tensor(_WEYL, device=counter.device).view(shape)
    rounds = torch.arange(_ROUNDS, device=counter.device).view(-1, *(1,) * counter.ndim)
    # words 0 and 2 are multiplied, 1 and 3 are not; a product wraps around in int64, which keeps
    # all of its 64 bits
    even, odd = counter[0::2], counter[1::2]
    for round_key in key + rounds * weyl & _WORD:
        product = (even * multipliers).flip(0)
        even = product >> 32 & _WORD ^ odd ^ round_key
        odd = product & _WORD
    return torch.stack([even, odd], 1).flatten(0, 1)


def uniforms(seeds: Sequence[int], begin: int, end: int, device: torch.device) -> Tensor:
    """The numbers of draws ``begin .. end-1``, (end - begin, B) float64 in [0, 1).

    seeds: of every row, taken modulo 2^64. 53 bits each, of words 0 and 1 of
    ``philox(counter=(index, 0, 0, 0), key=seed)``, the low word of the seed first.
    """
    words = [[seed & _WORD, seed >> 32 & _WORD] for seed in seeds]
    key = torch.tensor(words, device=device).T[:, None]  # (2, 1, B)
    counter = torch.zeros(4, end - begin, len(seeds), dtype=torch.int64, device=device)
    counter[0] = torch.arange(begin, end, device=device)[:, None]
    high, low = philox(counter, key)[:2]
    return ((high >> 5) * 2**26 + (low >> 6)).double() / 2**53
