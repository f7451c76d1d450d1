"""A `transformers.Cache` around the decoding state of a model's convolutions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache, CacheLayerMixin

from ..checks import integer
from ..decoding.model_cache import DecodingCache
from .padding import Tokens

#: What a `DecodingCache` is made with; how far back it goes, its user says.
OPTIONS = (
    "plan", "impl", "fused", "fill_stream", "spectra_dtype", "state_dtype", "filters_dtype",
    "memory", "keep_prompt_spectra",
)  # fmt: skip


class StreamLayer(CacheLayerMixin):
    """All long and short convolutions of a model: one `DecodingCache`, made at the first call.

    Its rows are those of that call, and fixed. As in `StreamCache`.
    """

    is_croppable = True

    def __init__(self, model: nn.Module, max_length: int, **options: Any) -> None:
        super().__init__()
        self.model, self.max_length, self.length = model, integer("max_length", max_length), 0
        if self.max_length < 1:
            raise ValueError(f"expected max_length >= 1, got {max_length}")
        unknown = [name for name in options if name not in OPTIONS]
        if unknown:
            raise TypeError(f"expected options {', '.join(OPTIONS)}, got {', '.join(unknown)}")
        self.record_past = False
        self.state: DecodingCache | None = None
        self._options = options

    def run(self, tokens: Tokens, keep: int = 0) -> Tensor:
        """Logits of the next ids, right-padded as they are: (B, W, V), or fewer at the left.

        keep: of how many of the last columns they are wanted, 0 for all; 1 is the last valid one.
        """
        ids = tokens.ids
        if self.state is not None and len(ids) != self.state.batch_size:
            raise ValueError(
                f"expected input_ids of {self.state.batch_size} rows, those of the cache, got "
                f"{len(ids)}"
            )
        pieces, padding = self._pieces(tokens, keep), tokens.columns - ids.shape[1]
        state = self.state
        if state is None:
            room = max(1, self.max_length - pieces[0].shape[1] - padding)
            rollback = None if self.record_past else 0
            state = DecodingCache(self.model, len(ids), room, rollback=rollback, **self._options)
        found = []
        for piece in pieces:
            prompt = self.state is None and len(pieces) > 1
            with state.select(lengths=tokens.lengths, last=keep == 1 or (prompt and keep > 0)):
                found.append(self.model(piece, cache=state))
            self.state = state
            self.length += piece.shape[1] + padding
            padding = 0
        return torch.cat(found, 1)

    def _pieces(self, tokens: Tokens, keep: int) -> list[Tensor]:
        """Ids of the calls of the model: what may be taken back is no part of the prompt."""
        ids, state = tokens.ids, self.state
        if not self.record_past or tokens.lengths is not None:
            return [ids]
        prompt = 0
        if state is None:
            prompt = max(1, ids.shape[1] - max(keep, 1))
        elif bool((state.positions > 0).all()):
            return [ids]
        # the single step makes what follows it part of the stream
        pieces = ids[:, :prompt], ids[:, prompt : prompt + 1], ids[:, prompt + 1 :]
        return [piece for piece in pieces if piece.shape[1]]

    def activate_past_recording(self) -> None:
        """From here on `crop` takes positions back. ValueError once something has been seen."""
        if self.state is not None and not self.record_past:
            raise ValueError("a cache that has seen a prompt cannot begin to record its past")
        self.record_past = True

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """There are no keys and values: TypeError."""
        raise TypeError("a StreamCache holds convolutions, not keys and values: call its model")

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """There are no keys and values: TypeError."""
        raise TypeError("a StreamCache holds convolutions, not keys and values: call its model")

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Columns of a mask, and the first of them."""
        return self.length + query_length, 0

    def get_seq_length(self) -> int:
        """Columns seen, padding included."""
        return self.length

    def get_max_length(self) -> int:
        """Columns that there is room for."""
        return self.max_length

    def get_max_cache_shape(self) -> int:
        """`get_max_length` by its earlier name."""
        return self.max_length

    def reset(self) -> None:
        """Forget everything, the number of rows too."""
        self.state, self.length = None, 0

    def crop(self, tokens_to_remove: int) -> None:
        """Take back the newest ``-tokens_to_remove`` columns of every row; where that is positive,
        all but so many. ValueError unless the past was recorded, and for some of the prompt but its
        last column.
        """
        removed = -tokens_to_remove
        if tokens_to_remove > 0:  # what transformers before `cache=` asked for
            removed = max(0, self.length - tokens_to_remove)
        if removed and removed == self.length:
            self.reset()
        elif removed and self.state is not None:
            self.state.crop(self.state.positions - removed)
            self.length -= removed

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Row ``b`` becomes what row ``beam_idx[b]`` was."""
        if self.state is not None:
            self.state.reorder(beam_idx)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Rows are fixed: ValueError."""
        raise ValueError("the rows of a StreamCache are those of its first call: repeat input_ids")

    def batch_select_indices(self, indices: Tensor) -> None:
        """Rows are fixed: ValueError."""
        raise ValueError("the rows of a StreamCache are those of its first call: use reorder_cache")

    def __deepcopy__(self, memo: dict[int, Any]) -> StreamLayer:
        """An independent stream of the same model."""
        other = StreamLayer(self.model, self.max_length, **self._options)
        other.length, other.record_past = self.length, self.record_past
        other.state = None if self.state is None else self.state.clone()
        return other


class StreamCache(Cache):
    """What ``generate`` carries from token to token: ``model(ids, cache=cache)``.

    model: a model of this package, whose ``stream_model`` it is the state of. max_length: columns
    there is room for, prompt and padding included; how many new tokens that leaves is settled by
    the first call. options: ``plan``, ``impl``, ``fused``, ``fill_stream``, ``spectra_dtype``,
    ``state_dtype``, ``filters_dtype``, ``memory``, ``keep_prompt_spectra`` of `DecodingCache`;
    TypeError for any other. ``copy.deepcopy`` gives an independent stream: a prompt may be read
    once for several.
    """

    def __init__(self, model: Any, max_length: int, **options: Any) -> None:
        if not isinstance(getattr(model, "stream_model", None), nn.Module):
            raise TypeError(
                "expected model with a stream_model (StreamGenerationMixin), "
                f"got {type(model).__name__}"
            )
        super().__init__(layers=[StreamLayer(model.stream_model, max_length, **options)])

    @property
    def stream(self) -> StreamLayer:
        """The one layer."""
        layer: StreamLayer = self.layers[0]
        return layer

    @classmethod
    def check(cls, cache: Any, model: nn.Module) -> StreamCache:
        """The cache, or an error: TypeError for one of another kind, ValueError for that of
        another model.
        """
        if not isinstance(cache, cls):
            raise TypeError(f"expected cache to be a StreamCache, got {type(cache).__name__}")
        if cache.stream.model is not model:
            raise ValueError(
                "cache belongs to another model: expected a StreamCache of the model that is called"
            )
        return cache
