"""The first fill of a group, all layers in one call: every implementation and second form of it,
beside the time of its bytes, beside torch.fft on as many values, and beside a prototype.

The floor is 20 bytes of a position and channel with one row, 12 + 8 / B with B rows, at the read
bandwidth measured in the same run. On a GPU caches are cold and graphs are replayed. L: the block.
torch.fft: ``irfft(rfft(u) * H)``, three calls on data in an order of its own, nothing stored.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor

import futurefill_kernels as ff
from futurefill_kernels.state.layout import from_tiles, to_tiles
from futurefill_kernels.state.tensors import StreamState

from ..harness import machine
from ..harness.implementations import combined, fill_call, fills_of, make_state
from ..harness.machine import available_memory
from ..harness.rows import relative_error
from ..harness.timing import Times, measure_cold

BLOCKS = (16, 32, 64, 128, 256, 512, 1024, 2048, 3000, 4096, 8192, 9000, 16384, 32768, 65536)
#: (largest block, what a fill's time over the floor may be)
LIMITS = ((1024, 2.5), (8192, 3.5), (math.inf, 4.0))
#: What the Triton fill's time over the prototype's may be, and up to which block.
OF_THE_PROTOTYPE, LARGEST_OF_THE_PROTOTYPE = 1.15, 2048
_CHECKED = 32  # channels
_FFT_POINTS = 1 << 28  # of one call of torch.fft, so that it fits


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``gpu-fills``."""
    parser.set_defaults(impl="each")
    parser.add_argument("--blocks", default=",".join(map(str, BLOCKS)), help="block sizes")
    parser.add_argument("--channels", type=int, default=1024)
    parser.add_argument(
        "--streams", default="1x24,8x8", help="rows x layers; fewer layers fit less"
    )
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument(
        "--prototype", type=Path, metavar="FILE",
        help="Python file beside whose fills Triton's are timed: make_fill(ring, spectra, "
        "positions) returns a call without arguments, or None for sizes that it does not do. ring: "
        "(layers, B, 2 T, D) float32, inputs and then pending outputs, to which the call adds the "
        "future fill; spectra: (layers, T, 2, D) float32, real and imaginary parts in tree order, "
        "divided by T, D a multiple of 32; positions: (B,) int64, all T",
    )  # fmt: skip


@dataclass(frozen=True)
class Size:
    """Of a fill."""

    block: int
    batch: int
    layers: int
    channels: int

    @property
    def nbytes(self) -> int:
        """Inputs, pending outputs in and out, and a spectrum of every filter, float32."""
        return self.layers * self.channels * self.block * (12 * self.batch + 8)

    @property
    def limit(self) -> float:
        """Of the time over the floor."""
        return next(limit for largest, limit in LIMITS if self.block <= largest)


def run(args: argparse.Namespace) -> None:
    """Check every fill of every size against float64, then time it."""
    blocks = [int(text) for text in args.blocks.split(",")]
    streams = [tuple(map(int, text.split("x"))) for text in args.streams.split(",")]
    if args.quick:
        blocks, streams, args.channels, args.repeats = [8, 12, 64], [(1, 2), (2, 1)], 32, 2
    prototype = load_prototype(args.prototype)
    bandwidth, _ = machine.roofs(args.threads, args.device)
    for block in blocks:
        h = filters_there(args.channels, 2 * block, args.device)
        for batch, layers in streams:
            size = Size(block, batch, _layers(args, block, batch, layers), args.channels)
            _size(args, size, h, bandwidth, prototype)


def filters_there(channels: int, taps: int, device: torch.device) -> Tensor:
    """Random filters (D, L) made on the device; they keep outputs as large as inputs."""
    generator = torch.Generator(device).manual_seed(0)
    return torch.randn(channels, taps, generator=generator, device=device) / taps**0.5


def load_prototype(path: Path | None) -> ModuleType | None:
    """The file as a module. Raises ValueError where it does not define ``make_fill``."""
    if path is None:
        return None
    spec = importlib.util.spec_from_file_location("prototype", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise ValueError(f"expected --prototype to be a Python file, got {path}")
    module = sys.modules["prototype"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not callable(getattr(module, "make_fill", None)):
        raise ValueError(f"{path} does not define make_fill(ring, spectra, positions)")
    return module


def _layers(args: argparse.Namespace, block: int, batch: int, layers: int) -> int:
    """As many as fit two thirds of the memory with ring, taps and spectra, at least 1."""
    # the plan's only block is also its first: its taps are there once more, twice while they move
    each = 4 * args.channels * block * (2 * batch + 2 + 2 + 2)
    return max(1, min(layers, available_memory(args.device) * 2 // 3 // each))


@torch.no_grad()
def _size(
    args: argparse.Namespace, size: Size, h: Tensor, bandwidth: float, prototype: ModuleType | None
) -> None:
    fields = {
        "B": size.batch, "D": size.channels, "L": size.block, "layers": size.layers,
        "dtype": torch.float32,
    }  # fmt: skip
    generator = torch.Generator(args.device).manual_seed(1)
    u = torch.randn(size.batch, size.channels, size.block, generator=generator, device=args.device)
    checked = slice(0, _CHECKED)
    expected = ff.future_fill(u[:, checked].double(), h[checked].double(), size.block)
    floor = size.nbytes / bandwidth
    torchs: Times | None = None
    with args.report.guard("torch.fft", **fields):
        torchs, error = _with_torch(args, size, h, u, expected)
        args.report.add(
            "torch.fft", **fields, impl="torch", times=torchs, error=error, tolerance=1e-5,
            floor=floor, quantity="of the floor", value=torchs.p50 / floor,
        )  # fmt: skip
    for name in fills_of(args.impl, args.device, size.block):
        own = {**fields, "impl": name}
        with args.report.guard(name, **own):
            for found in _fill(args, size, name, h, u, expected, prototype):
                _rows(args, size, found, own, floor, torchs)
        if args.device.type == "cuda":
            torch.cuda.empty_cache()


@dataclass(frozen=True)
class _Found:
    """Times of an implementation, and of the prototype on the same data."""

    variant: str
    times: Times
    error: float
    prototype: Times | None = None


def _rows(
    args: argparse.Namespace, size: Size, found: _Found, fields: dict[str, object], floor: float,
    torchs: Times | None,
) -> None:  # fmt: skip
    """What an implementation takes, and that time over what it may not exceed."""
    add, own = args.report.add, found.variant != "prototype"
    row = add(
        found.variant, **fields, times=found.times, error=found.error, tolerance=1e-5,
        bytes=size.nbytes, floor=floor, quantity="of the floor", value=found.times.p50 / floor,
        limit=size.limit if own else "",
    )  # fmt: skip
    if row.status != "ok" or not own:
        return
    if torchs is not None:
        add(
            found.variant, **fields, quantity="of torch.fft", value=found.times.p50 / torchs.p50,
            limit=1.0,
        )  # fmt: skip
    if found.prototype is not None:
        small = size.block <= LARGEST_OF_THE_PROTOTYPE
        add(
            found.variant, **fields, quantity="of the prototype",
            value=found.times.ratio(found.prototype), limit=OF_THE_PROTOTYPE if small else "",
        )  # fmt: skip


def _with_torch(
    args: argparse.Namespace, size: Size, h: Tensor, u: Tensor, expected: Tensor
) -> tuple[Times, float]:
    """Three calls of torch.fft for as many layers as fit at once."""
    n = 2 * size.block
    spectrum = torch.fft.rfft(h, n)
    most = max(1, min(size.layers, _FFT_POINTS // (size.batch * size.channels * n)))
    inputs = u.expand(size.layers, -1, -1, -1).contiguous()
    spectra = spectrum.expand(size.layers, 1, -1, -1).contiguous()

    def call() -> Tensor:
        for layer in range(0, size.layers, most):
            here = slice(layer, layer + most)
            y = torch.fft.irfft(torch.fft.rfft(inputs[here], n) * spectra[here], n)
        return y

    found = call()[-1, :, : expected.shape[1], size.block :]
    error = relative_error(found, expected)
    times = measure_cold({"torch.fft": call}, device=args.device, repeats=args.repeats)
    return times["torch.fft"], error


def _fill(
    args: argparse.Namespace, size: Size, name: str, h: Tensor, u: Tensor, expected: Tensor,
    prototype: ModuleType | None,
) -> Iterator[_Found]:  # fmt: skip
    plan = ff.Plan(2 * size.block, (size.block,))
    implementation = combined(name, [name])
    state = make_state(implementation, [name], plan, h, size.layers, size.batch)
    calls: dict[str, Callable[[], object]] = {name: fill_call(implementation, state)}
    other = None
    whole = size.block & (size.block - 1) == 0 and size.channels % 32 == 0
    if name == "triton" and prototype is not None and whole:
        other = prototype.make_fill(state.ring[:, :, 0], state.spectra[:, 0], state.positions)
    if other is not None:
        calls["prototype"] = other
    errors = {variant: _error(state, call, u, expected) for variant, call in calls.items()}
    few = 4 if size.nbytes < 1 << 32 else 2  # calls of a replay
    times = measure_cold(calls, device=args.device, repeats=args.repeats, inner=few)
    yield _Found(name, times[name], errors[name], times.get("prototype"))
    if other is not None:
        yield _Found("prototype", times["prototype"], errors["prototype"])


def _error(state: StreamState, call: Callable[[], object], u: Tensor, expected: Tensor) -> float:
    """Of the last layer's outputs of some channels; the state stands where the fill is due."""
    block = u.shape[2]
    state.ring.zero_()
    state.ring[..., :block, :] = to_tiles(u, state.layout)
    state.positions.fill_(block)
    call()
    filled = from_tiles(state.ring[-1, ..., block : 2 * block, :], state.layout)
    return relative_error(filled[:, : expected.shape[1]], expected)
