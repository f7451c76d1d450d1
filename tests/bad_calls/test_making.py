"""Caches, plans and whole convolutions that are not made, and the parts of the message."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import futurefill_kernels as ff
from tests.bad_calls.refusals import expect_refusal

NEW = {
    "no filters": (lambda h: ff.FutureFillCache([], 1, 8), "filters", "non-empty"),
    "filters are a number": (lambda h: ff.FutureFillCache(2.0, 1, 8), "filters", "float"),
    "filters of 1 dimension": (lambda h: ff.FutureFillCache(h[0], 1, 8), "filters[0]", "(30,)"),
    "filters with NaN": (lambda h: ff.FutureFillCache(h / 0 - h / 0, 1, 8), "finite", "NaN"),
    "filters of integers": (lambda h: ff.FutureFillCache(h.long(), 1, 8), "filters[0]", "int64"),
    "filters with grad": (
        lambda h: ff.FutureFillCache(h.clone().requires_grad_(), 1, 8), "filters[0]", "grad",
    ),
    "other filter rows": (
        lambda h: ff.FutureFillCache([h, h[:1]], 1, 8), "filters[1]", "G = 2", "got 1",
    ),
    "numpy filters": (lambda h: ff.FutureFillCache([h.numpy()], 1, 8), "filters[0]", "ndarray"),
    "no rows": (lambda h: ff.FutureFillCache(h, 0, 8), "batch_size", ">= 1", "got 0"),
    "no positions": (lambda h: ff.FutureFillCache(h, 1, 0), "max_new_tokens", ">= 1", "got 0"),
    "rows as a float": (lambda h: ff.FutureFillCache(h, 1.0, 8), "batch_size", "integer", "1.0"),
    "positions as a float": (
        lambda h: ff.FutureFillCache(h, 1, 1e3), "max_new_tokens", "integer", "1000.0",
    ),
    "channels": (lambda h: ff.FutureFillCache(h, 1, 8, channels=3), "channels", "G = 2", "got 3"),
    "channels as text": (
        lambda h: ff.FutureFillCache(h, 1, 8, channels="4"), "channels", "integer", "'4'",
    ),
    "skip": (lambda h: ff.FutureFillCache(h, 1, 8, skip=h[0]), "skip", "(2,)", "(30,)"),
    "skip as a number": (lambda h: ff.FutureFillCache(h, 1, 8, skip=1.0), "skip", "float"),
    "another plan": (
        lambda h: ff.FutureFillCache(h, 1, 8, plan=ff.Plan(9, (3,))), "plan", "8", "got 9",
    ),
    "no plan": (lambda h: ff.FutureFillCache(h, 1, 8, plan=(2, 4)), "plan", "Plan", "tuple"),
    "no such implementation": (
        lambda h: ff.FutureFillCache(h, 1, 8, impl="fast"), "impl", "'cpu'", "'fast'",
    ),
    "dtype": (
        lambda h: ff.FutureFillCache(h, 1, 8, dtype=torch.int8), "dtype", "float32", "int8",
    ),
    "spectra_dtype": (
        lambda h: ff.FutureFillCache(h, 1, 8, spectra_dtype=torch.int8), "spectra_dtype", "int8",
    ),
    "filters on meta": (
        lambda h: ff.FutureFillCache(h.to("meta"), 1, 8), "filters[0]", "values", "meta",
    ),
    "filters_dtype": (
        lambda h: ff.FutureFillCache(h, 1, 8, filters_dtype=torch.float16),
        "filters_dtype", "bfloat16", "float16",
    ),
    "state_dtype: half for float64": (
        lambda h: ff.FutureFillCache(h.double(), 1, 8, state_dtype=torch.float16),
        "state_dtype", "torch.float64", "torch.float16",
    ),
    "state_dtype: half with slack": (
        lambda h: ff.FutureFillCache(
            h, 1, 8, plan=ff.Plan(8, (2, 4), slack_from=4), state_dtype=torch.bfloat16
        ),
        "state_dtype", "slack", "torch.bfloat16",
    ),
    "filters_dtype: wider than the state": (
        lambda h: ff.FutureFillCache(h, 1, 8, filters_dtype=torch.float64),
        "filters_dtype", "float32", "float64",
    ),
    "filters_dtype: a name": (
        lambda h: ff.FutureFillCache(h, 1, 8, filters_dtype="bfloat16"),
        "filters_dtype", "got 'bfloat16'",
    ),
    "memory": (lambda h: ff.FutureFillCache(h, 1, 8, memory="tiny"), "memory", "small", "'tiny'"),
    "memory: None": (lambda h: ff.FutureFillCache(h, 1, 8, memory=None), "memory", "None"),
    "memory: with slack": (
        lambda h: ff.FutureFillCache(
            h, 1, 64, plan=ff.Plan(64, (4, 8), slack_from=8), memory="small"
        ),
        "memory='speed'", "slack", "'small'",
    ),
    "memory: for latency": (
        lambda h: ff.make_plan(64, 2, objective="latency", memory="small"), "memory", "latency",
    ),
    "state_dtype: half for latency": (
        lambda h: ff.make_plan(64, 2, objective="latency", state_dtype=torch.float16),
        "state_dtype", "latency", "torch.float16",
    ),
    "make_plan: state_dtype": (
        lambda h: ff.make_plan(64, 2, dtype=torch.float64, state_dtype=torch.float16),
        "state_dtype", "float64", "torch.float16",
    ),
    "make_plan: filters_dtype": (
        lambda h: ff.make_plan(64, 2, filters_dtype=torch.float16),
        "filters_dtype", "bfloat16", "torch.float16",
    ),
    "bytes_per_channel": (
        lambda h: ff.Plan(64, (4,)).bytes_per_channel(torch.int8), "state_dtype", "torch.int8",
    ),
    "made_from": (lambda h: ff.Plan(64, (4, 8), made_from=5), "made_from", "(4, 8)", "got 5"),
    "endless: no filter length": (lambda h: ff.Plan(None, (4,)), "filter_length", "None"),
    "endless: slack": (
        lambda h: ff.Plan(None, (4, 8), 30, slack_from=8), "slack_from None", "length None", "8",
    ),
    "endless: latency": (
        lambda h: ff.make_plan(None, 2, filter_length=30, objective="latency"),
        "objective", "throughput", "latency",
    ),
    "endless: rollback": (
        lambda h: ff.FutureFillCache(h, 1, None, rollback=None), "rollback >= 0", "got None",
    ),
    "endless: rollback below 0": (
        lambda h: ff.FutureFillCache(h, 1, None, rollback=-1), "rollback >= 0", "got -1",
    ),
    "endless: rollback is no number": (
        lambda h: ff.FutureFillCache(h, 1, None, rollback=1.5), "rollback", "integer", "1.5",
    ),
    "rollback is no number": (
        lambda h: ff.FutureFillCache(h, 1, 8, rollback="all"), "rollback", "integer", "'all'",
    ),
    "rollback: too far": (
        lambda h: ff.FutureFillCache(h, 1, 8, rollback=9), "rollback", "max_new_tokens = 8", "9",
    ),
    "rollback: with slack": (
        lambda h: ff.FutureFillCache(
            h, 1, 64, plan=ff.Plan(64, (4, 8), slack_from=8), rollback=3
        ),
        "rollback 0 or None", "slack", "got 3",
    ),
    "fill_stream: on the CPU": (
        lambda h: ff.FutureFillCache(h, 1, 8, fill_stream=object()), "fill_stream", "CUDA", "cpu",
    ),
    "state_dtype": (
        lambda h: ff.FutureFillCache(h, 1, 8, state_dtype=torch.int64), "state_dtype", "int64",
    ),
    "endless: a plan that ends": (
        lambda h: ff.FutureFillCache(h, 1, None, plan=ff.Plan(8, (4,))), "plan", "None", "got 8",
    ),
    "an endless plan": (
        lambda h: ff.FutureFillCache(h, 1, 8, plan=ff.Plan(None, (4,), 30)), "plan", "8", "None",
    ),
    "endless: rows": (lambda h: ff.FutureFillCache(h, 0, None), "batch_size", ">= 1", "got 0"),
    "conv: u": (lambda h: ff.causal_conv(h, h), "u", "(B, D, T)", "(2, 30)"),
    "conv: numpy": (lambda h: ff.causal_conv(h.numpy(), h), "u", "tensor", "ndarray"),
    "conv: h": (lambda h: ff.causal_conv(h[None], h[0]), "h", "(D, L)", "(30,)"),
    "conv: filter rows": (
        lambda h: ff.causal_conv(h[None, :1], h), "filter rows of h", "D = 1", "2 rows",
    ),
    "conv: skip": (lambda h: ff.causal_conv(h[None], h, h[0]), "skip", "(2,)", "(30,)"),
    "conv: grad": (
        lambda h: ff.causal_conv(h[None].clone().requires_grad_(), h), "u", "requires grad",
    ),
    "conv: device": (
        lambda h: ff.causal_conv(h[None], h.to("meta")), "h", "cpu", "meta",
    ),
    "plan: no positions": (lambda h: ff.Plan(0, (4,)), "length None or >= 1", "got 0"),
    "plan: filter length": (lambda h: ff.Plan(8, (4,), 0), "filter_length >= 1", "got 0"),
    "plan: block sizes": (lambda h: ff.Plan(8, (0,)), "block_sizes", "positive", "(0,)"),
    "plan: length as a float": (lambda h: ff.Plan(8.5, (4,)), "length", "integer", "8.5"),
    "plan: one block size": (lambda h: ff.Plan(8, 4), "block_sizes", "sequence", "got 4"),
    "plan: block sizes as text": (lambda h: ff.Plan(8, "24"), "block_sizes", "integers", "'24'"),
    "plan: slack as a float": (
        lambda h: ff.Plan(8, (2, 4), slack_from=4.0), "slack_from", "integer", "4.0",
    ),
    "make_plan: length as a float": (
        lambda h: ff.make_plan(8.5, 2), "length", "integer", "8.5",
    ),
    "make_plan: groups as text": (
        lambda h: ff.make_plan(8, 2, groups="2"), "groups", "integer", "'2'",
    ),
    "a cache of no model": (lambda h: ff.DecodingCache(h, 1, 8), "model", "module", "Tensor"),
    "a cache of a model without mixers": (
        lambda h: ff.DecodingCache(torch.nn.Linear(2, 2), 1, 8), "Linear", "no ff.nn mixers",
    ),
    "a decoder of no model": (lambda h: ff.Decoder(h, 1, 8), "model", "module", "Tensor"),
    "plan: no block sizes": (lambda h: ff.Plan(8, ()), "block_sizes", "()"),
    "plan: multiples": (lambda h: ff.Plan(16, (4, 6)), "multiple", "4 then 6"),
    "plan: slack": (lambda h: ff.Plan(16, (4, 8), slack_from=5), "slack_from", "(8,)", "got 5"),
    "plan: rollback": (lambda h: ff.Plan(16, (4, 8), rollback=2), "rollback", "got 2"),
    "plan: slack of made spectra": (
        lambda h: ff.Plan(16, (4, 8), slack_from=8, made_from=8), "made_from or slack_from", "8",
    ),
    "make_plan: groups": (lambda h: ff.make_plan(64, 6, groups=4), "groups", "6", "got 4"),
    "make_plan: objective": (
        lambda h: ff.make_plan(64, 2, objective="speed"), "objective", "latency", "'speed'",
    ),
    "make_plan: endless without filter length": (
        lambda h: ff.make_plan(None, 2), "filter_length", "None",
    ),
    "make_plan: no channels": (lambda h: ff.make_plan(64, 0), "channels >= 1", "got 0"),
    "make_plan: no rows": (lambda h: ff.make_plan(64, 2, batch_size=0), "batch_size", "got 0"),
    "make_plan: device": (
        lambda h: ff.make_plan(64, 2, device="meta"), "cpu or cuda device", "meta",
    ),
    "a device's name": (lambda h: ff.DeviceInfo.named("k80"), "'k80'", "h100"),
    "fill: n": (lambda h: ff.future_fill(h[None], h, 0), "n >= 1", "got 0"),
}  # fmt: skip


@pytest.mark.parametrize("case", NEW)
def test_a_refused_making(case):
    call, *parts = NEW[case]
    expect_refusal(call, torch.randn(2, 30), parts)


def test_sizes_are_any_whole_numbers():
    cache = ff.FutureFillCache(torch.randn(2, 9), np.int64(2), torch.tensor(5), rollback=1)
    assert (type(cache.batch_size), type(cache.max_new_tokens)) == (int, int)
    assert cache.step(torch.randn(2, 2), rows=np.array([1, 0])).shape == (2, 2)
    cache.crop(torch.tensor(0))
    assert cache.positions.tolist() == [0, 0]
