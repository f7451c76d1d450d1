"""Modules and configurations that are not made, and the parts of the message."""

from __future__ import annotations

import pytest

import futurefill_kernels as ff
from futurefill_kernels.nn.language_model import LanguageModelConfig
from tests.bad_calls.refusals import expect_refusal


def config(**changes):
    return LanguageModelConfig(32, 16, channels=8, layers=1, mlp_hidden=8, **changes)


MODULES = {
    "hyena: order": (lambda: ff.nn.Hyena(4, 16, order=1), "order >= 2", "got 1"),
    "hyena: channels": (lambda: ff.nn.Hyena(0, 16), "channels", ">= 1", "0"),
    "long conv: groups": (lambda: ff.nn.LongConv(4, 16, groups=3), "groups", "4", "got 3"),
    "long conv: length": (lambda: ff.nn.LongConv(4, 0), ">= 1", "got 0"),
    "stu: filters": (lambda: ff.nn.STU(4, 16, filters=17), "filters", "16", "got 17"),
    "stu: no filters": (lambda: ff.nn.STU(4, 16, filters=0), "filters", "got 0"),
    "short conv": (lambda: ff.nn.ShortConv(4, 0), "taps >= 1", "got 0"),
    "mixer": (lambda: config(mixer="attention"), "mixer", "hyena", "'attention'"),
    "activation": (lambda: config(activation="tanh"), "activation", "silu", "'tanh'"),
    "size": (lambda: config(filter_hidden=2.0), "filter_hidden", "int >= 1", "2.0"),
    "norm": (lambda: config(norm_eps=0.0), "norm_eps > 0", "0.0"),
    "tensorised": (lambda: config(tensorised=1), "tensorised", "bool", "1"),
    "spectral filters": (
        lambda: config(mixer="stu", spectral_filters=17), "spectral_filters", "16", "got 17",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", MODULES)
def test_a_module_that_is_not_made(case):
    call, *parts = MODULES[case]
    expect_refusal(lambda _: call(), None, parts)
