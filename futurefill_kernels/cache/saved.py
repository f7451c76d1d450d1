"""What determines a state, as a dictionary of tensors: written, checked and read again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from ..checks import check_tensor
from ..state.layout import from_tiles, to_tiles
from ..state.tensors import StreamState

_OPEN = "open_prompt."
#: Of what filters add up to: rounding is below, another checkpoint above.
_SAME = 1e-4


def fingerprint(filters: Sequence[Tensor], skip: Tensor | None) -> Tensor:
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
    state: StreamState, positions: Tensor, prints: Tensor, held: Mapping[int, list[Tensor | None]]
) -> dict[str, Tensor]:
    """See ``FutureFillCache.state_dict``.

    positions: (B,) int64 on the CPU. prints: ``fingerprint``. held: per row in its prompt and layer
    the gated inputs so far.
    """
    inputs = from_tiles(state.ring[..., : int(positions.max()), :], state.layout)
    taken = torch.arange(inputs.shape[-1], device="cpu") < positions[:, None, None]
    saved = {
        "inputs": inputs.where(taken.to(inputs.device), 0),
        "prompt_fill": from_tiles(state.prompt_fill, state.layout).clone(),
        "positions": positions,
        "fingerprint": prints,
        "in_prompt": torch.tensor([row in held for row in range(len(positions))], device="cpu"),
    }
    for row, layers in held.items():
        past = [x for x in layers if x is not None]
        if past:
            saved[f"{_OPEN}{row}"] = torch.stack(past)
    return saved


def restore(state: StreamState, saved: Mapping[str, Tensor]) -> None:
    """Write inputs and the prompts' fill; ``replay`` does the rest."""
    inputs, device = saved["inputs"], state.ring.device
    state.ring[..., : inputs.shape[-1], :] = to_tiles(inputs.to(device), state.layout)
    state.prompt_fill.copy_(to_tiles(saved["prompt_fill"].to(device), state.layout))


def held_prompts(saved: Mapping[str, Tensor], state: StreamState) -> dict[int, list[Tensor | None]]:
    """What ``state_dict`` was given as ``held``."""
    held: dict[int, list[Tensor | None]] = {}
    for row in saved["in_prompt"].nonzero()[:, 0].tolist():
        past = saved.get(f"{_OPEN}{row}")
        held[row] = (
            [None] * len(state.ring) if past is None else list(past.to(state.ring.device).unbind())
        )
    return held


def check_state_dict(
    saved: Mapping[str, Tensor],
    sizes: tuple[int, int, int, int],
    dtype: torch.dtype,
    prints: Tensor,
) -> None:
    """ValueError or TypeError unless a state_dict fits a cache.

    sizes: (layers, B, D, N). dtype: of its state. prints: its filters' ``fingerprint``.
    """
    if not isinstance(saved, Mapping):
        raise TypeError(f"expected state to be a state_dict, got {type(saved).__name__}")
    *front, length = sizes
    layers, batch, channels = front
    rows = [f"{_OPEN}{row}" for row in range(batch)]
    expected = {"inputs", "prompt_fill", "positions", "fingerprint", "in_prompt"}
    if not expected <= set(saved) <= expected | set(rows):
        raise ValueError(
            f"expected state with keys {sorted(expected)}, and {_OPEN}0 .. {batch - 1} for rows "
            f"inside their prompts, got {sorted(saved)}"
        )
    for name, x in saved.items():
        check_tensor(name, x)
    inputs, filled, positions = saved["inputs"], saved["prompt_fill"], saved["positions"]
    if filled.shape != (*front, length):
        raise ValueError(
            f"expected prompt_fill (layers, B, D, N) = {(*front, length)}, "
            f"got {tuple(filled.shape)}"
        )
    for name, dtype_of in (("positions", torch.int64), ("in_prompt", torch.bool)):
        x = saved[name]
        if x.shape != (batch,) or x.dtype != dtype_of:
            raise ValueError(
                f"expected {name} (B,) = ({batch},) of {dtype_of}, "
                f"got {tuple(x.shape)} of {x.dtype}"
            )
    if int(positions.min()) < 0 or int(positions.max()) > length:
        raise ValueError(f"expected positions in 0 .. {length}, got {positions.tolist()}")
    if inputs.shape != (*front, int(positions.max())):
        raise ValueError(
            f"expected inputs (layers, B, D, n) = {(*front, int(positions.max()))}, "
            f"got {tuple(inputs.shape)}"
        )
    held = {name: saved[name] for name in rows if name in saved}
    for name, x in held.items():
        if x.ndim != 3 or x.shape[:2] != (layers, channels):
            raise ValueError(
                f"expected {name} (layers, D, P) = ({layers}, {channels}, P), got {tuple(x.shape)}"
            )
    for name, x in {"inputs": inputs, "prompt_fill": filled, **held}.items():
        if x.dtype != dtype:
            raise TypeError(f"expected {name} of dtype {dtype}, got {x.dtype}")
    _check_filters(saved["fingerprint"], prints)


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
