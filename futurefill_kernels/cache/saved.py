"""What determines a state, as a dictionary of tensors: written, checked and read again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from ..checks import check_tensor
from ..implementations.base import Implementation
from ..plan import Plan
from ..state.layout import from_tiles, to_tiles
from ..state.open_block import block_start, whole_slots
from ..state.tensors import StreamState
from .around import around, at_places, depth_of
from .open_inputs import Past, channels_of
from .replay import move_rows

_OPEN = "open_prompt."
#: Of what filters add up to: rounding is below, another checkpoint above.
_SAME = 1e-4


def fingerprint(filters: Iterable[Tensor], skip: Tensor | None) -> Tensor:
    """(layers, 6) float64 on the CPU: two weighted sums and the norm of taps, then of skip.

    filters: (G, L) each. skip: (layers, D) or None. Filters computed on another device differ by
    rounding, so do these numbers.
    """
    parts = [_sums(h) for h in filters]
    if skip is None:
        return torch.stack([torch.cat([p, torch.zeros_like(p)]) for p in parts])
    return torch.stack([torch.cat([p, _sums(s[None])]) for p, s in zip(parts, skip, strict=True)])


def _sums(x: Tensor) -> Tensor:
    """x: (G, L)."""
    g, s = (torch.arange(n, dtype=torch.float64, device=x.device) for n in x.shape)
    wave = (2.3 * g[:, None] + 0.9 * s).cos_()
    x = x.double()
    return torch.stack([(x * wave).sum(), (x * wave.square_()).sum(), x.norm()]).cpu()


def state_dict(
    state: StreamState,
    positions: Tensor,
    places: Sequence[int],
    prints: Tensor,
    held: Mapping[int, list[Past | None]],
) -> dict[str, Tensor]:
    """See ``FutureFillCache.state_dict``.

    positions: (B,) int64 on the CPU; places: their slots. prints: ``fingerprint``. held: per row in
    its prompt and layer the gated inputs so far.
    """
    slots = from_tiles(whole_slots(state, places), state.layout)
    saved = {
        "positions": positions,
        "fingerprint": prints,
        "in_prompt": torch.tensor([row in held for row in range(len(positions))], device="cpu"),
    }
    if state.plan.length is None:
        saved["inputs"], saved["pending"] = around(slots, places, depth_of(state.plan))
    else:
        first, last = min(places), max(places)
        taken = torch.arange(state.length, device="cpu") < positions[:, None, None]
        taken = taken.to(slots.device)
        saved["inputs"] = slots[..., :last].where(taken[..., :last], 0)
        if state.prompt_fill is None:
            saved["pending"] = slots[..., first:].where(~taken[..., first:], 0)
    if state.prompt_fill is None:
        saved["plan"] = _numbers(state.plan)
    else:
        saved["prompt_fill"] = from_tiles(state.prompt_fill, state.layout).to(
            state.dtype, copy=True
        )
    for row, layers in held.items():
        past = [channels_of(x, state.channels) for x in layers if x is not None]
        if past:
            saved[f"{_OPEN}{row}"] = torch.stack(past)
    return saved


def _numbers(plan: Plan) -> Tensor:
    """A plan as a tensor: length or 0, slack_from or 0, block sizes."""
    numbers = [plan.length or 0, plan.slack_from or 0, *plan.block_sizes]
    return torch.tensor(numbers, dtype=torch.int64, device="cpu")


def restore(
    state: StreamState, implementation: Implementation, saved: Mapping[str, Tensor]
) -> None:
    """Write inputs and pending outputs, and what a stream derives from inputs."""
    device, positions = state.ring.device, saved["positions"].tolist()
    inputs, pending = saved["inputs"], saved.get("pending")
    if state.plan.length is None:
        positions = list(map(state.plan.place, positions))
        assert pending is not None
        inputs, pending = at_places(inputs, pending, positions, state.length)
    inputs = to_tiles(inputs.to(device), state.layout)
    state.ring[..., : inputs.shape[-2], :] = inputs
    if pending is not None:
        pending = to_tiles(pending.to(device), state.layout)
        base = torch.nn.functional.pad(pending, (0, 0, state.length - pending.shape[-2], 0))
    else:
        base = to_tiles(saved["prompt_fill"].to(device), state.layout)
        if state.prompt_fill is not None:
            state.prompt_fill.copy_(base)
    move_rows(state, implementation, dict(enumerate(positions)), base)
    if pending is not None:  # bit for bit what had been added up
        for row, position in enumerate(positions):
            here = slice(position, state.length)
            state.ring[:, row, :, here] = base[:, row, :, here]
            if state.narrow:
                first = block_start(state.plan, position)
                opened = base[:, row, :, position : first + state.open_block.shape[-2]]
                since = position - first
                state.open_block[:, row, :, since : since + opened.shape[-2]] = opened


def held_prompts(saved: Mapping[str, Tensor], state: StreamState) -> dict[int, list[Past | None]]:
    """What ``state_dict`` was given as ``held``."""
    held: dict[int, list[Past | None]] = {}
    for row in saved["in_prompt"].nonzero()[:, 0].tolist():
        past = saved.get(f"{_OPEN}{row}")
        held[row] = (
            [None] * len(state.ring) if past is None else list(past.to(state.ring.device).unbind())
        )
    return held


def check_state_dict(saved: Mapping[str, Tensor], state: StreamState, prints: Tensor) -> None:
    """ValueError or TypeError unless a state_dict fits a state.

    prints: its filters' ``fingerprint``.
    """
    if not isinstance(saved, Mapping):
        raise TypeError(f"expected state to be a state_dict, got {type(saved).__name__}")
    layers, batch = state.token_at.shape
    front, length = (layers, batch, state.channels), state.length
    rows = [f"{_OPEN}{row}" for row in range(batch)]
    shared = {"inputs", "positions", "fingerprint", "in_prompt"}
    kinds = {"prompt_fill": {"prompt_fill"}, "pending": {"pending", "plan"}}
    kind = "pending" if "pending" in saved else "prompt_fill"
    expected = shared | kinds[kind]
    if not expected <= set(saved) <= expected | set(rows):
        raise ValueError(
            f"expected state with keys {sorted(expected)}, and {_OPEN}0 .. {batch - 1} for rows "
            f"inside their prompts, got {sorted(saved)}"
        )
    for name, x in saved.items():
        check_tensor(name, x)
    for name, dtype_of in (("positions", torch.int64), ("in_prompt", torch.bool)):
        x = saved[name]
        if x.shape != (batch,) or x.dtype != dtype_of:
            raise ValueError(
                f"expected {name} (B,) = ({batch},) of {dtype_of}, "
                f"got {tuple(x.shape)} of {x.dtype}"
            )
    if kind == "pending":
        _check_plan(saved["plan"], state)
    positions = saved["positions"]
    endless = state.plan.length is None
    if int(positions.min()) < 0 or (int(positions.max()) > length and not endless):
        most = "" if endless else f" {length}"
        raise ValueError(f"expected positions in 0 ..{most}, got {positions.tolist()}")
    if endless:
        last = size = depth_of(state.plan)
    else:
        sizes = {"prompt_fill": length, "pending": length - int(positions.min())}
        last, size = int(positions.max()), sizes[kind]
    for name, label, count in (("inputs", "n", last), (kind, "N", size)):
        if saved[name].shape != (*front, count):
            raise ValueError(
                f"expected {name} (layers, B, D, {label}) = {(*front, count)}, "
                f"got {tuple(saved[name].shape)}"
            )
    held = {name: saved[name] for name in rows if name in saved}
    for name, x in held.items():
        if x.ndim != 3 or x.shape[:2] != (layers, state.channels):
            raise ValueError(
                f"expected {name} (layers, D, P) = ({layers}, {state.channels}, P), "
                f"got {tuple(x.shape)}"
            )
    dtype = state.dtype
    for name, x in {"inputs": saved["inputs"], kind: saved[kind], **held}.items():
        if x.dtype != dtype:
            raise TypeError(f"expected {name} of dtype {dtype}, got {x.dtype}")
    _check_filters(saved["fingerprint"], prints)


def _check_plan(saved: Tensor, state: StreamState) -> None:
    if state.prompt_fill is not None:
        raise ValueError(
            "expected a state that holds prompt_fill, as caches with rollback=None save it, "
            "for it fits every plan; got one of pending outputs"
        )
    if saved.tolist() != _numbers(state.plan).tolist():
        raise ValueError(
            f"expected a state of the plan with length (0: endless), slack_from (0: none) and "
            f"block sizes {_numbers(state.plan).tolist()}, got {saved.tolist()}; with "
            f"rollback=None a state fits every plan"
        )


def _check_filters(saved: Tensor, prints: Tensor) -> None:
    if saved.shape != prints.shape or saved.dtype != prints.dtype:
        raise ValueError(
            f"expected fingerprint (layers, 6) = {tuple(prints.shape)} of {prints.dtype}, "
            f"got {tuple(saved.shape)} of {saved.dtype}"
        )
    names = ("filters",) * 3 + ("skip",) * 3
    scale = prints[:, [2, 2, 2, 5, 5, 5]]
    other = ((saved - prints).abs() > _SAME * scale).nonzero().tolist()
    if other:
        found = _joined(f"{names[column]} of layer {layer}" for layer, column in other)
        raise ValueError(f"expected a state of the same filters and skip, got others: {found}")


def _joined(names: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(names))
