"""One token of a `LanguageModel` on a GPU in few launches.

For one row, norms, gates, short convolutions, the long ones' apply and residuals are parts of the
products: a Hyena layer is 4 launches, an STU layer 3. For several rows torch's matrix products
stand between fused element-wise kernels. Weights are read where they are.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ...cache.cache import FutureFillCache
from ...implementations import triton
from ..filters import LongFilter
from ..hyena import Hyena
from ..language_model import Block, GatedMLP, LanguageModel
from ..short_conv import ShortConv, ShortConvState
from ..stu import STU
from .parts import unknown_parts

if TYPE_CHECKING:
    from .gpu_launches import Launch, LayerStream

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def cannot_fuse(model: nn.Module, caches: list[FutureFillCache]) -> list[str]:
    """Why tokens of the model take one call per layer; empty when they can be fused."""
    reasons = unknown_parts(model)
    parameters = list(model.parameters())
    if not reasons and isinstance(model, LanguageModel):
        reasons += _other_forms(model)
    if len({p.dtype for p in parameters}) > 1 or parameters[0].dtype not in _DTYPES:
        reasons.append("parameters that are not all float32, all bfloat16 or all float16")
    device = caches[0].device
    if any(p.device != device for p in parameters):
        reasons.append(f"parameters that are not on {device}")
    if not all(p.is_contiguous() for p in parameters):
        reasons.append("parameters that are not contiguous")
    if any(cache.capabilities.kind != "cuda" for cache in caches):
        reasons.append(f"impl={caches[0].impl!r}")
    # the kernels are Triton's whatever the implementation of the streams
    return reasons + triton.cannot_run(device, torch.float32, None)


def _other_forms(model: LanguageModel) -> list[str]:
    """Mixers and weights that are not of the form that the launches are written for."""
    channels = model.embedding.weight.shape[1]
    reasons = []
    shapes: list[tuple[str, Tensor, tuple[int, ...]]] = [("norm", model.norm.weight, (channels,))]
    for i, block in enumerate(model.blocks):
        assert isinstance(block, Block)
        mixer, mlp, name = block.mixer, block.mlp, f"blocks.{i}"
        hidden = mlp.down.in_features
        square = (channels, channels)
        if isinstance(mixer, STU):
            shapes.append((f"{name}.mixer.proj", mixer.proj.weight, square))
            if not mixer.tensorised:
                reasons.append(f"{name}.mixer is not tensorised")
        elif mixer.order != 2 or len(mixer.filters) != 1:
            reasons.append(f"{name}.mixer is of order {mixer.order}, not 2")
        else:
            wide, conv = (3 * channels, channels), mixer.short_conv.weight
            shapes.append((f"{name}.mixer.in_proj", mixer.in_proj.weight, wide))
            shapes.append((f"{name}.mixer.short_conv", conv, (wide[0], conv.shape[1])))
            shapes.append((f"{name}.mixer.out_proj", mixer.out_proj.weight, square))
        shapes += [
            (f"{name}.mixer_norm", block.mixer_norm.weight, (channels,)),
            (f"{name}.mlp_norm", block.mlp_norm.weight, (channels,)),
            (f"{name}.mlp.gate_up", mlp.gate_up.weight, (2 * hidden, channels)),
            (f"{name}.mlp.down", mlp.down.weight, (channels, hidden)),
        ]
        if mlp.gate_up.bias is not None:
            reasons.append(f"{name}.mlp.gate_up has a bias")
        if mlp.activation not in ("silu", "gelu"):
            reasons.append(f"{name}.mlp has the activation {mlp.activation!r}")
    return reasons + [
        f"the weight of {name} is {tuple(weight.shape)}, not {shape}"
        for name, weight, shape in shapes
        if weight.shape != shape
    ]


class FusedToken:
    """One token of every row. Everything that a token writes is allocated here, once.

    model: as `cannot_fuse` accepts it. place: cache and layer of every long filter. short: the
    state of every short convolution, which is moved on in place. caches: of the long filters.
    pdl: programmatic dependent launches; default where the card and Triton have them.
    """

    def __init__(
        self,
        model: LanguageModel,
        batch_size: int,
        place: dict[LongFilter, tuple[int, int]],
        short: dict[ShortConv, ShortConvState],
        caches: list[FutureFillCache],
        *,
        pdl: bool | None = None,
    ) -> None:
        from .gpu_launches import TokenLaunches, can_depend, logit_programs

        self.model = model
        self._batch_size, self._place = batch_size, place
        table = model.embedding.weight.detach()
        self._launches = TokenLaunches(can_depend(table.device) if pdl is None else pdl)
        self._programs = logit_programs(table)
        self._bind(short, caches)

    @property
    def nbytes(self) -> int:
        """Bytes of scratch, logits included, and of the short convolutions' inputs."""
        scratch = sum(x.nbytes for x in self._scratch)
        return scratch + sum(state.inputs.nbytes for state in self._short.values())

    def clone(
        self, short: dict[ShortConv, ShortConvState], caches: list[FutureFillCache]
    ) -> FusedToken:
        """The same for cloned states, with scratch of its own."""
        other = copy.copy(self)
        other._bind(short, caches)
        return other

    def takes(self, caches: list[FutureFillCache]) -> bool:
        """Whether the caches take its inputs: always, it writes their state itself."""
        return True

    def begin(self, rows: list[int] | None = None) -> None:
        """A token of all rows is next; which of its parts have run is counted on the device."""

    def __call__(self, ids: Tensor, caches: list[FutureFillCache] | None = None) -> Tensor:
        """ids: (B, 1) int64, contiguous. Returns logits (B, 1, V), the same memory every time.
        caches: those that it was made with.

        Keeps no books: the caller begins and finishes the token. An id outside the vocabulary gives
        NaN.
        """
        from .gpu_launches import ordinary

        for cache in self._caches:
            cache.join_history()
        with torch.no_grad():
            ordinary(self._first(ids.view(-1))).run()
            for call in self._calls:
                call()
        return self._logits[:, None]

    def finish(self) -> None:
        """The last token is not going to be aborted."""
        self._finished += 1

    def abort(self) -> None:
        """Take back what a token that is not finished moved here: the inputs of short convolutions.

        For use after an exception inside it, or instead of `finish`.
        """
        rows = self._logits.new_ones(self._batch_size, dtype=torch.bool)
        moved = (self._moved[:, 0] > self._finished).tolist()
        for state, ran in zip(self._short.values(), moved, strict=True):
            if ran:
                state.take_back(rows)
        self._moved.fill_(self._finished)

    def draw_greedy(self, token: Tensor) -> None:
        """token (B, 1) int64 = the lowest id of the largest logit of the last call."""
        if self._batch_size == 1:
            self._launches.greedy(self._best, self._best_id, token.view(-1)).run()
        else:
            torch.argmax(self._logits, -1, keepdim=True, out=token)

    def _bind(self, short: dict[ShortConv, ShortConvState], caches: list[FutureFillCache]) -> None:
        """Scratch and the launches of a token, for these states."""
        weight = self.model.embedding.weight.detach()
        self._caches, self._short = caches, short
        self._scratch: list[Tensor] = []
        # tokens that each short convolution has seen; rows of 16 bytes, so that all of its launches
        # are of one compiled kernel
        self._moved = weight.new_zeros(len(short), 2, dtype=torch.int64)
        self._finished = 0
        self._logits = self._new(len(weight))
        self._calls: list[Callable[[], object]] = []
        if self._batch_size == 1:
            self._best = weight.new_empty(self._programs, dtype=torch.float32)
            self._best_id = weight.new_empty(self._programs, dtype=torch.int32)
            self._scratch += [self._best, self._best_id]
            self._first = self._one_row()
        else:
            self._first = self._several_rows()

    def _new(self, width: int) -> Tensor:
        """(B, width) of scratch in the model's dtype."""
        x = self.model.embedding.weight.new_empty(self._batch_size, width, requires_grad=False)
        self._scratch.append(x)
        return x

    def _stream(self, mixer: Hyena | STU) -> LayerStream:
        from .gpu_launches import LayerStream

        module = mixer.filters[0] if isinstance(mixer, Hyena) else mixer.filter
        assert isinstance(module, LongFilter)
        index, layer = self._place[module]
        state = self._caches[index].state
        if isinstance(mixer, STU):
            return LayerStream(state, layer)
        conv = mixer.short_conv
        moved = self._moved[list(self._short).index(conv)]
        return LayerStream(state, layer, conv.weight.detach(), self._short[conv].inputs, moved)

    def _one_row(self) -> Callable[[Tensor], Launch]:
        """Writes the calls down; returns the first launch, which needs the token's ids."""
        model, go = self.model, self._launches
        table = model.embedding.weight.detach()
        x, other, v = (self._new(table.shape[1])[0] for _ in range(3))
        widest = self._new(_hidden(model))[0]
        launches: list[Launch] = []
        for i, block in enumerate(model.blocks):
            assert isinstance(block, Block)
            mixer, mlp = block.mixer, block.mlp
            gated = isinstance(mixer, Hyena)
            linear = mixer.in_proj if isinstance(mixer, Hyena) else mixer.proj
            mixed = x if gated else other  # the residual stream after the mixer
            mix = partial(
                go.norm_mixer, norm=block.mixer_norm, weight=linear.weight.detach(),
                bias=_detached(linear.bias), stream=self._stream(mixer), y=v if gated else None,
            )  # fmt: skip
            if i > 0:
                launches.append(mix(x, None, total=None if gated else mixed))
            else:
                first = partial(mix, table, total=mixed)
            if isinstance(mixer, Hyena):
                launches.append(go.product_add(v, *_weights(mixer.out_proj), x, x))
            gate_up, hidden = mlp.gate_up.weight.detach(), widest[: mlp.down.in_features]
            launches.append(go.norm_gate(mixed, block.mlp_norm, gate_up, mlp.activation, hidden))
            launches.append(go.product_add(hidden, *_weights(mlp.down), mixed, x))
        best = self._best, self._best_id
        launches.append(go.norm_logits(x, model.norm, table, self._logits[0], *best))
        self._calls = [launch.run for launch in launches]
        return first

    def _several_rows(self) -> Callable[[Tensor], Launch]:
        """As `_one_row`, with torch's products between the launches."""
        model, go, calls, batch = self.model, self._launches, self._calls, self._batch_size
        table = model.embedding.weight.detach()
        channels = table.shape[1]
        x, normed, v, add = (self._new(channels) for _ in range(4))
        projected, widest = self._new(3 * channels), self._new(3 * _hidden(model)).view(-1)
        for i, block in enumerate(model.blocks):
            assert isinstance(block, Block)
            mixer, mlp, stream = block.mixer, block.mlp, self._stream(block.mixer)
            if i > 0:
                calls.append(go.add_norm(x, add, block.mixer_norm, normed).run)
            else:
                first = partial(go.embed_norm, table, norm=block.mixer_norm, x=x, y=normed)
            if isinstance(mixer, Hyena):
                calls.append(_product(normed, mixer.in_proj, projected))
                calls.append(go.mixer(projected, stream, v).run)
                calls.append(_product(v, mixer.out_proj, add))
            else:
                calls.append(_product(normed, mixer.proj, v))
                calls.append(go.mixer(v, stream, add).run)
            hidden = mlp.down.in_features
            wide = widest[: batch * 2 * hidden].view(batch, -1)
            gated = widest[batch * 2 * hidden :][: batch * hidden].view(batch, -1)
            calls.append(go.add_norm(x, add, block.mlp_norm, normed).run)
            calls.append(_product(normed, mlp.gate_up, wide))
            calls.append(go.gate(wide, mlp.activation, gated).run)
            calls.append(_product(gated, mlp.down, add))
        calls.append(go.add_norm(x, add, model.norm, normed).run)
        calls.append(partial(torch.mm, normed, table.T, out=self._logits))
        return first


def _hidden(model: LanguageModel) -> int:
    """Width inside the widest MLP."""
    return max(m.down.in_features for m in model.modules() if isinstance(m, GatedMLP))


def _product(x: Tensor, linear: nn.Linear, y: Tensor) -> Callable[[], object]:
    """``y = linear(x)``; x, y: (B, ...)."""
    weight, bias = _weights(linear)
    if bias is None:
        return partial(torch.mm, x, weight.T, out=y)
    return partial(torch.addmm, bias, x, weight.T, out=y)


def _weights(linear: nn.Linear) -> tuple[Tensor, Tensor | None]:
    return linear.weight.detach(), _detached(linear.bias)


def _detached(x: Tensor | None) -> Tensor | None:
    return None if x is None else x.detach()
