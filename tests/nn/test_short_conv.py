"""The few-tap convolution before the gates: its sum, and sizes that it refuses."""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from futurefill_kernels.nn import Hyena
from futurefill_kernels.nn.short_conv import ShortConv, ShortConvState, commit, keep_left


@torch.no_grad()
def test_it_is_the_sum_over_its_taps():
    torch.manual_seed(0)
    conv = ShortConv(4, taps=3).double()
    x = torch.randn(2, 4, 9, dtype=torch.float64)
    expected = conv.weight[:, :1] * x
    for s in (1, 2):
        expected[..., s:] += conv.weight[:, s : s + 1] * x[..., :-s]
    torch.testing.assert_close(conv(x), expected, rtol=0, atol=1e-12)


def streams(taps, batch=3, channels=4):
    torch.manual_seed(taps)
    conv = ShortConv(channels, taps).double()
    return conv, ShortConvState(conv, batch), torch.randn(batch, channels, 12, dtype=torch.float64)


def assert_close(got, expected):
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)


@torch.no_grad()
@pytest.mark.parametrize("taps", [1, 2, 3, 5])
def test_a_state_streams_prompts_and_steps_and_keeps_the_last_inputs_in_order(taps):
    conv, state, x = streams(taps)
    address = state.inputs.data_ptr()
    got = [state.prefill(x[..., :2])]
    commit([state])
    for t in range(2, 9):
        got.append(state.step(x[..., t])[..., None])
        commit([state])
    got.append(state.prefill(x[..., 9:]))
    commit([state])
    assert_close(torch.cat(got, 2), conv(x))
    assert torch.equal(state.inputs, x[..., 12 - taps :].transpose(1, 2))
    assert state.inputs.data_ptr() == address
    assert state.nbytes == 8 * (3 + 1) * taps * 4


@torch.no_grad()
@pytest.mark.parametrize("taps", [1, 3, 5])
def test_padded_prompts_and_steps_of_some_rows(taps):
    conv, state, x = streams(taps)
    lengths = [1, 7, 4]
    padded = x[..., :7].clone()
    for row, n in enumerate(lengths):
        padded[row, :, n:] = 99.0
    order = [2, 0, 1]
    prompt = state.prefill(padded[order], order, [lengths[r] for r in order])
    commit([state])
    expected = conv(x)
    for place, row in enumerate(order):
        assert_close(prompt[place, :, : lengths[row]], expected[row, :, : lengths[row]])
    y = state.step(torch.stack([x[1, :, 7], x[0, :, 1]]), [1, 0])
    commit([state])
    assert_close(y, torch.stack([expected[1, :, 7], expected[0, :, 1]]))
    y = state.step(torch.stack([x[0, :, 2], x[1, :, 8], x[2, :, 4]]))
    assert_close(y, torch.stack([expected[0, :, 2], expected[1, :, 8], expected[2, :, 4]]))
    commit([state])
    state.reset([0])
    state.reorder([1, 0, 0])
    assert not state.inputs[1:].any()
    assert_close(state.step(x[[1, 2, 2], :, 9])[0], expected[1, :, 9])
    assert_close(state.step(x[[1, 2, 2], :, 0])[1], expected[2, :, 0])


@torch.no_grad()
@pytest.mark.parametrize("rows", [None, [0, 2]])
def test_nothing_moves_before_the_commit(rows):
    _, state, x = streams(3)
    state.prefill(x[..., :5])
    commit([state])
    before = state.inputs.clone()
    chosen = x if rows is None else x[rows]
    for call in (lambda: state.step(chosen[..., 5], rows), lambda: state.prefill(chosen, rows)):
        call()
        assert torch.equal(state.inputs, before)
        state.drop_staged()
        commit([state])
        assert torch.equal(state.inputs, before)
    state.step(chosen[..., 5], rows)
    other = state.clone()
    commit([other])
    assert torch.equal(other.inputs, before)
    commit([state])
    assert torch.equal(other.inputs, before)
    assert not torch.equal(state.inputs, before)


@torch.no_grad()
@pytest.mark.parametrize("taps", [1, 2, 3, 5])
def test_a_token_is_taken_back_in_the_rows_where_it_ran(taps):
    conv, state, x = streams(taps)
    for t in range(6):
        state.step(x[..., t])
        commit([state])
    before = state.inputs.clone()
    wrong = torch.randn(3, 4, dtype=torch.float64)
    state.step(wrong)
    commit([state])
    state.take_back(torch.tensor([True, False, True]))
    assert torch.equal(state.inputs[::2, 1:], before[::2, 1:])
    assert not state.inputs[::2, 0].any()
    assert torch.equal(state.inputs[1, -1], wrong[1])
    y = state.step(x[..., 6])
    assert_close(y[::2], conv(x)[::2, :, 6])


class Calls(TorchDispatchMode):
    """How many operations of torch there were."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += 1
        return function(*args, **(kwargs or {}))


@torch.no_grad()
@pytest.mark.parametrize("taps", [1, 3, 5])
@pytest.mark.parametrize("rollback", [1, 2, 5, 9])
def test_chunks_are_taken_back_row_by_row(taps, rollback):
    conv, _, x = streams(taps, batch=4)
    state, rows, lengths = ShortConvState(conv, 4, rollback), [3, 0, 1], [7, 1, 0]
    state.prefill(x[..., :2])
    commit([state])
    before = state.inputs.clone()
    positions = [2, 11, 5]  # whatever the rows have taken
    # a row of which nothing comes is staged like one that has one valid input
    state.prefill(x[rows, :, 2:9], rows, [max(n, 1) for n in lengths])
    keep_left([state], rows, positions, lengths)
    commit([state])
    state.inputs[1] = before[1]
    ends = [p + n for p, n in zip(positions, lengths, strict=True)]
    back = [min(n, rollback) for n in lengths]
    state.crop(rows, ends, [end - n for end, n in zip(ends, back, strict=True)])
    whole = x[..., :9]
    for row, n, gone in zip(rows, lengths, back, strict=True):
        end = 2 + n - gone
        expected = torch.nn.functional.pad(whole[row, :, :end], (taps, 0))[:, -taps:].T
        # the oldest is not needed by what follows
        assert torch.equal(state.inputs[row, 1:], expected[1:])
    assert torch.equal(state.inputs[2], before[2])


@torch.no_grad()
def test_work_of_python_does_not_grow_with_rows():
    counts = []
    for batch in (2, 8):
        conv, _, x = streams(3, batch)
        state = ShortConvState(conv, batch, 4)
        state.prefill(x)
        with Calls() as calls:
            keep_left([state], range(batch), [0] * batch, [12] * batch)
        counts.append(calls.count)
    assert counts[0] == counts[1] > 0


def test_no_taps_are_refused():
    with pytest.raises(ValueError, match="taps >= 1, got 0"):
        Hyena(4, 8, short_taps=0)
