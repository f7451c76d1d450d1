"""What a cache refuses: each error names what was expected, and nothing has changed."""

from __future__ import annotations

import pytest
import torch

from futurefill_kernels import FutureFillCache, Plan
from tests.cache.snapshot import snapshot

ZEROS = torch.zeros(2, 4)
ONES = torch.ones(3, 4)


def _load(cache, **changes):
    cache.load_state_dict({**cache.state_dict(), **changes})


BAD_CALLS = {
    "shape": (lambda c: c.step(ZEROS[:, :3]), ValueError, r"u_t \(B, D\) = \(2, 4\), got \(2, 3\)"),
    "dtype": (lambda c: c.step(ZEROS.double()), TypeError, "u_t of dtype torch.float32"),
    "device": (lambda c: c.step(ZEROS.to("meta")), ValueError, "u_t on (cpu|cuda:0), got meta"),
    "grad": (lambda c: c.step(ZEROS.clone().requires_grad_()), ValueError, "autograd-free"),
    "pre": (lambda c: c.step(ZEROS, pre=ZEROS[:, :3]), ValueError, "expected pre"),
    "post": (lambda c: c.step(ZEROS, post=ZEROS[:1]), ValueError, "expected post"),
    "out": (lambda c: c.step(ZEROS, out=ZEROS[:1]), ValueError, "expected out"),
    "out strides": (lambda c: c.step(ZEROS, out=torch.zeros(4, 2).T), ValueError, "contiguous"),
    "out overlap": (lambda c: c.step(ONES[:2], out=ONES[1:]), ValueError, "apart from it, got an"),
    "layer": (lambda c: c.step(ZEROS, layer=1), ValueError, "expected layer 0 of 2, got 1"),
    "rows": (lambda c: c.step(ZEROS[:1], rows=[2]), ValueError, r"rows in -1 .. 1, got \[2\]"),
    "twice": (lambda c: c.step(ZEROS, rows=[1, 1]), ValueError, "each row once"),
    "count": (lambda c: c.step(ZEROS, rows=[1]), ValueError, r"\(1, 4\), got \(2, 4\)"),
    "prompt": (lambda c: c.prefill(ZEROS), ValueError, r"expected u \(B, D, P\)"),
    "empty": (lambda c: c.prefill(torch.zeros(2, 4, 0)), ValueError, "P >= 1"),
    "room": (lambda c: c.prefill(torch.zeros(2, 4, 9)), ValueError, "at most 7 more positions"),
    "lengths": (
        lambda c: c.prefill(torch.zeros(2, 4, 3), lengths=[4, 1]),
        ValueError,
        r"lengths \(2,\) in 1 .. 3",
    ),
    "crop": (lambda c: c.crop(-1), ValueError, "length >= 0 of all rows.* got -1"),
    "crops": (lambda c: c.crop([1]), ValueError, r"or \(B,\) = \(2,\) of them, got \[1\]"),
    "reach": (
        lambda c: c.crop([3, 1]),
        ValueError,
        "expected length >= 3 for row 1, which is at 3: with rollback = 0 that is kept, got 1",
    ),
    "reorder": (lambda c: c.reorder([0]), ValueError, r"rows \(B,\) = \(2,\), got \(1,\)"),
    "reset": (lambda c: c.reset([5]), ValueError, r"rows in 0 .. 1, got \[5\]"),
    "keys": (lambda c: c.load_state_dict({}), ValueError, "expected state with keys"),
    "state dtype": (
        lambda c: _load(c, inputs=c.state_dict()["inputs"].double()),
        TypeError,
        "expected inputs of dtype torch.float32, got torch.float64",
    ),
    "other filters": (
        lambda c: _load(c, fingerprint=c.state_dict()["fingerprint"] * torch.tensor([1 + 1e-3])),
        ValueError,
        "same filters and skip, got others: filters of layer 0, filters of layer 1",
    ),
    "state rows": (
        lambda c: _load(c, in_prompt=torch.zeros(2)),
        ValueError,
        r"expected in_prompt \(B,\) = \(2,\) of torch.bool, got \(2,\) of torch.float32",
    ),
    "state prompt": (
        lambda c: _load(c, **{"open_prompt.1": torch.zeros(2, 3, 5)}),
        ValueError,
        r"expected open_prompt.1 \(layers, D, P\) = \(2, 4, P\), got \(2, 3, 5\)",
    ),
    "state shape": (
        lambda c: _load(c, pending=torch.zeros(2, 2, 4, 9)),
        ValueError,
        r"expected pending \(layers, B, D, N\) = \(2, 2, 4, 7\)",
    ),
    "state plan": (
        lambda c: _load(c, plan=torch.tensor([10, 0, 5])),
        ValueError,
        r"block sizes \[10, 0, 2, 4\], got \[10, 0, 5\]",
    ),
    "state positions": (
        lambda c: _load(c, positions=torch.tensor([3, 11])),
        ValueError,
        r"positions in 0 .. 10, got \[3, 11\]",
    ),
    "state inputs": (
        lambda c: _load(c, positions=torch.tensor([4, 2])),
        ValueError,
        r"expected inputs \(layers, B, D, n\) = \(2, 2, 4, 4\), got \(2, 2, 4, 3\)",
    ),
}


@pytest.mark.parametrize("case", BAD_CALLS)
def test_a_rejected_call_changes_nothing(impl, case):
    call, error, message = BAD_CALLS[case]
    torch.manual_seed(0)
    cache = FutureFillCache(
        [torch.randn(4, 20), torch.randn(4, 9)], 2, 10, plan=Plan(10, (2, 4)), impl=impl
    )
    for _ in range(3):
        for layer in range(2):
            cache.step(torch.randn(2, 4), layer)
    before = snapshot(cache)
    with pytest.raises(error, match=message):
        call(cache)
    assert all(torch.equal(a, b) for a, b in zip(before, snapshot(cache), strict=True))
    for layer in range(2):
        cache.step(torch.randn(2, 4), layer)
    assert cache.positions.tolist() == [4, 4]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"filters": []}, ValueError, "non-empty sequence"),
        ({"filters": [3]}, TypeError, r"filters\[0\] to be a tensor, got int"),
        ({"filters": torch.zeros(4)}, ValueError, r"filters\[0\] \(G, L\)"),
        ({"filters": torch.zeros(0, 4)}, ValueError, "not empty"),
        ({"filters": [torch.ones(2, 3), torch.ones(3, 3)]}, ValueError, "G = 2 rows like layer 0"),
        ({"filters": torch.full((2, 3), float("nan"))}, ValueError, "finite, got NaN"),
        ({"filters": torch.ones(2, 3, requires_grad=True)}, ValueError, "autograd-free"),
        ({"filters": torch.ones(2, 3, dtype=torch.int32)}, TypeError, "float32, bfloat16"),
        ({"channels": 3}, ValueError, "multiple of G = 2, got 3"),
        ({"batch_size": 0}, ValueError, "batch_size >= 1, got 0"),
        ({"max_new_tokens": 0}, ValueError, "max_new_tokens >= 1, got 0"),
        ({"skip": torch.ones(3)}, ValueError, r"skip \(D,\) = \(2,\)"),
        ({"plan": Plan(9, (2,))}, ValueError, "length max_new_tokens = 8, got 9"),
        ({"dtype": torch.int8}, TypeError, "expected dtype to be one of"),
        ({"fill_stream": object()}, ValueError, "fill_stream needs a CUDA device"),
        ({"rollback": 9}, ValueError, "rollback in 0 .. max_new_tokens = 8, or None, got 9"),
        ({"rollback": -1}, ValueError, "rollback in 0 .. max_new_tokens = 8, or None, got -1"),
        (
            {"rollback": 2, "plan": Plan(8, (2, 4), slack_from=4)},
            ValueError,
            "rollback 0 or None with a plan that has slack, got 2",
        ),
        ({"impl": "fast"}, ValueError, "unknown impl 'fast'; expected one of 'auto'"),
    ],
)
def test_bad_construction_is_named(change, error, message):
    arguments = {"filters": torch.ones(2, 3), "batch_size": 1, "max_new_tokens": 8, **change}
    with pytest.raises(error, match=message):
        FutureFillCache(**arguments)
