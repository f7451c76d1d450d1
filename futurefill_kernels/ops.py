"""What torch.compile and opcheck need to know of the C++ ops: they write in place, return nothing.

Their schemas stand in csrc/bindings/schemas.cpp. There is no Autograd key: the ops have no
gradients.
"""

from __future__ import annotations

import torch

from . import native

IN_PLACE = (
    "short_range_step",
    "future_fill",
    "future_fill_share",
    "spectrum_products",
    "prefill_inputs",
    "prefill_outputs",
    "step",
    "sliced_fill",
    "offline_conv",
    "token_segment",
)


def _no_output(*args: object, **kwargs: object) -> None:
    return None


if native.unavailable_reason is None:
    for _name in IN_PLACE:
        torch.library.register_fake(f"futurefill_kernels::{_name}", _no_output)
