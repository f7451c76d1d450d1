"""Launches of a fused token on random tensors, and what torch gives for them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from futurefill_kernels import Plan
from futurefill_kernels.implementations import triton
from futurefill_kernels.implementations.triton_kernels.launch import Launch
from futurefill_kernels.nn.token.gpu_launches import LayerStream, TokenLaunches, logit_programs
from futurefill_kernels.state.tensors import allocate

#: Relative to the largest value: sums in another order, and roundings to the dtype.
TOLERANCE = {torch.float32: 3e-6, torch.bfloat16: 3e-2, torch.float16: 3e-3}


@dataclass(frozen=True)
class Case:
    """A launch, what it has to leave in which tensors, and how far off that may be."""

    launch: Launch
    expected: dict[str, tuple[Tensor, Tensor]]  # what it wrote, what it should have written

    def check(self, tolerance: float) -> None:
        """Compare after the launch has run."""
        for name, (got, expected) in self.expected.items():
            scale = float(expected.double().nan_to_num().abs().max()) if expected.numel() else 1.0
            torch.testing.assert_close(
                got.double(), expected.double(), rtol=0, atol=tolerance * max(scale, 1e-9),
                equal_nan=True, msg=lambda text, name=name: f"{name}: {text}",
            )  # fmt: skip


def tolerance(case: Case) -> float:
    """Of the least exact dtype that was written."""
    return max(TOLERANCE.get(x.dtype, 0.0) for x, _ in case.expected.values())


def make_norm(channels: int, dtype: torch.dtype, eps: float | None = 1e-5) -> nn.RMSNorm:
    norm = nn.RMSNorm(channels, eps=eps, dtype=dtype)
    with torch.no_grad():
        norm.weight += 0.1 * torch.randn(channels).to(dtype)
    return norm.requires_grad_(False)


def make_stream(
    channels: int, batch: int, gated: bool, taps: int, dtype: torch.dtype, positions: list[int],
    layer: int, skip: bool, ring_dtype: torch.dtype | None,
) -> LayerStream:  # fmt: skip
    """Two layers of a stream whose history has been summed at these positions."""
    plan = Plan(9, (4,))
    layout = triton.make_layout(channels, channels, torch.float32, plan)
    filters = [torch.randn(channels, 9) for _ in range(2)]
    weights = torch.randn(2, channels) if skip else None
    state = allocate(
        plan, layout, triton.make_spectra, filters, batch, weights, ring_dtype=ring_dtype
    )
    state.ring.normal_()
    state.open_block.normal_()
    state.history.normal_()
    state.token_at.copy_(torch.tensor(positions))
    state.positions.copy_(torch.tensor(positions))
    if not gated:
        return LayerStream(state, layer)
    conv = torch.randn(3 * channels, taps).to(dtype)
    inputs = torch.randn(batch, taps, 3 * channels).to(dtype)
    return LayerStream(state, layer, conv, inputs, torch.tensor([6, 0]))


def expected_mixer(projections: Tensor, stream: LayerStream) -> tuple[Tensor, dict[str, Tensor]]:
    """y (B, D) of projections (B, 3 D) or (B, D), and the state after it."""
    state, layer, dtype = stream.state, stream.layer, projections.dtype
    names = ("ring", "open_block", "positions")
    after = {name: getattr(state, name).clone() for name in names}
    slots = after["open_block" if state.narrow else "ring"]
    u, pre, post = projections.float(), None, None
    if stream.conv is not None and stream.inputs is not None:
        inputs = torch.cat([stream.inputs[:, 1:], projections[:, None]], 1)
        after["inputs"], after["moved"] = inputs, torch.tensor([7, 0])
        sums = (inputs.double() * stream.conv.double().flip(1).T).sum(1)
        post, pre, u = sums.to(dtype).float().chunk(3, 1)
    channels = state.channels
    x = u if pre is None else pre * u
    weight = state.taps[layer, 0, 0, :channels]
    if state.skip is not None:
        weight = weight + state.skip[layer, :channels]
    y = state.history[layer, :, :channels] + weight * x
    y = y if post is None else post * y
    for b, p in enumerate(state.token_at[layer].tolist()):
        if 0 <= p < state.ring.shape[3]:
            stored = x[b].to(state.ring.dtype)
            slots[layer, b, 0, p % slots.shape[3], :channels] = stored
            if layer == state.ring.shape[0] - 1:
                after["positions"][b] = p + 1
        else:
            y[b] = float("nan")
    return y.to(dtype), after


def stream_tensors(
    stream: LayerStream, after: dict[str, Tensor]
) -> dict[str, tuple[Tensor, Tensor]]:
    state = stream.state
    held = {
        "ring": state.ring, "open_block": state.open_block, "positions": state.positions,
        "inputs": stream.inputs, "moved": stream.moved,
    }  # fmt: skip
    return {name: (held[name], value) for name, value in after.items()}


def mixer_case(
    go: TokenLaunches, channels: int, dtype: torch.dtype, *, gated: bool = True, taps: int = 3,
    positions: tuple[int, ...] = (5,), layer: int = 1, skip: bool = True,
    ring_dtype: torch.dtype | None = None,
) -> Case:  # fmt: skip
    batch = len(positions)
    stream = make_stream(
        channels, batch, gated, taps, dtype, list(positions), layer, skip, ring_dtype
    )
    projections = torch.randn(batch, (3 if gated else 1) * channels).to(dtype)
    y = torch.full((batch, channels), float("nan"), dtype=dtype)
    expected, after = expected_mixer(projections, stream)
    launch = go.mixer(projections, stream, y)
    return Case(launch, {"y": (y, expected), **stream_tensors(stream, after)})


def norm_mixer_case(
    go: TokenLaunches, channels: int, dtype: torch.dtype, *, gated: bool = True, taps: int = 3,
    position: int = 5, layer: int = 1, skip: bool = True, token: int | None = None,
    bias: bool = True, ring_dtype: torch.dtype | None = None,
) -> Case:  # fmt: skip
    stream = make_stream(channels, 1, gated, taps, dtype, [position], layer, skip, ring_dtype)
    wide = (3 if gated else 1) * channels
    norm = make_norm(channels, dtype)
    weight = (torch.randn(wide, channels) / channels**0.5).to(dtype)
    offset = torch.randn(wide).to(dtype) if gated and bias else None
    table = torch.randn(1 if token is None else 11, channels).to(dtype)
    x = table[0] if token is None else table
    chosen = None if token is None else torch.tensor([token])
    row = (
        table[0]
        if token is None
        else table[token]
        if token < 11
        else x.new_full((channels,), float("nan"))
    )
    first = row if token is None or token < 11 else table[0]
    projections = F.linear(norm(first), weight, offset)[None]
    if row is not first:
        projections[0, :channels] = float("nan")
    result, after = expected_mixer(projections, stream)
    expected = dict(stream_tensors(stream, after))
    y = total = None
    if gated:
        y = torch.full((channels,), float("nan"), dtype=dtype)
        expected["y"] = y, result[0]
    if token is not None or not gated:
        total = torch.zeros(channels, dtype=dtype)
        expected["total"] = total, row if gated else row + result[0]
    launch = go.norm_mixer(x, chosen, norm, weight, offset, stream, y, total)
    return Case(launch, expected)


def product_add_case(
    go: TokenLaunches, outputs: int, inputs: int, dtype: torch.dtype, bias: bool = True
) -> Case:
    x, residual = torch.randn(inputs).to(dtype), torch.randn(outputs).to(dtype)
    weight = (torch.randn(outputs, inputs) / inputs**0.5).to(dtype)
    offset = torch.randn(outputs).to(dtype) if bias else None
    expected = residual + F.linear(x, weight, offset)
    launch = go.product_add(x, weight, offset, residual, residual)
    return Case(launch, {"residual": (residual, expected)})


def gate_of(wide: Tensor, activation: str) -> Tensor:
    gate, up = wide.chunk(2, -1)
    return (F.silu(gate) if activation == "silu" else F.gelu(gate, approximate="tanh")) * up


def norm_gate_case(
    go: TokenLaunches, outputs: int, inputs: int, dtype: torch.dtype, activation: str = "silu"
) -> Case:
    norm, x = make_norm(inputs, dtype), torch.randn(inputs).to(dtype)
    weight = (torch.randn(2 * outputs, inputs) / inputs**0.5).to(dtype)
    y = torch.full((outputs,), float("nan"), dtype=dtype)
    launch = go.norm_gate(x, norm, weight, activation, y)
    return Case(launch, {"y": (y, gate_of(F.linear(norm(x), weight), activation))})


def norm_logits_case(go: TokenLaunches, vocabulary: int, inputs: int, dtype: torch.dtype) -> Case:
    norm, x = make_norm(inputs, dtype), torch.randn(inputs).to(dtype)
    weight = (torch.randn(vocabulary, inputs) / inputs**0.5).to(dtype)
    logits = torch.full((vocabulary,), float("nan"), dtype=dtype)
    best = torch.full((logit_programs(weight),), float("nan"))
    best_id = torch.full(best.shape, -1, dtype=torch.int32)
    expected = F.linear(norm(x), weight)
    launch = go.norm_logits(x, norm, weight, logits, best, best_id)
    parts = expected.float().split(launch.constants["ROWS"])
    return Case(
        launch,
        {"logits": (logits, expected), "best": (best, torch.stack([p.max() for p in parts]))},
    )


def greedy_case(go: TokenLaunches, programs: int) -> Case:
    """The largest in several places."""
    best = torch.randint(4, (programs,)).float()
    best_id = (3 * torch.arange(programs)).int()
    token = torch.tensor([-1])
    return Case(
        go.greedy(best, best_id, token), {"token": (token, best_id[best.argmax()].long()[None])}
    )


def add_norm_case(go: TokenLaunches, channels: int, batch: int, dtype: torch.dtype) -> Case:
    norm = make_norm(channels, dtype)
    x, add = torch.randn(2, batch, channels).to(dtype)
    y = torch.full_like(x, float("nan"))
    expected = {"x": (x, x + add), "y": (y, norm(x + add))}
    return Case(go.add_norm(x, add, norm, y), expected)


def embed_norm_case(go: TokenLaunches, channels: int, token: list[int], dtype: torch.dtype) -> Case:
    norm, table = make_norm(channels, dtype), torch.randn(11, channels).to(dtype)
    x, y = torch.full((2, len(token), channels), float("nan"), dtype=dtype)
    ids = torch.tensor(token)
    row = table[ids.clamp(0, 10)]
    row[(ids < 0) | (ids > 10)] = float("nan")
    return Case(go.embed_norm(table, ids, norm, x, y), {"x": (x, row), "y": (y, norm(row))})


def gate_case(
    go: TokenLaunches, channels: int, batch: int, dtype: torch.dtype, activation: str = "silu"
) -> Case:
    wide = torch.randn(batch, 2 * channels).to(dtype)
    y = torch.full((batch, channels), float("nan"), dtype=dtype)
    return Case(go.gate(wide, activation, y), {"y": (y, gate_of(wide, activation))})


#: One small case per kernel and path.
SMALL: dict[str, Callable[[TokenLaunches, torch.dtype], Case]] = {
    "norm_mixer": lambda go, dtype: norm_mixer_case(go, 24, dtype),
    "norm_mixer, embedding": lambda go, dtype: norm_mixer_case(go, 24, dtype, token=10),
    "norm_mixer, no gates": lambda go, dtype: norm_mixer_case(
        go, 33, dtype, gated=False, skip=False
    ),
    "norm_mixer, no gates, embedding": lambda go, dtype: norm_mixer_case(
        go, 32, dtype, gated=False, skip=False, token=0, layer=0
    ),
    "mixer": lambda go, dtype: mixer_case(go, 33, dtype, positions=(8, 9, 0)),
    "mixer, no gates": lambda go, dtype: mixer_case(
        go, 24, dtype, gated=False, positions=(3, 4), layer=0
    ),
    "norm_mixer, state of 16 bits": lambda go, dtype: norm_mixer_case(
        go, 24, dtype, ring_dtype=torch.float16
    ),
    "mixer, state of 16 bits": lambda go, dtype: mixer_case(
        go, 33, dtype, gated=False, positions=(8, 9, 0), ring_dtype=torch.float16
    ),
    "product_add": lambda go, dtype: product_add_case(go, 33, 40, dtype),
    "norm_gate": lambda go, dtype: norm_gate_case(go, 17, 33, dtype),
    "norm_logits": lambda go, dtype: norm_logits_case(go, 300, 24, dtype),
    "greedy": lambda go, dtype: greedy_case(go, 100),
    "add_norm": lambda go, dtype: add_norm_case(go, 33, 3, dtype),
    "embed_norm": lambda go, dtype: embed_norm_case(go, 24, [10, 0, 11], dtype),
    "gate": lambda go, dtype: gate_case(go, 40, 3, dtype, "gelu"),
}
