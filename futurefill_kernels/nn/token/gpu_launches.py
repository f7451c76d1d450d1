"""Launches of a fused token, made from tensors and sizes. Importing this needs Triton."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ...implementations.triton_kernels.launch import Launch, open_slots_of
from ...state.tensors import StreamState
from .gpu_config import product_config, round_up, row_warps
from .triton_kernels import dependent_launch
from .triton_kernels.greedy import greedy_kernel
from .triton_kernels.mixer import mixer_kernel, norm_mixer_kernel
from .triton_kernels.norm_products import norm_gate_kernel, norm_logits_kernel
from .triton_kernels.product_add import product_add_kernel
from .triton_kernels.rows import add_norm_kernel, gate_kernel

_GATE_CHANNELS, _MIXER_CHANNELS, _GREEDY_TILE = 512, 256, 2048

#: The first GPUs with programmatic dependent launch.
DEPENDENT_CAPABILITY = (9, 0)


@dataclass(frozen=True)
class LayerStream:
    """One layer of a stream of ``Layout.padded``, a filter per channel, and its short convolution.

    layer: of the stream. conv: (3 D, k), inputs: (B, k, 3 D) and moved: int64, whose first number
    counts the tokens that moved the inputs, or None without gates.
    """

    state: StreamState
    layer: int
    conv: Tensor | None = None
    inputs: Tensor | None = None
    moved: Tensor | None = None

    @property
    def gated(self) -> bool:
        """Whether three projections come in: the output gate, the input gate, the input."""
        return self.conv is not None

    @property
    def sizes(self) -> tuple[int | None, ...]:
        """Slots, those of the open block, lanes and filter lanes."""
        _, _, _, slots, lanes = self.state.ring.shape
        return slots, open_slots_of(self.state.open_block)[1], lanes, self.state.taps.shape[3]

    @property
    def tensors(self) -> tuple[Tensor | None, ...]:
        """In the order of the kernels' parameters."""
        s = self.state
        opened, _ = open_slots_of(s.open_block)
        return s.ring, opened, s.taps, s.skip, s.history, s.token_at, s.positions

    @property
    def constants(self) -> dict[str, Any]:
        """Compile-time arguments of the mixer kernels."""
        taps = 1 if self.conv is None else self.conv.shape[1]
        return {
            "GATED": self.gated,
            "TAPS": taps,
            "SLOTS": round_up(taps),
            "BLOCK": self.state.taps.shape[2],
            "ADVANCE": self.layer == self.state.ring.shape[0] - 1,
        }


def can_depend(device: torch.device) -> bool:
    """Whether launches may be programmatic dependent ones: the card's and this Triton's say."""
    return (
        device.type == "cuda"
        and dependent_launch.AVAILABLE
        and torch.cuda.get_device_capability(device) >= DEPENDENT_CAPABILITY
    )


def ordinary(launch: Launch) -> Launch:
    """The same, starting when all before it is complete, as a token's first launch has to."""
    options = {name: value for name, value in launch.options.items() if name != "launch_pdl"}
    return replace(launch, options=options)


@dataclass(frozen=True)
class TokenLaunches:
    """Makes the launches. pdl: as programmatic dependent ones; see triton_kernels.dependent_launch.

    ``norm_mixer``, ``product_add``, ``norm_gate`` and ``norm_logits`` are for one row, the others
    for several. Weights, x, y are contiguous and of one dtype.
    """

    pdl: bool

    def norm_mixer(
        self,
        x: Tensor,
        token: Tensor | None,
        norm: nn.RMSNorm,
        weight: Tensor,
        bias: Tensor | None,
        stream: LayerStream,
        y: Tensor | None,
        total: Tensor | None,
    ) -> Launch:
        """Norm, projections and mixer; parameters as in norm_mixer_kernel."""
        channels = weight.shape[1]
        config = product_config(channels, channels, weight.itemsize, len(weight) // channels)
        return self._launch(
            norm_mixer_kernel, (-(-channels // config.rows),),
            (
                x, token, norm.weight, weight, bias, stream.conv, stream.inputs, stream.moved, y,
                total, *stream.tensors, stream.layer, len(x), *stream.sizes,
            ),
            config.warps, D=channels, TILE=config.tile, ROWS=config.rows, EPS=eps_of(norm),
            **stream.constants,
        )  # fmt: skip

    def product_add(
        self, x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor, y: Tensor
    ) -> Launch:
        """y = residual + weight @ x + bias; weight (n, K)."""
        n, k = weight.shape
        config = product_config(n, k, weight.itemsize)
        return self._launch(
            product_add_kernel, (-(-n // config.rows),), (x, weight, bias, residual, y, n),
            config.warps, K=k, TILE=config.tile, ROWS=config.rows,
        )  # fmt: skip

    def norm_gate(
        self, x: Tensor, norm: nn.RMSNorm, weight: Tensor, activation: str, y: Tensor
    ) -> Launch:
        """y = act(gate) * up of weight (2n, K) @ norm(x)."""
        n, k = len(weight) // 2, weight.shape[1]
        config = product_config(n, k, weight.itemsize, 2)
        return self._launch(
            norm_gate_kernel, (-(-n // config.rows),), (x, norm.weight, weight, y, n),
            config.warps, K=k, TILE=config.tile, ROWS=config.rows, EPS=eps_of(norm),
            ACTIVATION=activation,
        )  # fmt: skip

    def norm_logits(
        self, x: Tensor, norm: nn.RMSNorm, weight: Tensor, logits: Tensor, best: Tensor,
        best_id: Tensor,
    ) -> Launch:  # fmt: skip
        """logits (n,) = weight (n, K) @ norm(x). best, best_id: (`logit_programs`,)."""
        n, k = weight.shape
        config = product_config(n, k, weight.itemsize)
        return self._launch(
            norm_logits_kernel, (len(best),), (x, norm.weight, weight, logits, best, best_id, n),
            config.warps, K=k, TILE=config.tile, ROWS=config.rows, EPS=eps_of(norm),
        )  # fmt: skip

    def greedy(self, best: Tensor, best_id: Tensor, token: Tensor) -> Launch:
        """token (1,) int64 = the id of the largest logit."""
        tile = min(round_up(len(best)), _GREEDY_TILE)
        return self._launch(
            greedy_kernel, (1,), (best, best_id, token, len(best)), row_warps(tile), TILE=tile
        )

    def mixer(self, projections: Tensor, stream: LayerStream, y: Tensor) -> Launch:
        """y (B, D) from projections (B, 3 D) or (B, D)."""
        batch, channels = y.shape
        width = min(round_up(channels), _MIXER_CHANNELS)
        return self._launch(
            mixer_kernel, (-(-channels // width), batch),
            (
                projections, stream.conv, stream.inputs, stream.moved, y, *stream.tensors,
                stream.layer, batch, *stream.sizes,
            ),
            4, D=channels, CHANNELS=width, **stream.constants,
        )  # fmt: skip

    def embed_norm(
        self, table: Tensor, token: Tensor, norm: nn.RMSNorm, x: Tensor, y: Tensor
    ) -> Launch:
        """x (B, D) = table[token], y = norm(x). token: (B,) int64."""
        return self._add_norm(x, None, table, token, norm, y)

    def add_norm(self, x: Tensor, add: Tensor, norm: nn.RMSNorm, y: Tensor) -> Launch:
        """x (B, D) += add, y = norm(x)."""
        return self._add_norm(x, add, None, None, norm, y)

    def gate(self, wide: Tensor, activation: str, y: Tensor) -> Launch:
        """y (B, n) = act(gate) * up, the halves of wide (B, 2n)."""
        batch, n = y.shape
        width = min(round_up(n), _GATE_CHANNELS)
        return self._launch(
            gate_kernel, (-(-n // width), batch), (wide, y, n), 4, CHANNELS=width,
            ACTIVATION=activation,
        )  # fmt: skip

    def _add_norm(
        self, x: Tensor, add: Tensor | None, table: Tensor | None, token: Tensor | None,
        norm: nn.RMSNorm, y: Tensor,
    ) -> Launch:  # fmt: skip
        batch, channels = x.shape
        return self._launch(
            add_norm_kernel, (batch,),
            (x, add, table, token, norm.weight, y, 0 if table is None else len(table)),
            row_warps(channels), D=channels, TILE=round_up(channels), EPS=eps_of(norm),
        )  # fmt: skip

    def _launch(
        self, kernel: Any, grid: tuple[int, ...], arguments: tuple[Any, ...], warps: int,
        **constants: Any,
    ) -> Launch:  # fmt: skip
        options: dict[str, Any] = {"num_warps": warps, "enable_fp_fusion": True}
        if self.pdl:
            options["launch_pdl"] = True
        return Launch(kernel, grid, arguments, {**constants, "PDL": self.pdl}, options)


def logit_programs(weight: Tensor) -> int:
    """Programs of ``norm_logits`` for weights (n, K)."""
    return -(-len(weight) // product_config(len(weight), weight.shape[1], weight.itemsize).rows)


def eps_of(norm: nn.RMSNorm) -> float:
    """What the norm adds to the mean square; torch computes it in float32."""
    return torch.finfo(torch.float32).eps if norm.eps is None else float(norm.eps)
