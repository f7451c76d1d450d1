"""One token of a `LanguageModel` on the CPU without the overhead of a call per layer.

Between two long convolutions stands a run of norms, products, short convolutions and gates. Each
run is a small program (csrc/ops_token.cpp) over one scratch tensor and one tensor of packed
weights, both made once, so a token is one op per run and one ``cache.step`` per long convolution.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from ...cache.cache import FutureFillCache
from ..filters import LongFilter
from ..hyena import Hyena, ImplicitFilter
from ..language_model import Block, GatedMLP, LanguageModel
from ..short_conv import ShortConv, ShortConvState

_EMBED, _NORM, _DENSE, _SHORT_CONV, _GATE, _ADVANCE = range(6)
_KNOWN = (
    *(LanguageModel, Block, GatedMLP, Hyena, ShortConv, ImplicitFilter),
    *(nn.Embedding, nn.Linear, nn.RMSNorm, nn.ModuleList),
)


def cannot_fuse(model: nn.Module, streams: list[FutureFillCache]) -> list[str]:
    """Why tokens of the model take one call per layer; empty when they can be fused."""
    if type(model) is not LanguageModel:
        return [f"{type(model).__name__} is not an ff.nn.LanguageModel"]
    reasons = [
        f"a {type(m).__name__} inside the model" for m in model.modules() if type(m) not in _KNOWN
    ]
    if any(m._forward_hooks or m._forward_pre_hooks for m in model.modules()):
        reasons.append("modules with forward hooks")
    if any(p.device.type != "cpu" or p.dtype != torch.float32 for p in model.parameters()):
        reasons.append("parameters that are not float32 on the CPU")
    if any(stream.impl != "cpu" for stream in streams):
        reasons.append(f"impl={streams[0].impl!r}")
    return reasons


class FusedToken:
    """One token of every row. The model's weights are packed here, once.

    model: as `cannot_fuse` accepts it. place: the stream and layer of every long filter.
    short: the state of every short convolution; its rings move into ``scratch``.
    """

    def __init__(
        self,
        model: LanguageModel,
        batch_size: int,
        place: dict[LongFilter, tuple[int, int]],
        short: dict[ShortConv, ShortConvState],
    ) -> None:
        self.model, self.batch_size = model, batch_size
        self._op = torch.ops.futurefill_kernels.token_segment.default
        with torch.no_grad():
            program = _Program(model, batch_size, place)
        self._weights = torch.cat(program.weights)
        self._scratch = torch.zeros(program.scratch)
        self._segments = program.segments
        self._rings, self._convs = program.rings, program.convs
        self._logits_at = program.logits
        self._bind(short)

    def _bind(self, short: dict[ShortConv, ShortConvState]) -> None:
        """Views of scratch: what the long convolutions read and write, the short rings, logits."""
        batch, channels = self.batch_size, self.model.config.channels
        for module, offset in self._rings.items():
            state = short[module]
            ring = self._scratch[offset : offset + state.ring.numel()].view(state.ring.shape)
            state.ring = ring.copy_(state.ring)

        def rows(offset: int) -> Tensor:
            return self._scratch[offset : offset + batch * channels].view(batch, channels)

        self._calls = [
            (
                *(conv.stream, conv.layer, rows(conv.u), rows(conv.pre)),
                *(None if conv.post is None else rows(conv.post), rows(conv.y)),
            )
            for conv in self._convs
        ]
        offset, stride, vocabulary = self._logits_at
        self._logits = self._scratch[offset : offset + batch * stride].view(batch, 1, stride)
        self._logits = self._logits[..., :vocabulary]

    def clone(self, short: dict[ShortConv, ShortConvState]) -> FusedToken:
        """The same for cloned short states; the packed weights are shared."""
        other = object.__new__(FusedToken)
        other.__dict__.update(self.__dict__)
        other._scratch = self._scratch.clone()
        other._bind(short)
        return other

    @property
    def nbytes(self) -> int:
        """Bytes of the packed weights and of scratch, short rings included."""
        return self._weights.nbytes + self._scratch.nbytes

    def __call__(self, ids: Tensor, seen: Tensor, streams: list[FutureFillCache]) -> Tensor:
        """ids: (B, 1) int64. seen: (B,) int64 tokens before this one, advanced.

        Returns logits (B, 1, V).
        """
        op, weights, scratch, segments = self._op, self._weights, self._scratch, self._segments
        op(segments[0], ids, weights, scratch, seen)
        for segment, (stream, layer, u, pre, post, y) in enumerate(self._calls, 1):
            streams[stream].step(u, layer, pre=pre, post=post, out=y)
            op(segments[segment], ids, weights, scratch, seen)
        return self._logits.clone(memory_format=torch.contiguous_format)


class _LongConv(NamedTuple):
    """A long convolution between two segments; offsets of (B, D) in scratch."""

    stream: int
    layer: int
    u: int
    pre: int
    post: int | None
    y: int


class _Program:
    """Walks the model as its ``forward`` does and writes the instructions down.

    Buffers are row-major (B, stride) with strides padded to whole panels of outputs.
    """

    def __init__(
        self, model: LanguageModel, batch_size: int, place: dict[LongFilter, tuple[int, int]]
    ) -> None:
        self.batch, self.place = batch_size, place
        self.panel = torch.ops.futurefill_kernels.dense_panel()
        self.weights: list[Tensor] = []
        self.scratch = self._weight_count = 0
        self.rings: dict[ShortConv, int] = {}
        self.convs: list[_LongConv] = []
        self.segments: list[Tensor] = []
        self._lines: list[tuple[int, ...]] = []
        config = model.config
        channels, vocabulary = config.channels, config.vocabulary

        x = self._buffer(channels)
        normed, hidden = self._buffer(channels), self._buffer(channels)
        table = self._constant(model.embedding.weight)
        self._add(_EMBED, y=x, weight=table, k=vocabulary, n=channels)
        for block in model.blocks:
            assert isinstance(block, Block)
            self._norm(block.mixer_norm, x, normed)
            self._mixer(block.mixer, normed, x)
            self._norm(block.mlp_norm, x, normed)
            wide = self._dense(block.mlp.gate_up, normed)
            gated = self._buffer(config.mlp_hidden)
            self._add(_GATE, x=wide, y=gated, n=config.mlp_hidden)
            self._dense(block.mlp.down, gated, into=x)
        self._norm(model.norm, x, hidden)
        logits = self._product(model.embedding.weight, None, hidden, None)
        self.logits = (logits[0], logits[1], vocabulary)
        self._lines.append((_ADVANCE, *[-1] * 9))
        self._close()

    def _mixer(self, mixer: Hyena, x: tuple[int, int], residual: tuple[int, int]) -> None:
        projected = self._dense(mixer.in_proj, x)
        conv, channels = mixer.short_conv, mixer.out_proj.in_features
        width, taps = conv.weight.shape
        line = self._buffer(width)[0]
        first, rows = self._take(self.batch * width), self.batch * channels
        streams = [first + i * rows for i in range(mixer.order + 1)]  # next to each other
        ring = self._take(self.batch * taps * width)
        self.rings[conv] = ring
        # y_stride: room for one row; bias: all channels; extra: the ring
        self._lines.append(
            (
                *(_SHORT_CONV, *projected, streams[0], line),
                *(self._constant(conv.weight.T), width, taps, channels, ring),
            )
        )
        output_gate, *gates, v = streams
        last = len(mixer.filters) - 1
        for i, module in enumerate(mixer.filters):
            assert isinstance(module, LongFilter)
            y = self._take(self.batch * channels)
            post = output_gate if i == last else None
            self.convs.append(_LongConv(*self.place[module], v, gates[last - i], post, y))
            self._close()
            v = y
        self._dense(mixer.out_proj, (v, channels), into=residual)

    def _norm(self, norm: nn.RMSNorm, x: tuple[int, int], y: tuple[int, int]) -> None:
        eps = torch.finfo(torch.float32).eps if norm.eps is None else norm.eps
        weight = self._constant(torch.cat([norm.weight.new_tensor([eps]), norm.weight]))
        self._add(_NORM, x=x, y=y, weight=weight, n=len(norm.weight))

    def _dense(
        self, linear: nn.Linear, x: tuple[int, int], into: tuple[int, int] | None = None
    ) -> tuple[int, int]:
        return self._product(linear.weight, linear.bias, x, into)

    def _product(
        self, weight: Tensor, bias: Tensor | None, x: tuple[int, int], into: tuple[int, int] | None
    ) -> tuple[int, int]:
        """x weight^T + bias into a new buffer, or added to ``into``. weight: (N, K)."""
        n, k = weight.shape
        pad = -n % self.panel
        packed = nn.functional.pad(weight, (0, 0, 0, pad)).unflatten(0, (-1, self.panel))
        y = self._buffer(n) if into is None else into
        self._add(
            _DENSE,
            x=x,
            y=y,
            weight=self._constant(packed.transpose(1, 2)),  # (panels, K, panel)
            bias=-1 if bias is None else self._constant(nn.functional.pad(bias, (0, pad))),
            k=k,
            n=n,
            extra=int(into is not None),
        )
        return y

    def _add(
        self,
        kind: int,
        *,
        y: tuple[int, int],
        x: tuple[int, int] = (-1, -1),
        weight: int = -1,
        bias: int = -1,
        k: int = -1,
        n: int = -1,
        extra: int = -1,
    ) -> None:
        self._lines.append((kind, *x, *y, weight, bias, k, n, extra))

    def _close(self) -> None:
        """End of a segment: a long convolution comes, or the token is done."""
        self.segments.append(torch.tensor(self._lines, dtype=torch.int64))
        self._lines = []

    def _take(self, count: int) -> int:
        """Offset of ``count`` values of scratch, aligned to 64 bytes."""
        offset = self.scratch
        self.scratch += -(-count // 16) * 16
        return offset

    def _buffer(self, channels: int) -> tuple[int, int]:
        """Offset and row stride of (B, channels) with room for whole panels."""
        stride = -(-channels // self.panel) * self.panel
        return self._take(self.batch * stride), stride

    def _constant(self, value: Tensor) -> int:
        """Offset of a copy among the weights, aligned to 64 bytes."""
        flat = value.detach().flatten().to(torch.float32)
        offset = self._weight_count
        padded = nn.functional.pad(flat, (0, -len(flat) % 16))
        self.weights.append(padded)
        self._weight_count += len(padded)
        return offset
