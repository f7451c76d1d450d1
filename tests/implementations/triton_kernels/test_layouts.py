"""Which threads have which channels of an access, whatever this version of Triton makes of hints.

A warp has channels side by side, and where a thread has several values of a tensor they are of one
channel or of neighbours: what the kernels' registers and coalesced accesses rest on.
"""

from __future__ import annotations

import importlib.util
import os

import pytest
import torch

from futurefill_kernels import DeviceInfo, Plan

if importlib.util.find_spec("triton") is None:
    pytest.skip("Triton is not installed", allow_module_level=True)
if "TRITON_INTERPRET" in os.environ:
    pytest.skip("TRITON_INTERPRET is set: nothing is compiled", allow_module_level=True)

from futurefill_kernels.implementations.triton_kernels.ahead import stream_launches
from futurefill_kernels.implementations.triton_kernels.sizes import StreamSizes
from tests.emulation import triton_compile
from tests.emulation.triton_compile import Access
from tests.fast import combinations

CAPABILITY, INFO = 90, DeviceInfo.named("h100")


def accesses(launch) -> list[Access]:
    found = triton_compile.accesses(launch, CAPABILITY)
    print(launch.kernel.__name__, *found, sep="\n")
    return found


def fills(block: int, radix: int, spectra_dtype: torch.dtype = torch.float32, ragged: int = 0):
    """Launches of a level."""
    plan = Plan(block * radix - ragged, (block,))
    sizes = StreamSizes(plan, 1024, 1024, 2, 1, spectra_dtype=spectra_dtype)
    return stream_launches(sizes, INFO)[sizes.fill_name(plan.levels[0])]


def check_one_value_side_by_side(launch, expected: int) -> None:
    """In every access a thread has one value of a row, and a warp 32 values of it; what is left of
    a row is the other warps', so that a thread has all values of one channel. Tables of twiddles
    and twists are read likewise. expected: accesses to anything else.
    """
    found = accesses(launch)
    warps = launch.options["num_warps"]
    assert sum(len(access.shape) == 2 for access in found) == expected
    for access in found:
        if len(access.shape) == 1:
            assert access[1:] == ((1,), (32,), (warps,), (0,))
        else:
            assert access[1:] == ((1, 1), (1, 32), (1, warps), (1, 0))
            assert access.shape[1] == 32 * warps


@pytest.mark.parametrize(
    ("block", "radix"),
    combinations([16, 64, 256, 512, 2048, 4096], [2, 4], fast={(64, 2), (512, 4)}),
)
def test_a_fill(block, radix):
    """Inputs, two of spectra, pending outputs and back; kept spectra are read and written."""
    (launch,) = fills(block, radix)
    check_one_value_side_by_side(launch, 5 + 6 * (radix > 2))


@pytest.mark.parametrize(
    ("block", "radix"),
    combinations([8192, 65536, 262144], [2, 4], fast={(65536, 2), (8192, 4)}),
)
@pytest.mark.parametrize("ragged", [0, 7])
def test_three_passes(block, radix, ragged):
    split, middle, merge = fills(block, radix, ragged=ragged)
    check_one_value_side_by_side(split, 1 + 2 * 2)  # nodes are written in two halves
    check_one_value_side_by_side(middle, 6 + 6 * (radix > 2))
    check_one_value_side_by_side(merge, 4)


@pytest.mark.parametrize("layers", [1, 12])
def test_history(layers):
    """16 bytes of a thread, those of a warp for each row of the tile: taps and inputs are in the
    same threads.
    """
    sizes = StreamSizes(Plan(64, (64,)), 1024, 1024, layers, 8)
    launch = stream_launches(sizes, INFO)[sizes.HISTORY][0]
    tiles = [access for access in accesses(launch) if len(access.shape) > 1]
    steps = launch.constants["STEPS"]
    assert len(tiles) == 3 + 2 * steps
    for access in tiles:
        assert access[1:] == ((1, 4), (1, 32), (1, 1), (1, 0))
        assert access.shape[0] in (1, launch.constants["ROWS"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_apply_step(dtype):
    """Neighbouring channels in a thread, as many as 16 bytes of float32 have, and threads."""
    sizes = StreamSizes(Plan(64, (64,)), 1024, 1024, 1, 8, dtype)
    launch = stream_launches(sizes, INFO)[sizes.step_name(gated=True, last=True)][0]
    wide = [access for access in accesses(launch) if access.shape != (1,)]
    assert len(wide) == 7
    for access in wide:
        assert access[1:] == ((4,), (32,), (1,), (0,))
