"""What every table of refused calls is checked by."""

from __future__ import annotations

import traceback
from contextlib import contextmanager
from dataclasses import fields

import pytest
import torch

BAD = (ValueError, TypeError)

#: Lines of the package that refusals came from: (file, line).
PROVOKED = set()


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


@contextmanager
def refusal(*parts, kind=BAD):
    """Inside a call is refused, with these parts in the message."""
    with pytest.raises(kind) as refused:
        yield
    message = str(refused.value)
    assert all(part in message for part in parts), message
    PROVOKED.update(lines_of(refused.value))


def expect_refusal(call, argument, parts):
    with refusal(*parts):
        call(argument)


def lines_of(error):
    """Where an exception and those that it stands for were raised, and all that called it."""
    while error is not None:
        for frame, line in traceback.walk_tb(error.__traceback__):
            yield frame.f_code.co_filename, line
        error = error.__context__


def expect_same_bytes(before, after):
    assert before[1] == after[1]
    assert all(map(torch.equal, before[0], after[0]))
