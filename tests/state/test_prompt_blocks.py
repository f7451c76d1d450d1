"""Blocks of a prompt in many calls, by the engine and by torch.fft, against float64."""

from __future__ import annotations

import pytest
import torch

from futurefill_kernels import native
from futurefill_kernels.state.convolve import conv_range
from futurefill_kernels.state.prompt_blocks import (
    add_block,
    add_fill,
    new_kept,
    new_slots,
    new_spectra,
    write_inputs,
    write_spectrum,
)
from tests.oracles import PRECISE, TOLERANCE

CPU = torch.device("cpu")
needs_engine = pytest.mark.skipif(
    native.cpu_unavailable_reason() is not None,
    reason=f"no CPU kernels: {native.cpu_unavailable_reason()}",
)


def made(h, channels, block, count, first=0):
    spectra = new_spectra(h, channels, block, count, h.dtype)
    for k in range(count):
        write_spectrum(h, spectra[:, k], channels, block, first + k, h.dtype)
    return spectra


@pytest.mark.parametrize("block", [1, 2, 4, 8, 64, 128, 512])
@pytest.mark.parametrize(("channels", "groups"), [(1, 1), (19, 19), (34, 17)])
@pytest.mark.parametrize("dtype", [torch.float32, PRECISE])
def test_a_group_of_blocks(dtype, channels, groups, block):
    """Whole blocks whose inverse takes what the group adds, then a fill and parts of a block."""
    torch.manual_seed(block)
    taps, count = 3 * block + 1, 4
    h = torch.randn(groups, taps, dtype=dtype)
    u = torch.randn(channels, (count + 1) * block, dtype=dtype)
    expected = conv_range(u[None].to(PRECISE), h.to(PRECISE), 0, u.shape[1])[0]
    slots = new_slots(channels, 8 * block, dtype, CPU)
    spectra = made(h, channels, block, count + 1)
    kept = new_kept(spectra, channels, count - 1)
    y, sums = torch.full_like(u, torch.nan), torch.zeros_like(slots[:, 0, 0])
    for slot in range(count):
        here = slice(slot * block, (slot + 1) * block)
        state = (slots, spectra, kept, sums, slot * block, block, slot, slot + 1)
        add_block(u[:, here], y[:, here], *state)
    last = count * block
    add_fill(slots, spectra[:, 1:], kept, channels, last, block, count)
    for begin, end in ((0, block // 3), (block // 3, block - 1), (block - 1, block)):
        if begin < end:
            here = slice(last + begin, last + end)
            given = (slots, spectra, kept, sums, last + begin, block, 0, 1)
            add_block(u[:, here], y[:, here], *given)
    limit = 10 * TOLERANCE[dtype] * u.norm() * h.norm()
    assert (y.to(PRECISE) - expected).norm() <= limit
    held = slots.transpose(1, 2).flatten(0, 1)[:channels, : u.shape[1]]
    assert torch.equal(held, u)
    assert torch.allclose(sums.sum(), y.sum(), rtol=1e-4, atol=1e-3 * u.norm().item())


@pytest.mark.parametrize("taps", [1, 70, 128, 300])
@pytest.mark.parametrize("dtype", [torch.float32, PRECISE])
def test_a_pair_of_blocks(dtype, taps):
    """Filters that end before, in and behind the block."""
    torch.manual_seed(taps)
    h, u = torch.randn(3, taps, dtype=dtype), torch.randn(6, 64, dtype=dtype)
    slots = new_slots(6, 128, dtype, CPU)
    write_inputs(slots, u, 0)
    spectra = made(h, 6, 64, 1, first=1)
    add_fill(slots, spectra, spectra[:, :0], 6, 64, 64, 1)
    found = slots.transpose(1, 2).flatten(0, 1)[:6, 64:].to(PRECISE)
    expected = conv_range(u[None].to(PRECISE), h.to(PRECISE), 64, 128)[0]
    assert (found - expected).norm() <= 10 * TOLERANCE[dtype] * u.norm() * h.norm()


@needs_engine
@pytest.mark.parametrize(
    ("edit", "message"),
    [
        ({"block": 3}, "block to be a power of two"),
        ({"blocks": 4}, "at most 3 blocks, as there are spectra, got 4"),
        ({"newest": 0}, "as many kept blocks before the newest as are added"),
        ({"position": 32}, "position in a block of slots 32, got 32"),
        ({"position": 12}, "inside one block of 8, got 8 positions from 12"),
        ({"kept": torch.zeros(1, 2, 8)}, "kept with size"),
        ({"y": torch.zeros(3, 8)}, "y with size 4 in dimension 0"),
    ],
)
def test_the_op_checks_its_arguments(edit, message):
    lanes = native.cpu_lanes(torch.float32)
    values = 16 * lanes
    arguments = {
        "u": torch.zeros(4, 8), "y": torch.zeros(4, 8), "slots": torch.zeros(1, 32, lanes),
        "spectra": torch.zeros(1, 3, values), "kept": torch.zeros(1, 2, values),
        "sums": torch.zeros(1), "position": 8, "block": 8, "newest": 1, "blocks": 2,
    } | edit  # fmt: skip
    with pytest.raises(RuntimeError, match=message):
        torch.ops.futurefill_kernels.prompt_block(*arguments.values())


@needs_engine
@pytest.mark.parametrize(
    ("position", "message"),
    [(4, "the end of a block of 8, got 4"), (0, "the end of a block of 8, got 0")],
)
def test_the_fill_checks_its_position(position, message):
    lanes = native.cpu_lanes(torch.float32)
    slots, spectra = torch.zeros(1, 32, lanes), torch.zeros(1, 1, 16 * lanes)
    with pytest.raises(RuntimeError, match=message):
        torch.ops.futurefill_kernels.prompt_fill(slots, spectra, spectra[:, :0], 4, position, 8, 1)
