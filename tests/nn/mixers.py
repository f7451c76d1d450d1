"""Small mixers of every kind, and what each must do: the same in parallel and token by token."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

import futurefill_kernels as ff
from futurefill_kernels import nn as ffnn

CHANNELS, CONTEXT = 6, 64
#: largest difference between the two modes, relative to the largest output
TOLERANCE = {
    torch.float32: 5e-6, torch.float64: 1e-13, torch.bfloat16: 4e-2, torch.float16: 5e-3,
}  # fmt: skip

MIXERS: dict[str, Callable[[], nn.Module]] = {
    "long-conv": lambda: ffnn.LongConv(CHANNELS, CONTEXT),
    "long-conv-groups-no-skip": lambda: ffnn.LongConv(CHANNELS, CONTEXT, groups=2, skip=False),
    "long-conv-short-filter": lambda: ffnn.LongConv(CHANNELS, 9),
    "hyena-2": lambda: ffnn.Hyena(CHANNELS, CONTEXT),
    "hyena-3": lambda: ffnn.Hyena(CHANNELS, CONTEXT, order=3),
    "hyena-1-tap": lambda: ffnn.Hyena(CHANNELS, CONTEXT, short_taps=1),
    "hyena-5-taps": lambda: ffnn.Hyena(CHANNELS, CONTEXT, short_taps=5),
    "stu-tensorised": lambda: ffnn.STU(CHANNELS, CONTEXT, filters=4),
    "stu-full": lambda: ffnn.STU(CHANNELS, CONTEXT, filters=3, tensorised=False),
}


def named(prefix: str) -> list[str]:
    """Names of the mixers of one kind."""
    return [name for name in MIXERS if name.startswith(prefix)]


class Stack(nn.Module):
    """Different mixers in one model: several streams in one cache."""

    def __init__(self) -> None:
        super().__init__()
        self.mixers = nn.ModuleList(MIXERS[name]() for name in ("hyena-2", "stu-full", "hyena-3"))

    def forward(self, x, cache=None):
        for mixer in self.mixers:
            x = x + mixer(x, cache)
        return x


def run_split(model: nn.Module, x: Tensor, splits: Iterable[int], cache: object) -> Tensor:
    """Outputs of consecutive calls over x (B, T, D), cut at the given positions."""
    splits = list(splits)
    ends = [*splits, x.shape[1]]
    pieces = [model(x[:, a:b], cache) for a, b in zip([0, *splits], ends, strict=True)]
    return torch.cat(pieces, 1)


def check_equal(streamed: Tensor, parallel: Tensor) -> None:
    """The same up to the rounding of their dtype."""
    difference = (streamed.double() - parallel.double()).abs().max()
    error = (difference / parallel.double().abs().max()).item()
    print(f"{parallel.dtype}: largest difference {error:.2e}")
    assert error < TOLERANCE[parallel.dtype]


@torch.no_grad()
def check_modes(make: Callable[[], nn.Module], dtype: torch.dtype) -> None:
    """A prompt and 30 steps against the parallel form."""
    torch.manual_seed(0)
    model = make().to(dtype)
    x = torch.randn(3, 47, CHANNELS, dtype=dtype)
    cache = ff.DecodingCache(model, 3, 30)
    streamed = run_split(model, x, range(17, 47), cache)
    assert streamed.dtype == dtype
    check_equal(streamed, model(x))
    assert cache.positions.tolist() == [30, 30, 30]
