"""FutureFillCache: the streaming state of every layer's long convolution."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..checks import (
    check_dtype,
    check_filters_dtype,
    check_spectra_dtype,
    filter_list,
    integer,
    ring_dtype,
)
from ..checks import state_dtype as check_state_dtype
from ..implementations.base import Implementation
from ..implementations.mixed import exact_name
from ..plan import Plan
from ..planning.capabilities import Capabilities
from ..state.lasting import lasting
from ..state.tensors import StreamState
from .checks import (
    check_fill_stream,
    check_sizes,
)
from .construct import Kept, choose, make_state, significant
from .memory import Memory
from .one_token import OneToken


class FutureFillCache(OneToken):
    """Streaming state of causal convolutions whose inputs arrive one at a time.

    After any mix of ``prefill`` and ``step`` calls the outputs are those of one parallel
    convolution ``y_t = sum_s h_s u_{t-s} + skip u_t`` over everything the row has seen, up to
    rounding.

    filters: (G, L) or one per layer; tap 0 multiplies the newest input; channel ``d`` uses row
        ``d // (D/G)``. All layers have the same ``G``; lengths may differ.
    batch_size: rows ``B``. max_new_tokens: positions ``N`` that follow the prompt;
        None: any number, in memory that the filters' length determines (`Plan`).
    channels: ``D``, default ``G``. skip: (D,), or (layers, D).
    plan: block sizes, default ``make_plan``; its length must be ``max_new_tokens``.
    impl: "auto", "cpu", "reference", ...; a named one never falls back. On a GPU "auto" takes for
        steps, prompts and each level's fills what was fastest there; "cuda+triton" of these two.
    device, dtype: of the inputs; default those of the filters. State and arithmetic are float32, or
        float64 for float64 inputs.
    fill_stream: future fills run on this CUDA stream, beside what follows a token's last layer; the
        next step waits for them. None: on the current stream.
    spectra_dtype: of the filter spectra, default the state's. torch.bfloat16, where the
        implementation has it ("triton"), halves their memory and rounds filters to 8 bits of
        mantissa; arithmetic and input spectra stay in float32.
    rollback: positions that ``crop`` can take back, at most ``N``; None: any number, for which the
        prompt's fill is kept, ``N`` values more of every row and channel. A plan with slack takes 0
        or None, an endless stream a number.
    state_dtype: ("cpu" and "reference") torch.float64 for a state and arithmetic in float64
        whatever the inputs are; (everywhere) torch.bfloat16 or torch.float16, not for float64
        inputs, for inputs and pending outputs in 2 bytes, rounded once when they are stored and
        once for each level that adds to them; arithmetic, and the slots of the newest ``T_0``
        positions, stay float32. Not with slack. Default as said at ``dtype``. docs/accuracy.md says
        what they are for.
    filters_dtype: of the taps, default the state's. torch.bfloat16 halves their memory: they are
        rounded to 8 bits of mantissa at the start, and prompts, steps and fills all see the same
        rounded filters; arithmetic stays in the state's dtype.
    memory: as in ``make_plan``; with a plan of one's own "small" makes the spectra of its largest
        levels when they fire, and "speed" leaves it as it is.
    keep_prompt_spectra: the filters' transforms of the newest prompts, of at most two lengths, are
        kept for prompts that take the same, and shared as taps are. Each has, of every layer in
        float32, about ``8 (P + N)`` bytes a channel on the CPU, elsewhere ``4 n`` a filter row for
        ``n`` points; MemoryError where there is no room. They serve the first call of a prompt.

    Taps are kept once, and caches of the same filters share them with what the plan prepares of
    them. The end of a filter that adds less than rounding is left out. The state takes O(N) memory
    whatever the prompt's length. Inputs of a prompt that comes in several ``prefill`` calls are
    held until the first ``step``. Raises ValueError or TypeError that names the argument, what was
    expected and what came; a rejected call leaves the cache as it was.
    """

    @lasting
    def __init__(
        self,
        filters: Tensor | Sequence[Tensor],
        batch_size: int,
        max_new_tokens: int | None,
        *,
        channels: int | None = None,
        skip: Tensor | None = None,
        plan: Plan | None = None,
        impl: str = "auto",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        fill_stream: torch.cuda.Stream | None = None,
        spectra_dtype: torch.dtype | None = None,
        rollback: int | None = 0,
        state_dtype: torch.dtype | None = None,
        filters_dtype: torch.dtype | None = None,
        memory: str = "speed",
        keep_prompt_spectra: bool = False,
    ) -> None:
        layers = filter_list(filters)
        sizes = check_sizes(layers, batch_size, max_new_tokens, channels, skip)
        self.dtype = check_dtype(layers[0].dtype if dtype is None else dtype)
        self.device = layers[0].device if device is None else torch.empty(0, device=device).device
        of_state = check_state_dtype(self.dtype, state_dtype)
        of_ring = ring_dtype(self.dtype, state_dtype)
        self._spectra_dtype = check_spectra_dtype(spectra_dtype, of_state)
        kept = Kept(self._spectra_dtype, check_filters_dtype(filters_dtype, of_state), of_ring)
        rollback = None if rollback is None else integer("rollback", rollback)
        taps = [significant(h.detach().to(self.device, of_state)) for h in layers]
        sizes = dataclasses.replace(sizes, taps=max(h.shape[1] for h in taps))
        implementation, self.plan = choose(
            sizes, plan, impl, self.device, of_state, kept, rollback, memory
        )
        check_fill_stream(fill_stream, self.device)
        state = make_state(sizes, self.plan, implementation, taps, skip, kept, rollback)
        super().__init__(
            implementation, state, self.dtype, fill_stream, rollback, keep_prompt_spectra
        )

    @property
    def impl(self) -> str:
        """Name of the implementation that runs; where parts of the stream are of different ones
        their names joined by "+", that of the steps first.
        """
        return self._implementation.capabilities.name

    @property
    def capabilities(self) -> Capabilities:
        """What the implementation that runs can do."""
        return self._implementation.capabilities

    @property
    def implementation(self) -> Implementation:
        """The implementation that runs, for those who measure its parts."""
        return self._implementation

    @property
    def state(self) -> StreamState:
        """Every tensor of the cache, for those who prove and measure: the cache keeps its books."""
        return self._state

    @property
    def taken(self) -> list[int]:
        """``positions`` as a list, not to be changed."""
        return self._positions.taken

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors that are held: `memory` has the parts."""
        return self.memory().nbytes

    def memory(self) -> Memory:
        """Bytes of all tensors that are held, part by part; ``print(cache.memory())`` is a table.

        What there is of prompts is held until the first step is over and cannot be taken back; all
        else is independent of their lengths. ``before``: what the newest chunk inside the stream,
        or fills on a stream of their own, may be taken back by. ``scratch``: of the CPU's threads,
        which all streams of the process share.
        """
        state, (layers, groups, _) = self._state, self._state.filters.shape
        spectra = self._prefill.spectra
        blocks = 0 if self._plain is None else self._plain.kept_bytes()
        parts = state.parts | {
            "prompts": self._prefill.nbytes(self._held_before),
            "prompt_spectra": 0 if spectra is None else spectra.nbytes,
            "before": self._prefill.chunks_nbytes + self._fills.nbytes + blocks,
            "last rows": 0 if self._last_rows is None else self._last_rows[1].nbytes,
            "scratch": self._scratch_nbytes,
        }
        rows = layers * self.batch_size * self.channels
        return Memory.of(parts, rows * state.length, layers * groups * state.length)

    def widen(self, dtype: torch.dtype) -> None:
        """Take inputs of another dtype from now on. TypeError where the state is narrower."""
        widest = self._state.dtype
        if torch.promote_types(check_dtype(dtype), widest) is not widest:
            raise TypeError(f"expected a dtype no wider than the state's {widest}, got {dtype}")
        make, state = self._implementation, self._state
        steps = make.make_step(state), make.make_plain_steps(state, dtype, self._positions)
        self.dtype = dtype
        self._step_by(*steps)

    def __reduce__(self) -> tuple[Callable[..., FutureFillCache], tuple[Any, ...]]:
        """What pickle writes: filters, options, and the state as ``state_dict`` saves it."""
        if self._fills.stream is not None:
            raise TypeError("a cache with a fill_stream cannot be pickled: streams are a process's")
        skip = self._state.skip
        options = {
            "channels": self.channels,
            "skip": None if skip is None else skip[:, : self.channels].clone(),
            "plan": self.plan,
            "impl": exact_name(self._implementation),
            "device": self.device,
            "dtype": self.dtype,
            "spectra_dtype": self._spectra_dtype,
            "rollback": self.rollback,
            "state_dtype": self._state.ring.dtype,
            "filters_dtype": self._state.filters.dtype,
            "keep_prompt_spectra": self._prefill.spectra is not None,
        }
        sizes, bank = (self.batch_size, self.max_new_tokens), self._state.prepared.bank
        filters = [bank.stored(layer).clone() for layer in range(self.layers)]
        return _unpickled, (filters, *sizes, options, self.state_dict())


def _unpickled(
    filters: Sequence[Tensor],
    batch_size: int,
    max_new_tokens: int | None,
    options: dict[str, Any],
    state: dict[str, Tensor],
) -> FutureFillCache:
    planned = options["plan"].filter_length
    wide = [h.to(torch.promote_types(h.dtype, torch.float32)) for h in filters]
    # it was made with longer ones, or more of the end of these can be left out now
    if max(significant(h).shape[1] for h in wide) < planned:
        longest = filters[0].new_ones(len(filters[0]), planned)
        cache = FutureFillCache([longest] * len(filters), batch_size, max_new_tokens, **options)
        cache.set_filters(filters)
    else:
        cache = FutureFillCache(filters, batch_size, max_new_tokens, **options)
    cache.load_state_dict(state)
    return cache
