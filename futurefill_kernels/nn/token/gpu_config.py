"""Sizes of the fused token's launches: pure functions of sizes; no Triton, no device.

At 1024 channels, an MLP of 12288 and 200064 ids in bfloat16 they give what a prototype had that was
timed on an NVIDIA H200 (docs/kernels.md).
"""

from __future__ import annotations

from dataclasses import dataclass

#: Columns of weights that a program has in registers at once.
TILE = 1024
#: Registers of a thread for the weights that are loaded before the vector is there.
WEIGHT_REGISTERS = 64
#: Programs of a launch, about one for every SM of a large GPU; twice as many where each takes
#: several tiles of its weights in turn.
PROGRAMS = 128
#: Weight rows from which on a program has eight warps.
MANY_ROWS = 8192


@dataclass(frozen=True)
class ProductConfig:
    """One program of a product with one vector.

    rows: outputs. tile: columns of weights at once, a power of two. warps: of the program.
    """

    rows: int
    tile: int
    warps: int


def product_config(outputs: int, inputs: int, itemsize: int, sections: int = 1) -> ProductConfig:
    """Of a product with weights (sections * outputs, inputs); a program does a row of each section.

    itemsize: bytes of a weight.
    """
    tile = min(round_up(inputs), TILE)
    warps = 8 if sections * outputs >= MANY_ROWS else 4
    most = WEIGHT_REGISTERS * 4 * 32 * warps // (round_up(sections) * tile * itemsize)
    programs = PROGRAMS if tile >= inputs else 2 * PROGRAMS
    rows = 1
    while 2 * rows <= most and -(-outputs // (2 * rows)) >= programs:
        rows *= 2
    return ProductConfig(rows, tile, warps)


def row_warps(width: int) -> int:
    """Warps of a program that has a row of this many channels in registers."""
    return min(max(round_up(width) // 512, 1), 16)


def round_up(n: int) -> int:
    """The smallest power of two that is no less than n."""
    return 1 << (n - 1).bit_length()
