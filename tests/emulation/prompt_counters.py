"""A kernel before or after the transforms of a prompt: arguments, results and counters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from futurefill_kernels.state.layout import CHANNEL_UNIT
from tests.emulation.cases import PrefillCase
from tests.emulation.counters import Counters, counters

#: arguments of the op, what it writes, and what that should be in float64
Launch = tuple[tuple[Any, ...], list[Tensor], list[Tensor]]


def arguments_of(case: PrefillCase) -> Launch:
    """Arguments of prefill_inputs or prefill_outputs with gates and skip, the results of both."""
    generator = torch.Generator().manual_seed(3)
    rows, channels, width, n = case.batch, case.channels, case.positions, case.length
    u, pre, post = torch.randn(3, rows, channels, width, generator=generator).to(case.dtype)
    x = u.double() * pre.double()
    if case.part == "inputs":
        padded = torch.empty(rows, channels, case.width)
        held = torch.empty(rows, channels, width)
        expected = [torch.nn.functional.pad(x, (0, case.width - width)), x]
        return (u, pre, None, padded, held), [padded, held], expected
    lanes = -(-channels // CHANNEL_UNIT) * CHANNEL_UNIT
    prompt_fill = torch.zeros(1, rows, 1, n, lanes)
    ring, y = prompt_fill.clone(), torch.empty_like(u)
    skip = torch.randn(1, lanes, generator=generator)
    z = torch.randn(rows, channels, case.width, generator=generator)
    arguments = (
        *(z, u, pre, post, skip, y, prompt_fill, ring, torch.arange(rows), None),
        *(torch.full((rows,), width), 0, 0),
    )
    shown = (z[..., :width] + skip[0, :channels, None].double() * x) * post.double()
    filled = z[..., width : width + n].mT.double()
    pending = [t[0, :, 0, :, :channels] for t in (prompt_fill, ring)]
    return arguments, [y, *pending], [shown, filled, filled]


def count(
    case: PrefillCase, run: Callable[..., Any], registers: Callable[[Any], int | None]
) -> Counters:
    """Counters of one launch; instructions are those per position and channel.

    run: launches the op of the case and returns the statistics.
    """
    arguments, written, correct = arguments_of(case)
    stats = run(*arguments)
    got, expected = (torch.cat([t.double().flatten() for t in x]) for x in (written, correct))
    return counters(
        stats, got, expected, case.compulsory, case.nominal_flops,
        stats.total_thread_insts / (case.batch * case.channels * case.width), registers(stats),
    )  # fmt: skip
