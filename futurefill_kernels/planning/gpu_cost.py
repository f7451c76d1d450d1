"""What a plan costs on a GPU: bytes at the record's bandwidth or operations at its peak rate,
whichever takes longer, and launches. Nothing here touches a device.

A fill is one launch for all layers and rows, a step one launch per layer. Times are seconds per
token of the whole stream.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import lru_cache

import torch

from ..plan import Plan
from ..state.layout import Layout
from ..state.tensors import state_nbytes
from .device import DeviceInfo
from .search import Stream, cheapest_block_sizes, level_firings

#: Launches of a longer fill for each layer: pad and twist, two cuFFT calls of two passes, product,
#: addition.
FFT_LAUNCHES = 7
#: Passes over a complex (T,) workspace per channel that a longer fill adds.
FFT_PASSES = 10
#: float32 instructions of both transforms of a fill per T log2 T, counted on compiled kernels.
FILL_INSTRUCTIONS = 7
#: Channels of one program; fewer programs than multiprocessors leave bandwidth unused.
PROGRAM_CHANNELS = 8
#: Share of the device's memory that a stream may take; the rest is the model's and the driver's.
MEMORY_SHARE = 0.9
#: Prices of a held byte, in seconds per token, tried in turn until a plan fits.
_PRICES = (0.0, 1e-20, 1e-18, 1e-16, 1e-14, 1.0)
#: Longest stream that may be planned without a fill, as one short-range convolution.
_LONGEST_BASE = 4096


def fill_bytes(stream: Stream, block: int, products: float, keeps: bool) -> float:
    """Bytes of one firing: inputs read, pending outputs read and written, kept input spectra
    written once and read later, filter spectra read once for all rows.

    products: spectrum products of the firing. keeps: whether the newest input spectrum is stored.
    """
    n = 1 << (block - 1).bit_length()
    per_channel = 12 * block + 8 * n * (products - 1 + keeps)
    rows = stream.batch_size * stream.channels
    spectra = stream.groups * 2 * stream.spectra_itemsize * n * products
    return float(stream.layers * (rows * per_channel + spectra))


def fill_seconds(
    stream: Stream, info: DeviceInfo, block: int, products: float, keeps: bool
) -> float:
    """One firing of all layers and rows."""
    n = 1 << (block - 1).bit_length()
    rows = stream.layers * stream.batch_size
    moved = fill_bytes(stream, block, products, keeps)
    instructions = n * (FILL_INSTRUCTIONS * (n.bit_length() - 1) + 4 * products)
    launches = 1
    if n > stream.largest_fused:
        moved += FFT_PASSES * 8 * n * rows * stream.channels
        launches = FFT_LAUNCHES * stream.layers
    programs = rows * -(-stream.channels // PROGRAM_CHANNELS)
    busy = min(1.0, programs / info.sm_count) if n <= stream.largest_fused else 1.0
    # peak rates count a multiply-add as two operations, an instruction
    arithmetic = 2 * instructions * rows * stream.channels / info.fp32_flops
    seconds = max(moved / info.dram_bytes_per_second, arithmetic)
    return seconds / busy + launches * info.launch_seconds


def level_seconds(stream: Stream, info: DeviceInfo, block: int, radix: int) -> float:
    """One level, per token."""
    spectra = min(radix - 1, -(-stream.filter_length // block))
    total = 0.0
    for products, firings in level_firings(stream, block, radix):
        # the last firing of a group leaves nothing for later ones
        keeps = spectra > 1 and (products < spectra or spectra < radix - 1)
        total += firings * fill_seconds(stream, info, block, products, keeps)
    return total / stream.length


def step_seconds(stream: Stream, info: DeviceInfo, block: int) -> float:
    """The short-range convolutions of all layers, averaged over a block; one launch per layer."""
    taps = min(block, stream.filter_length)
    read = (taps * (taps + 1) / 2 + (block - taps) * taps) / block
    rows = stream.batch_size * stream.channels
    # taps; the block's inputs but the newest, and u, y and the slot read and written
    moved = 4 * (stream.groups * read + rows * (read - 1 + 4))
    return stream.layers * (moved / info.dram_bytes_per_second + info.launch_seconds)


def token_bytes(stream: Stream, plan: Plan) -> float:
    """Bytes that fills move per token, layer and channel of one row, for tables."""
    total = 0.0
    for level in plan.levels:
        for products, firings in level_firings(stream, level.block, level.radix):
            keeps = level.n_spectra > 1 and (
                products < level.n_spectra or level.n_spectra < level.radix - 1
            )
            total += firings * fill_bytes(stream, level.block, products, keeps)
    return total / (stream.length * stream.layers * stream.batch_size * stream.channels)


def plan_seconds(stream: Stream, info: DeviceInfo, plan: Plan) -> float:
    """Modelled seconds per token of all layers and rows."""
    return step_seconds(stream, info, plan.base) + sum(
        level_seconds(stream, info, level.block, level.radix) for level in plan.levels
    )


def needed_nbytes(stream: Stream, plan: Plan) -> int:
    """Bytes on the device: the state, its prepared filters, and the filters that prefill reads."""
    layout = Layout.padded(stream.channels, stream.groups, plan.length)
    state = state_nbytes(
        plan, layout, layers=stream.layers, batch_size=stream.batch_size,
        spectra_itemsize=stream.spectra_itemsize,
    )  # fmt: skip
    return state + 4 * stream.layers * stream.groups * stream.filter_length


def usable_bytes(info: DeviceInfo) -> int:
    """Bytes of the device's memory that a stream may take."""
    return int(MEMORY_SHARE * info.memory_bytes)


@lru_cache(maxsize=256)
def cheapest_plan(stream: Stream, info: DeviceInfo) -> Plan:
    """The fastest plan that fits the device's memory.

    Raises ValueError with the bytes needed, and with what would fit, when none does.
    """
    limit = usable_bytes(info)
    for seconds_per_byte in _PRICES:
        plan = _search(stream, info, seconds_per_byte)
        if needed_nbytes(stream, plan) <= limit:
            return plan
    raise ValueError(_refusal(stream, info, plan))


def leanest_plan(stream: Stream, info: DeviceInfo) -> Plan:
    """The plan that holds the fewest bytes, fits or not."""
    return _search(stream, info, _PRICES[-1])


def _search(stream: Stream, info: DeviceInfo, seconds_per_byte: float) -> Plan:
    """Cheapest plan when a byte of memory has a price."""
    rows = stream.batch_size * stream.channels

    def level_cost(block: int, radix: int) -> float:
        n = 1 << (block - 1).bit_length()
        spectra = min(radix - 1, -(-stream.filter_length // block))
        filters = 2 * stream.spectra_itemsize * stream.groups * spectra
        held = n * stream.layers * (filters + 8 * rows * max(spectra - 1, 0))
        return level_seconds(stream, info, block, radix) + held * seconds_per_byte

    def first_cost(block: int) -> float:
        if block > _LONGEST_BASE:
            return math.inf
        held = 4 * block * stream.layers * stream.groups
        return step_seconds(stream, info, block) + held * seconds_per_byte

    starts = [1 << k for k in range(3, 9)]
    sizes = cheapest_block_sizes(stream.length, starts, first_cost, level_cost)
    return Plan(stream.length, sizes, stream.filter_length)


def _refusal(stream: Stream, info: DeviceInfo, plan: Plan) -> str:
    """Bytes needed against bytes there, and the largest change of each kind that fits."""
    limit = usable_bytes(info)

    def needs(other: Stream) -> int:
        return needed_nbytes(other, leanest_plan(other, info))

    def largest(field: str, values: list[int]) -> str | None:
        """The first of falling values that fits, by bisection."""
        low, high, found = 0, len(values), 0
        while low < high:
            middle = (low + high) // 2
            change = {field: values[middle]}
            if field == "length":
                change["filter_length"] = min(values[middle], stream.filter_length)
            nbytes = needs(replace(stream, **change))
            if nbytes <= limit:
                found = nbytes
                high = middle
            else:
                low = middle + 1
        name = "groups (filter rows that channels share)" if field == "groups" else field
        return f"{name} = {values[low]} ({found} bytes)" if low < len(values) else None

    halves = [stream.length >> k for k in range(1, stream.length.bit_length())]
    divisors = [
        g for g in range(stream.groups - 1, 0, -1)
        if stream.groups % g == 0 and stream.channels % g == 0
    ]  # fmt: skip
    proposals = [
        largest("groups", divisors),
        largest("filter_length", [stream.filter_length * k // 8 for k in range(7, 0, -1)]),
        largest("batch_size", list(range(stream.batch_size - 1, 0, -1))),
        largest("layers", list(range(stream.layers - 1, 0, -1))),
        largest("length", halves),
    ]
    found = [text for text in proposals if text is not None]
    smaller = replace(stream, spectra_itemsize=torch.bfloat16.itemsize)
    if smaller != stream and needs(smaller) <= limit:
        found.insert(0, f"spectra_dtype = torch.bfloat16 ({needs(smaller)} bytes, impl='triton')")
    no_fill = Plan(stream.length, (stream.length,), stream.filter_length)
    nbytes = needed_nbytes(stream, no_fill)
    if nbytes <= limit:
        found.append(
            f"plan = Plan(length, ({stream.length},)) ({nbytes} bytes), slow: no spectra, every "
            "tap read"
        )
    spectra = 2 * stream.spectra_itemsize * stream.layers * stream.groups * plan.spectra_rows
    return (
        f"a stream of length {stream.length}, {stream.channels} channels, batch_size "
        f"{stream.batch_size}, {stream.layers} layers and {stream.groups} filter rows needs at "
        f"least {needed_nbytes(stream, plan)} bytes with any block sizes ({spectra} of them filter "
        f"spectra), {info.name} has {info.memory_bytes} bytes, of which {limit} may be used; "
        + ("any one of these fits: " + "; ".join(found) if found else "no smaller size fits either")
    )
