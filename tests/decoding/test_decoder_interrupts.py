"""Decoder: a request that stops inside leaves what was reported, and the next one is right."""

from __future__ import annotations

import signal

import pytest
import torch

import futurefill_kernels as ff
from tests.decoding.models import make
from tests.decoding.requests import (
    STEPS,
    StopHereError,
    plain,
    prompts_of,
    rows_as_if_fed,
)


@pytest.mark.parametrize("at", [0, 1, 2, 3, 8, 12, STEPS - 1])
def test_a_callback_that_raises(decoder_of, at):
    """The cache holds what was reported but its last token, and the decoder goes on."""
    model, prompts = make("long-conv"), prompts_of(3, 6, 2)
    expected = plain(model, prompts, STEPS)
    decoder = decoder_of(model, 3)

    def callback(ids, t):
        assert ids.tolist() == expected[:, t].tolist()
        if t == at:
            raise StopHereError

    for _ in range(2):  # the second time with a graph
        with pytest.raises(StopHereError):
            decoder(prompts, callback=callback)
        rows_as_if_fed(decoder, model, prompts, expected[:, :at])
    assert torch.equal(decoder(prompts), expected)


@pytest.mark.parametrize("where", ["callback", "token"])
def test_ctrl_c(decoder_of, monkeypatch, where):
    """In a callback it comes at once; inside a token it waits until the token is whole."""
    model, prompts = make("hyena-3"), prompts_of(3, 6)
    expected = plain(model, prompts, STEPS)
    decoder = decoder_of(model, 2)
    heard, after = [], []

    def callback(ids, t):
        heard.append(t)
        if where == "callback" and t == 7:
            signal.raise_signal(signal.SIGINT)
            after.append(t)

    decoder(prompts, 5)
    if where == "token":
        interrupt_a_token(monkeypatch, decoder, 7)
    with pytest.raises(KeyboardInterrupt):
        decoder(prompts, callback=callback)
    assert not after
    assert 6 <= heard[-1] <= 8
    rows_as_if_fed(decoder, model, prompts, expected[:, : heard[-1]])
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    monkeypatch.undo()


def interrupt_a_token(monkeypatch, decoder, count):
    """Ctrl-C in the middle of the books of a token."""
    cache = decoder.cache.caches[0]
    finish, calls = cache.finish_token, []

    def interrupted(rows=None):
        calls.append(rows)
        if len(calls) == count:
            signal.raise_signal(signal.SIGINT)
        finish(rows)

    monkeypatch.setattr(cache, "finish_token", interrupted)


def test_an_interrupted_prompt_leaves_an_empty_cache(decoder_of, monkeypatch):
    model, prompts = make("hyena-3"), prompts_of(3, 6)
    decoder = decoder_of(model, 2)
    expected = decoder(prompts)
    last = model.mixers[-1]
    monkeypatch.setattr(last, "forward", lambda x, cache=None: signal.raise_signal(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        decoder(prompts)
    monkeypatch.undo()
    assert decoder.cache.positions.tolist() == [0, 0]
    assert torch.equal(plain(model, prompts, 3), expected[:, :3])
    decoder = ff.Decoder(model, 2, STEPS)
    assert torch.equal(decoder(prompts), expected)


def test_a_model_that_fails_inside_a_token(decoder_of, monkeypatch):
    model, prompts = make("hyena-3"), prompts_of(3, 6)
    expected = plain(model, prompts, STEPS)
    decoder = decoder_of(model, 2)
    forward, calls = model.mixers[1].forward, []

    def fails(x, cache=None):
        calls.append(x.shape)
        if len(calls) == 3:  # the prompt, a token, this
            raise MemoryError
        return forward(x, cache)

    heard = []
    with monkeypatch.context() as inside:
        inside.setattr(model.mixers[1], "forward", fails)
        with pytest.raises(MemoryError):
            decoder(prompts, callback=lambda ids, t: heard.append(t))
    fed = 1 if decoder_of.captured else heard[-1]
    rows_as_if_fed(decoder, model, prompts, expected[:, :fed])
    assert torch.equal(decoder(prompts), expected)


def test_a_request_inside_another_is_refused(decoder_of):
    model, prompts = make("stu"), prompts_of(3, 6)
    decoder, refused = decoder_of(model, 2), []

    def callback(ids, t):
        with pytest.raises(RuntimeError, match="inside another request"):
            decoder(prompts, 2)
        refused.append(t)

    expected = plain(model, prompts, STEPS)
    assert torch.equal(decoder(prompts, callback=callback), expected)
    assert len(refused) == STEPS
    assert torch.equal(decoder(prompts), expected)
