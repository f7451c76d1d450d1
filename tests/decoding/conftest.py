"""Decoders whose tokens are launched, or captured without a GPU."""

from __future__ import annotations

import pytest

import futurefill_kernels as ff
from tests.decoding import capturing
from tests.decoding.requests import PLAN, STEPS


@pytest.fixture
def graphs(monkeypatch):
    """The implementation that can be captured here, and the graphs that are made."""
    return capturing.install(monkeypatch)


@pytest.fixture(params=[False, True], ids=["launched", "captured"])
def decoder_of(request, graphs):
    """Makes decoders whose tokens are launched, or captured."""

    def make_decoder(model, batch_size, max_new_tokens=STEPS, **options):
        options = {"plan": PLAN, "impl": "device-books", "cuda_graph": request.param, **options}
        return ff.Decoder(model, batch_size, max_new_tokens, **options)

    make_decoder.captured = request.param
    return make_decoder
