"""A prompt through torch.fft, with plain torch in place of the kernels around the transforms."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from prefill_cases import DTYPES, INPUTS, OUTPUTS, check_inputs, check_outputs, check_prompts

from futurefill_kernels import dispatch, fft_prefill, reference_ops


def plain_inputs(u, pre, lengths, x, held):
    """The op prefill_inputs in plain torch."""
    value = u.float() if pre is None else u.float() * pre.float()
    if lengths is not None:
        value = value * (torch.arange(u.shape[2]) < lengths[:, None, None])
    x.zero_()
    x[..., : u.shape[2]] = value
    if held is not None:
        held[:] = value


def plain_outputs(
    z, u, pre, post, skip, y, prompt_fill, ring, rows, starts, ends, layer, first_channel
):
    """The op prefill_outputs in plain torch."""
    length, own = prompt_fill.shape[3], slice(first_channel, first_channel + u.shape[1])
    starts = torch.zeros_like(ends) if starts is None else starts
    for r, (row, start, end) in enumerate(zip(rows, starts, ends, strict=True)):
        value = z[r, :, start : start + u.shape[2]]
        if skip is not None:
            x = u[r].float() if pre is None else u[r].float() * pre[r].float()
            value = value + skip[layer, own, None] * x * (torch.arange(u.shape[2]) < end - start)
        y[r] = value if post is None else value * post[r].float()
        prompt_fill[layer, row, 0, :, own] = z[r, :, end : end + length].T
        ring[layer, row, 0, :length, own] = z[r, :, end : end + length].T


@pytest.mark.parametrize("dtype", DTYPES)
def test_plain_kernels_do_what_kernels_must(dtype):
    for case in INPUTS:
        check_inputs(plain_inputs, case, dtype)
    for case in OUTPUTS:
        check_outputs(plain_outputs, case, False, dtype)
        check_outputs(plain_outputs, case, True, dtype)


@pytest.fixture
def widths(monkeypatch):
    """``impl="prompted"``: reference with prompts by torch.fft; rows and channels of every pass."""
    seen: list[tuple[int, int]] = []

    def outputs(z, *others):
        seen.append(tuple(z.shape[:2]))
        plain_outputs(z, *others)

    def prompt(*arguments):
        fft_prefill.prompt_by_fft(*arguments, plain_inputs, outputs)

    implementation = SimpleNamespace(**vars(reference_ops), prompt=prompt)
    monkeypatch.setitem(dispatch.IMPLEMENTATIONS, "prompted", implementation)
    return seen


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("groups", [40, 5, 1])
@pytest.mark.parametrize("workspace", [1, 40_000, 1 << 28])
def test_prompts(widths, monkeypatch, workspace, groups, dtype):
    """With a workspace that holds one row and 8 channels, some, and everything."""
    monkeypatch.setattr(fft_prefill, "WORKSPACE_BYTES", workspace)
    check_prompts("prompted", dtype, 40, groups)
    rows, channels = (max(sizes) for sizes in zip(*widths, strict=True))
    if workspace == 1:
        assert (rows, channels) == (1, 8)
    if workspace == 1 << 28:
        assert (rows, channels) == (3, 40)


@pytest.mark.parametrize("batch", [1, 7, 64])
@pytest.mark.parametrize("channels", [8, 1000, 4096])
@pytest.mark.parametrize("n", [64, 1 << 14, 1 << 21])
def test_workspace_is_bounded(n, channels, batch):
    """By the constant, or by the transforms of one row and 8 channels."""
    most, rows = fft_prefill._at_once(n, channels, batch, fft_prefill._ARRAYS)
    taken = 4 * n * most * (fft_prefill._ARRAYS * rows + fft_prefill._FILTER_ARRAYS)
    least = 4 * n * 8 * (fft_prefill._ARRAYS + fft_prefill._FILTER_ARRAYS)
    assert 1 <= rows <= batch
    assert 8 <= most <= max(8, channels)
    assert taken <= max(fft_prefill.WORKSPACE_BYTES, least)
