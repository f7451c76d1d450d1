"""The few-tap depthwise convolution before the gates, and its decoding state."""

from __future__ import annotations

import copy
from collections.abc import Collection, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..checks import state_dtype
from .interface import Cache


class ShortConv(nn.Module):
    """Causal depthwise convolution of ``taps`` taps.

    weight: (C, taps), tap 0 multiplies the newest input; it starts close to the identity.
    """

    def __init__(self, channels: int, taps: int = 3) -> None:
        super().__init__()
        if taps < 1:
            raise ValueError(f"expected taps >= 1, got {taps}")
        self.weight = nn.Parameter(torch.randn(channels, taps) * 0.3)
        with torch.no_grad():
            self.weight[:, 0] += 1.0

    def taps(self) -> Tensor:
        """(C, k), tap 0 multiplies the newest input."""
        return self.weight

    def forward(self, x: Tensor, cache: Cache | None = None) -> Tensor:
        """x: (B, C, T). Returns (B, C, T)."""
        if cache is not None:
            return cache.short_conv(self, x)
        taps = self.taps()
        return _convolve(F.pad(x, (taps.shape[1] - 1, 0)), taps.flip(1))


def _convolve(x: Tensor, taps: Tensor) -> Tensor:
    """Outputs that have all their inputs. x: (B, C, k-1 + T). taps: (C, k), the oldest input's tap
    first. Returns (B, C, T).
    """
    return F.conv1d(x, taps[:, None], groups=len(taps))


class ShortConvState:
    """The last ``k`` inputs of every row; the state of one `ShortConv`.

    inputs: (B, k, C), oldest first, at one address for good. The next output needs the newest
    ``k - 1``; the oldest is there so that a token can be taken back. A step or prompt stages what
    the inputs become: `commit` lets it happen, ``drop_staged`` forgets it.
    older: (B, rollback, C), inputs that have left since, so that ``crop`` can take back as many
    tokens of the stream: slot ``t % rollback`` has the one that left when position ``t`` came.
    `keep_oldest` and `keep_left` write it.
    """

    def __init__(self, conv: ShortConv, batch_size: int, rollback: int = 0) -> None:
        weight = conv.taps().detach().flip(1).T.contiguous()  # (k, C), the oldest's first
        self.inputs = weight.new_zeros(batch_size, *weight.shape)
        self.older = weight.new_zeros(batch_size, rollback, weight.shape[1])
        self._taps = weight.to(state_dtype(weight.dtype))
        self._staged: tuple[Tensor | None, Tensor] | None = None  # rows, and what they become
        self._left: Tensor | None = None  # of a staged chunk: (R, C, T), what left at each position

    @property
    def nbytes(self) -> int:
        """Bytes of the inputs, of those that a call under way leaves, and of the taps."""
        staged = (self._left, *(self._staged or ()))
        left = sum(x.nbytes for x in staged if isinstance(x, Tensor))
        return self.inputs.nbytes + self.older.nbytes + self._taps.nbytes + left

    def clone(self) -> ShortConvState:
        """An independent state with the same inputs, nothing staged; the taps are shared."""
        other = copy.copy(self)
        other.inputs, other.older = self.inputs.clone(), self.older.clone()
        other.drop_staged()
        return other

    def step(self, x: Tensor, rows: list[int] | None = None) -> Tensor:
        """One token. x: (R, C). rows: of the batch, None for all. Returns (R, C)."""
        index, inputs = self._select(rows)
        inputs = torch.cat([inputs[:, 1:], x[:, None]], 1)
        self._staged = index, inputs
        return (inputs * self._taps).sum(1).to(x.dtype)

    def prefill(
        self, x: Tensor, rows: list[int] | None = None, lengths: list[int] | None = None
    ) -> Tensor:
        """Many tokens. x: (R, C, T), right-padded to lengths (R,) where they are given.

        Returns (R, C, T); what stands behind a row's length is undefined.
        """
        index, inputs = self._select(rows)
        k = inputs.shape[1]
        whole = torch.cat([inputs[:, 1:].transpose(1, 2), x], 2)  # (R, C, k-1 + T)
        if lengths is None:
            newest = whole[..., -k:]
        else:
            end = torch.tensor(lengths, device=x.device)[:, None]
            last = torch.arange(k, device=x.device) + end - 1  # (R, k)
            newest = whole.gather(2, last[:, None].expand(-1, whole.shape[1], -1))
        if self.older.shape[1]:
            self._left = torch.cat([inputs[:, :1].transpose(1, 2), whole[..., : x.shape[2] - 1]], 2)
        self._staged = index, newest.transpose(1, 2).contiguous()
        return _convolve(whole, self._taps.T.to(whole.dtype)).to(x.dtype)

    def drop_staged(self) -> None:
        """Forget what the calls since the last `commit` staged."""
        self._staged = self._left = None

    def take_back(self, ran: Tensor) -> None:
        """Undo the last committed token of the rows where ran (B,) bool is true.

        Once between two tokens: the oldest input becomes zero, which the next outputs do not need.
        """
        before = F.pad(self.inputs[:, :-1], (0, 0, 1, 0))
        self.inputs.copy_(torch.where(ran[:, None, None], before, self.inputs))

    @property
    def newest(self) -> Tensor:
        """(B, k - 1, C), what the next output needs; a view."""
        return self.inputs[:, 1:]

    @property
    def taps(self) -> Tensor:
        """(k, C), the oldest input's first, of the arithmetic's dtype."""
        return self._taps

    def put_back_oldest(self, rows: Sequence[int], positions: Sequence[int]) -> None:
        """The oldest inputs of rows at positions as `keep_oldest` found them."""
        if self.older.shape[1]:
            index, slots = self._places(rows, positions)
            self.inputs[index, 0] = self.older[index, slots]

    def crop(self, rows: Sequence[int], positions: Sequence[int], targets: Sequence[int]) -> None:
        """Take back the positions from targets on of rows that are at positions, at most
        ``rollback`` of each.
        """
        device, rollback = self.inputs.device, self.older.shape[1]
        index, at, target = (
            torch.tensor(list(x), dtype=torch.int64, device=device)[:, None]
            for x in (rows, positions, targets)
        )
        column = torch.arange(self.inputs.shape[1], device=device)
        older = self.older[index, (target + column) % rollback]  # (R, k, C)
        newer = self.inputs[index, (column - at + target).clamp(min=0)]
        self.inputs[index[:, 0]] = older.where((target + column < at)[..., None], newer)

    def reset(self, rows: list[int]) -> None:
        """Forget all inputs of the rows, and what is staged."""
        if len(rows) == len(self.inputs):
            self.inputs.zero_()
        else:
            self.inputs[rows] = 0
        self.drop_staged()

    def reorder(self, rows: list[int]) -> None:
        """Row ``b`` becomes what row ``rows[b]`` was. rows: (B,)."""
        for tensor in (self.inputs, self.older):
            tensor.copy_(tensor[rows])

    def _places(self, rows: Sequence[int], positions: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Rows, and the slots of positions, as indices of older."""
        device = self.inputs.device
        index = torch.tensor(list(rows), dtype=torch.int64, device=device)
        return index, torch.tensor(positions, device=device) % self.older.shape[1]

    def _select(self, rows: list[int] | None) -> tuple[Tensor | None, Tensor]:
        """The rows as an index, None for all, and their inputs (R, k, C)."""
        if rows is None:
            return None, self.inputs
        index = torch.tensor(rows, device=self.inputs.device)
        return index, self.inputs[index]


def commit(states: Collection[ShortConvState]) -> None:
    """Let happen what a call of all these states staged; one launch where it is about all rows."""
    whole: list[Tensor] = []
    staged: list[Tensor] = []
    for state in states:
        if state._staged is None:
            continue
        rows, inputs = state._staged
        if rows is None:
            whole.append(state.inputs)
            staged.append(inputs)
        else:
            state.inputs[rows] = inputs
    if whole:
        torch._foreach_copy_(whole, staged)
    for state in states:
        state.drop_staged()


def keep_oldest(
    states: Collection[ShortConvState], rows: Sequence[int], positions: Sequence[int]
) -> None:
    """Keep the inputs that leave when one position comes to rows at positions, as far as the
    states, which are all of one rollback, have room for them.
    """
    states = [state for state in states if state.older.shape[1]]
    if not states:
        return
    batch, rollback, _ = states[0].older.shape
    if len(rows) == batch and len(set(positions)) == 1:
        slot = positions[0] % rollback
        older = [state.older[:, slot] for state in states]
        torch._foreach_copy_(older, [state.inputs[:, 0] for state in states])
        return
    index, slots = states[0]._places(rows, positions)
    for state in states:
        state.older[index, slots] = state.inputs[index, 0]


def keep_left(
    states: Collection[ShortConvState],
    rows: Sequence[int],
    positions: Sequence[int],
    counts: Sequence[int],
) -> None:
    """The same before the `commit` of a chunk that brings counts (R,) positions to rows at
    positions.
    """
    chunks = [(x._left.mT, x.older) for x in states if x._left is not None and x.older.shape[1]]
    if not chunks:
        return
    left, older = chunks[0]
    width, rollback, device = left.shape[1], older.shape[1], older.device
    index, at, count = (
        torch.tensor(list(x), dtype=torch.int64, device=device)[:, None]
        for x in (rows, positions, counts)
    )
    # the newest that there is room for
    column = count - 1 - torch.arange(min(width, rollback), device=device)  # (R, n)
    slots, came = (at + column) % rollback, (column >= 0)[..., None]
    column = column.clamp(min=0)
    call_row = torch.arange(len(count), device=device)[:, None]
    for left, older in chunks:
        older[index, slots] = left[call_row, column].where(came, older[index, slots])
