"""What every table of refused calls is checked by."""

from __future__ import annotations

from dataclasses import fields

import pytest
import torch

BAD = (ValueError, TypeError)


def bytes_of(cache):
    """Everything that later calls read: bytes of the tensors, and the books."""
    state = cache.state
    tensors = [getattr(state, f.name) for f in fields(state)]
    raw = [x.contiguous().view(torch.uint8).clone() for x in tensors if isinstance(x, torch.Tensor)]
    books = (
        list(cache.taken),
        [cache.in_prompt(row) for row in range(cache.batch_size)],
        cache.calls,
    )
    return raw, books


def expect_refusal(call, argument, parts):
    with pytest.raises(BAD) as refused:
        call(argument)
    message = str(refused.value)
    assert all(part in message for part in parts), message


def expect_same_bytes(before, after):
    assert before[1] == after[1]
    assert all(map(torch.equal, before[0], after[0]))
