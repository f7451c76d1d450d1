"""Blocks of a prompt in many calls, by the engine and by torch.fft, against float64."""

from __future__ import annotations

import pytest
import torch

from futurefill_kernels import native
from futurefill_kernels.state.convolve import conv_range, slots_inputs
from futurefill_kernels.state.prompt_blocks import (
    add_block,
    add_fill,
    add_first_fill,
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
@pytest.mark.parametrize(
    ("rows", "channels", "groups"), [(1, 1, 1), (2, 19, 19), (1, 34, 17), (3, 34, 17)]
)
@pytest.mark.parametrize("dtype", [torch.float32, PRECISE])
def test_a_group_of_blocks(dtype, rows, channels, groups, block):
    """Whole blocks whose inverse takes what the group adds, then a fill and parts of a block."""
    torch.manual_seed(block)
    taps, count = 3 * block + 1, 4
    h = torch.randn(groups, taps, dtype=dtype)
    u = torch.randn(rows, channels, (count + 1) * block, dtype=dtype)
    expected = conv_range(u.to(PRECISE), h.to(PRECISE), 0, u.shape[2])
    slots = new_slots(rows, channels, 8 * block, dtype, CPU)
    spectra = made(h, channels, block, count + 1)
    kept = new_kept(rows, spectra, channels, count - 1)
    y, sums = torch.full_like(u, torch.nan), torch.zeros_like(slots[:, :, 0, 0])
    for slot in range(count):
        here = slice(slot * block, (slot + 1) * block)
        state = (slots, spectra, kept, sums, slot * block, block, slot, slot + 1)
        add_block(u[..., here], y[..., here], *state)
    last = count * block
    add_fill(slots, spectra[:, 1:], kept, channels, last, block, count)
    for begin, end in ((0, block // 3), (block // 3, block - 1), (block - 1, block)):
        if begin < end:
            here = slice(last + begin, last + end)
            given = (slots, spectra, kept, sums, last + begin, block, 0, 1)
            add_block(u[..., here], y[..., here], *given)
    limit = 10 * TOLERANCE[dtype] * u.norm() * h.norm()
    assert (y.to(PRECISE) - expected).norm() <= limit
    assert torch.equal(slots_inputs(slots, channels)[..., : u.shape[2]], u)
    assert torch.allclose(sums.sum(1), y.sum((1, 2)), rtol=1e-4, atol=1e-3 * u.norm().item())


@pytest.mark.parametrize("taps", [1, 64, 70, 128, 300])
@pytest.mark.parametrize("kept_spectrum", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, PRECISE])
def test_a_pair_of_blocks(dtype, kept_spectrum, taps):
    """Filters that end before, in and behind the block."""
    torch.manual_seed(taps)
    h, u = torch.randn(3, taps, dtype=dtype), torch.randn(2, 6, 64, dtype=dtype)
    slots = new_slots(2, 6, 128, dtype, CPU)
    for row in range(2):
        write_inputs(slots[row], u[row], 0)
    if kept_spectrum:
        spectra = made(h, 6, 64, 1, first=1)
        add_fill(slots, spectra, new_kept(2, spectra, 6, 0), 6, 64, 64, 1)
    else:
        add_first_fill(slots, h, 6, 64, dtype)
    found = slots_inputs(slots, 6)[..., 64:].to(PRECISE)
    expected = conv_range(u.to(PRECISE), h.to(PRECISE), 64, 128)
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
        ({"kept": torch.zeros(2, 1, 2, 8)}, r"kept with size \d+ in dimension 3"),
        ({"kept": torch.zeros(1, 1, 2, 8)}, "kept with size 2 in dimension 0"),
        ({"y": torch.zeros(2, 3, 8)}, "y with size 4 in dimension 1"),
        ({"u": torch.zeros(1, 4, 8)}, "u with size 2 in dimension 0"),
        ({"sums": torch.zeros(2, 2)}, "sums with size 1 in dimension 1"),
    ],
)
def test_the_op_checks_its_arguments(edit, message):
    lanes = native.cpu_lanes(torch.float32)
    values = 16 * lanes
    arguments = {
        "u": torch.zeros(2, 4, 8), "y": torch.zeros(2, 4, 8), "slots": torch.zeros(2, 1, 32, lanes),
        "spectra": torch.zeros(1, 3, values), "kept": torch.zeros(2, 1, 2, values),
        "sums": torch.zeros(2, 1), "position": 8, "block": 8, "newest": 1, "blocks": 2,
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
    slots, spectra = torch.zeros(1, 1, 32, lanes), torch.zeros(1, 1, 16 * lanes)
    kept = torch.zeros(1, 1, 0, 16 * lanes)
    with pytest.raises(RuntimeError, match=message):
        torch.ops.futurefill_kernels.prompt_fill(slots, spectra, kept, 4, position, 8, 1)


@needs_engine
@pytest.mark.parametrize(
    ("edit", "message"),
    [
        ({"block": 32}, "position in a block of slots 32, got 32"),
        ({"h": torch.zeros(3, 8)}, "h with a divisor of 4 filters, got 3"),
        ({"h": torch.zeros(4, 8, dtype=torch.float64)}, "h of the dtype of slots"),
        ({"channels": 0}, "channels >= 1, got 0"),
    ],
)
def test_the_first_fill_checks_its_arguments(edit, message):
    slots = torch.zeros(1, 1, 32, native.cpu_lanes(torch.float32))
    arguments = {"slots": slots, "h": torch.zeros(4, 8), "channels": 4, "block": 8} | edit
    with pytest.raises(RuntimeError, match=message):
        torch.ops.futurefill_kernels.prompt_first_fill(*arguments.values())
