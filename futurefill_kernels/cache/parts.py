"""What works on the tensors of one state."""

from __future__ import annotations

from typing import NamedTuple

import torch

from ..implementations.base import Implementation, PlainSteps, Step
from ..state.tensors import StreamState
from .compiled_branches import AlikeRows
from .fills import Fills
from .history import History
from .positions import Positions
from .window import Leaps


class Parts(NamedTuple):
    """All that a stream makes for a state, at once: without memory for one of them there is none.

    scratch_nbytes: of the process's scratch memory, as much as the state's fills need.
    """

    state: StreamState
    step: Step
    plain: PlainSteps | None
    scratch_nbytes: int
    history: History
    fills: Fills
    leaps: Leaps
    alike_rows: AlikeRows

    @classmethod
    def of(
        cls,
        implementation: Implementation,
        state: StreamState,
        dtype: torch.dtype,
        positions: Positions,
        fill_stream: torch.cuda.Stream | None,
        rollback: int | None,
    ) -> Parts:
        """dtype: of the inputs."""
        history = History(state, implementation)
        fills = Fills(state, implementation, fill_stream)
        return cls(
            state,
            implementation.make_step(state),
            implementation.make_plain_steps(state, dtype, positions),
            implementation.reserve_scratch(state),
            history,
            fills,
            Leaps(state, positions, fills, history),
            AlikeRows(state, rollback),
        )
