"""What has happened to a model since its cache was made: what that forbids, and what is refused."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from ..nn.changes import MOVED, Snapshot
from ..nn.token.parts import unknown_parts


class ChangedModel:
    """Looks at a model whose weights have been read.

    convolutions: long and short ones, by their names in the model; their weights are in the state.
    whole: whether everything else was read too, by a fused token.
    """

    def __init__(
        self, model: nn.Module, convolutions: Mapping[str, nn.Module], whole: bool
    ) -> None:
        self._model, self._whole = model, whole
        self._parts = {"": model} if whole else convolutions
        self._prefixes = tuple(f"{name}." if name else "" for name in convolutions)
        self._read = self._seen = Snapshot(self._parts)
        self._reasons: list[str] = []

    def look(self) -> list[str]:
        """Why a fused token is not the model any more.

        ValueError where weights of convolutions are others.
        """
        if self._seen.same():
            return self._reasons
        changed = self._read.changed_weights()
        for name, how in changed.items():
            if name.startswith(self._prefixes) and how != MOVED:
                raise ValueError(
                    f"{name} {how} since the cache was made, which holds what was computed from "
                    "it: make a new cache, or a new Decoder"
                )
        if self._whole:
            self._reasons = unknown_parts(self._model)
            self._reasons += [f"{name} {how}" for name, how in changed.items()]
        self._seen = Snapshot(self._parts)
        return self._reasons
