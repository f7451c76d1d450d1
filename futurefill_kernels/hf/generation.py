"""``generate`` with a state of constant work instead of keys and values."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationMixin
from transformers.generation import GenerationMode
from transformers.modeling_outputs import CausalLMOutputWithPast

from .padding import right_padded
from .stream_cache import StreamCache

#: What transformers calls the cache, in arguments and outputs.
NAMES = {field.name for field in fields(CausalLMOutputWithPast)}
CACHE = "cache" if "cache" in NAMES else "past_key_values"


class StreamGenerationMixin(GenerationMixin):
    """For a `PreTrainedModel` around a ``stream_model``, an `nn.Module` that is called as
    ``stream_model(ids, cache=cache)`` with its ``embedding``.
    """

    stream_model: nn.Module

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        cache: StreamCache | None = None,
        past_key_values: StreamCache | None = None,
        use_cache: bool | None = None,
        labels: Tensor | None = None,
        logits_to_keep: int | Tensor = 0,
        return_dict: bool | None = None,
        **others: Any,
    ) -> CausalLMOutputWithPast | tuple[Any, ...]:
        """Logits of the next ids, and a loss where labels are given.

        input_ids: (B, T). attention_mask: (B, T), or (B, T + columns seen), nonzero where an id
        counts: what it masks is not there, wherever it stands. cache (past_key_values): what was
        seen before; takes these in. logits_to_keep: of how many of the last columns, 0 for all, or
        which; 1 is the last valid one. labels: (B, T), -100 where nothing is asked.

        Raises ValueError or TypeError for what does not fit, before anything is taken in.
        """
        given = {n for n, value in others.items() if value is not None and value is not False}
        unknown = sorted(given - {"cache_position", "position_ids"})  # both follow from the cache
        if unknown:
            raise ValueError(f"{type(self).__name__} knows no {', '.join(unknown)}")
        cache = past_key_values if cache is None else cache
        if cache is not None:
            cache = StreamCache.check(cache, self.stream_model)
        elif use_cache:
            raise ValueError(
                "use_cache=True outside of generate needs cache=StreamCache(model, max_length)"
            )
        ids, mask = self._ids_and_mask(input_ids, attention_mask, cache)
        tokens = right_padded(ids, mask)
        self._check_vocabulary(tokens.ids)
        if cache is None:
            logits = self.stream_model(tokens.ids)
        else:
            kept = logits_to_keep if isinstance(logits_to_keep, int) else 0
            logits = cache.stream.run(tokens, kept)
        logits = tokens.logits(logits, logits_to_keep)
        loss = None
        if labels is not None:
            loss = self.loss_function(
                logits=logits, labels=labels, vocab_size=self.config.vocab_size
            )
        output = CausalLMOutputWithPast(loss=loss, logits=logits, **{CACHE: cache})
        return output.to_tuple() if return_dict is False else output

    def _ids_and_mask(
        self, ids: Tensor | None, mask: Tensor | None, cache: StreamCache | None
    ) -> tuple[Tensor, Tensor | None]:
        """Ids (B, T) int64 and their part of the mask."""
        if not isinstance(ids, Tensor) or ids.ndim != 2 or 0 in ids.shape:
            found = tuple(ids.shape) if isinstance(ids, Tensor) else type(ids).__name__
            raise ValueError(f"expected input_ids (B, T), not empty, got {found}")
        if ids.is_floating_point() or ids.is_complex() or ids.dtype is torch.bool:
            raise TypeError(f"expected input_ids of an integer dtype, got {ids.dtype}")
        if mask is None:
            return ids.long(), None
        rows, columns = ids.shape
        seen = 0 if cache is None else cache.get_seq_length()
        if tuple(mask.shape) not in ((rows, columns), (rows, columns + seen)):
            raise ValueError(
                f"expected attention_mask ({rows}, {columns}) like input_ids, or with the {seen} "
                f"columns seen before them, got {tuple(mask.shape)}"
            )
        return ids.long(), mask[:, -columns:].to(ids.device)

    def _check_vocabulary(self, ids: Tensor) -> None:
        """Every id inside the vocabulary; single tokens on a GPU are not waited for."""
        if ids.device.type != "cpu" and ids.shape[1] == 1:
            return
        size, low, high = self.config.vocab_size, int(ids.min()), int(ids.max())
        if low < 0 or high >= size:
            value = low if low < 0 else high
            raise ValueError(f"expected ids in 0 .. {size - 1} (the vocabulary), got {value}")

    def _prepare_cache_for_generation(
        self,
        generation_config: Any,
        model_kwargs: dict[str, Any],
        generation_mode: Any,
        batch_size: int,
        max_cache_length: int,
    ) -> None:
        """A `StreamCache` with room for the whole generation, unless the caller gave one."""
        cache = model_kwargs.pop("cache", model_kwargs.get(CACHE))
        if cache is not None:
            model_kwargs[CACHE] = StreamCache.check(cache, self.stream_model)
        elif generation_config.use_cache:
            if generation_config.cache_implementation not in (None, "dynamic", "dynamic_full"):
                raise ValueError(
                    "a StreamCache is the only cache: expected no cache_implementation, got "
                    f"{generation_config.cache_implementation!r}"
                )
            drafting = generation_mode == GenerationMode.ASSISTED_GENERATION
            drafts = generation_config.is_assistant
            longest = getattr(generation_config, "max_cache_len", None)
            if drafts and longest is None:
                raise ValueError(
                    "the cache of an assistant lasts for many of its generations: expected "
                    "assistant_model.generation_config.max_cache_len, the longest sequence"
                )
            if drafting:  # the last draft may reach beyond the end
                max_cache_length += generation_config.prompt_lookup_num_tokens or 1
            cache = StreamCache(self, max(max_cache_length, longest or 0))
            if drafting or drafts:
                cache.stream.activate_past_recording()
            model_kwargs[CACHE] = cache
