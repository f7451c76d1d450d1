"""Decoder: every request gives what a plain loop gives, launched or captured, and leaves the cache
where the plain loop leaves it.
"""

from __future__ import annotations

import gc
import signal
import sys
import weakref

import pytest
import torch

import futurefill_kernels as ff
from futurefill_kernels.decoding.sampling import RandomSampler, greedy
from tests.decoding import capturing
from tests.decoding.models import MODELS, VOCABULARY, make

STEPS = 20
PLAN = ff.Plan(STEPS, (4, 8))


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


def prompts_of(*lengths, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(VOCABULARY, (n,), generator=generator) for n in lengths]


@torch.no_grad()
def plain(model, prompts, steps, sampler=greedy, stop_ids=(), pad_id=0):
    """The specification: the parallel form on everything so far, for every token and row."""
    found = torch.full((len(prompts), steps), pad_id)
    for b, ids in enumerate(prompts):
        for t in range(steps):
            logits = model(ids[None])[:, -1]
            if isinstance(sampler, RandomSampler):
                one = RandomSampler(
                    sampler.temperature, top_k=sampler.top_k, top_p=sampler.top_p,
                    seed=sampler.seeds(len(prompts))[b],
                )  # fmt: skip
                drawn = one(logits, t)
            else:
                drawn = sampler(logits)
            found[b, t] = drawn
            ids = torch.cat([ids, drawn])
            if int(drawn) in stop_ids:
                break
    return found


def rows_as_if_fed(decoder, model, prompts, tokens, tolerance=1e-9):
    """Whether the cache continues as one that has been fed with prompts and then tokens (R, n)."""
    cache = decoder.cache
    rows = [torch.cat([p, t]) for p, t in zip(prompts, tokens, strict=True)]
    assert cache.positions.tolist()[: len(rows)] == [tokens.shape[1]] * len(rows)
    following = torch.randint(VOCABULARY, (cache.batch_size, 3))
    with torch.no_grad():
        for t in range(min(3, cache.max_new_tokens - tokens.shape[1])):
            logits = model(following[:, t : t + 1], cache=cache)[:, 0]
            rows = [torch.cat([r, f[t : t + 1]]) for r, f in zip(rows, following, strict=False)]
            for b, ids in enumerate(rows):
                torch.testing.assert_close(
                    logits[b], model(ids[None])[0, -1], rtol=0, atol=tolerance
                )


SAMPLERS = {
    "greedy": greedy,
    "temperature": RandomSampler(0.9, seed=5),
    "top-k": RandomSampler(0.9, top_k=7, seed=6),
    "top-p": RandomSampler(1.1, top_p=0.9, seed=[9, 8, 7]),
    "own": lambda logits: (-logits).argmax(-1),
}


@pytest.mark.parametrize("name", MODELS)
def test_tokens_of_every_model(decoder_of, name):
    model, prompts = make(name), prompts_of(3, 9, 1)
    assert torch.equal(decoder_of(model, 3)(prompts), plain(model, prompts, STEPS))
    one = decoder_of(model, 1)(prompts[1][None])
    assert torch.equal(one, plain(model, prompts[1:2], STEPS))
    assert len(set(one[0].tolist())) > 3


@pytest.mark.parametrize("name", SAMPLERS)
def test_tokens_of_every_sampler(decoder_of, name):
    """Of a sampler that the graph holds, and of one that runs behind it."""
    model, prompts, sampler = make("hyena-3"), prompts_of(2, 5, 3), SAMPLERS[name]
    if name == "own" and decoder_of.captured:
        decoder = decoder_of(model, 3, cuda_graph=None)
    else:
        decoder = decoder_of(model, 3)
    expected = plain(model, prompts, STEPS, sampler)
    for _ in range(2):  # a sampler that is used again repeats
        assert torch.equal(decoder(prompts, sampler=sampler), expected)


def test_tokens_with_stops(decoder_of):
    model, prompts = make("stu"), prompts_of(4, 2, 6)
    free = plain(model, prompts, STEPS)
    decoder = decoder_of(model, 3)
    for stops in ([int(free[0, 3])], [int(free[0, 0])], [int(free[1, 15]), int(free[2, 9])]):
        new = decoder(prompts, stop_ids=stops, pad_id=7)
        assert torch.equal(new, plain(model, prompts, STEPS, stop_ids=stops, pad_id=7))
    stops = free[:, 11].tolist()  # every row ends
    heard = []
    new = decoder(prompts, stop_ids=stops, pad_id=7, callback=lambda ids, t: heard.append(ids))
    expected = plain(model, prompts, STEPS, stop_ids=stops, pad_id=7)
    assert torch.equal(new, expected)
    last = len(heard) - 1
    assert last <= 11
    assert torch.stack(heard, 1).tolist() == expected[:, : last + 1].tolist()
    rows_as_if_fed(decoder, model, prompts, expected[:, :last])


@pytest.mark.parametrize("steps", [1, 2, 3, 11, STEPS])
def test_fewer_prompts_and_tokens_than_there_is_room_for(decoder_of, steps):
    model, prompts = make("long-conv"), prompts_of(5, 2)
    decoder = decoder_of(model, 4)
    heard = []
    new = decoder(prompts, steps, callback=lambda ids, t: heard.append((t, ids.tolist())))
    expected = plain(model, prompts, steps)
    assert torch.equal(new, expected)
    assert heard == [(t, expected[:, t].tolist()) for t in range(steps)]
    rows_as_if_fed(decoder, model, prompts, expected[:, :-1])


@pytest.mark.parametrize("name", ["language-model", "stu", "hyena-3"])
def test_requests_of_every_implementation(impl, name):
    """In float32, launched or by real graphs, as the implementation and the device have it."""
    model, prompts = make(name).float(), prompts_of(3, 7, 2)
    free = ff.decode(model, prompts, STEPS, impl="reference")
    decoder = ff.Decoder(model, 4, STEPS, impl=impl)
    for options in (
        {},
        {"callback": lambda ids, t: None},
        {"sampler": RandomSampler(0.8, top_k=20, top_p=0.95, seed=[3, 2, 1])},
        {"sampler": lambda logits: (-logits).argmax(-1)},
        {"stop_ids": free[:, 9].tolist(), "pad_id": 7},
    ):
        expected = ff.decode(model, prompts, STEPS, impl="reference", **options)
        for _ in range(2):
            assert torch.equal(decoder(prompts, **options), expected)

    def callback(ids, t):
        if t == 6:
            raise StopHereError

    with pytest.raises(StopHereError):
        decoder(prompts, callback=callback)
    rows_as_if_fed(decoder, model, prompts, free[:, :6], tolerance=1e-3)


def test_calls_of_a_token_do_not_grow_with_the_batch(graphs, monkeypatch):
    """What the host does between two callbacks, around a replay that does nothing."""
    monkeypatch.setattr(capturing.Tapes, "capture", lambda self, call: lambda: None)
    counts = set()
    for batch_size in (1, 3, 12):
        plan = ff.Plan(STEPS, (STEPS,))  # the fills of this implementation go row by row
        decoder = ff.Decoder(make("long-conv"), batch_size, STEPS, plan=plan, impl="device-books")
        prompts = prompts_of(*range(1, batch_size + 1))
        found, calls = [], []

        def callback(ids, t, calls=calls, found=found):
            found.append(len(calls))
            calls.clear()

        decoder(prompts)
        sys.setprofile(lambda frame, event, argument, calls=calls: calls.append(event))
        try:
            decoder(prompts, callback=callback)
        finally:
            sys.setprofile(None)
        counts.update(found[4:-1])
    assert len(counts) == 1
    assert counts.pop() < 200


def test_unused_rows_keep_no_request_running(decoder_of):
    model, prompts = make("stu"), prompts_of(4)
    stop = int(plain(model, prompts, 4)[0, 3])
    heard = []
    decoder_of(model, 3)(prompts, stop_ids=[stop], callback=lambda ids, t: heard.append(t))
    assert heard[-1] <= 3


def test_no_tokens(decoder_of):
    decoder = decoder_of(make("stu"), 2)
    assert decoder(prompts_of(3, 4), 0).shape == (2, 0)
    assert decoder(prompts_of(3), 0).shape == (1, 0)


def test_one_capture_serves_many_requests(graphs):
    model, (_, made) = make("language-model"), graphs
    decoder = ff.Decoder(model, 2, STEPS, plan=PLAN, impl="device-books", cuda_graph=True)
    requests = [
        ((2, 7), {}),
        ((1,), {}),
        ((4, 3), {"pad_id": 3}),
        ((4, 3), {"sampler": RandomSampler(0.8, top_k=9, seed=1)}),
        ((4, 3), {"sampler": RandomSampler(0.8, top_k=9, seed=[4, 4])}),
        ((4, 3), {"stop_ids": [1, 2, 3], "pad_id": 9}),
        ((4, 3), {"stop_ids": [5], "pad_id": 4}),
    ]
    captures = []
    for lengths, options in requests:
        prompts = prompts_of(*lengths, seed=len(captures))
        assert torch.equal(decoder(prompts, **options), plain(model, prompts, STEPS, **options))
        captures.append(made[0].captures)
    assert captures == [1, 1, 1, 2, 2, 3, 3]
    assert len(made) == 1


def test_graphs_of_samplers_that_are_used_no_more_go(graphs):
    model, (_, made) = make("language-model"), graphs
    decoder = ff.Decoder(model, 2, STEPS, plan=PLAN, impl="device-books", cuda_graph=True)
    prompts = prompts_of(4, 3)
    for round_ in range(2):
        for n in range(10):  # greedy is used all the time
            sampler = RandomSampler(0.5 + n / 10)
            decoder(prompts)
            got = decoder(prompts, sampler=sampler)
            assert torch.equal(got, plain(model, prompts, STEPS, sampler=sampler))
            assert len(decoder._loop._captured) <= 8
        assert made[0].captures == 1 + 10 * (round_ + 1)


def test_fills_are_launched_between_replays(graphs):
    implementation, made = graphs
    model = make("stu")
    decoder = ff.Decoder(model, 1, 20, plan=ff.Plan(20, (4, 8)), impl="device-books")
    at = []

    def callback(ids, t):
        at.append((made[0].replays, list(implementation.fills)))

    decoder(prompts_of(3), callback=callback)
    assert implementation.fills == [(4, 4), (8, 8), (12, 4), (16, 8)]
    # one token ahead: of token 5 the host knows after the replay of token 6, which was launched
    # behind the fill after the fourth step; token 1 was no replay
    assert at[5] == (5, [(4, 4)])
    assert made[0].replays == 18


def test_changed_weights_are_noticed_once_per_request(decoder_of):
    model, prompts = make("hyena-3"), prompts_of(3, 5)
    decoder = decoder_of(model, 2)
    before = decoder(prompts)
    cache = decoder.cache
    decoder(prompts)
    assert decoder.cache is cache
    with torch.no_grad():
        model.mixers[0].filters[0].output.weight.mul_(3.0)
    changed = decoder(prompts)
    assert torch.equal(changed, plain(model, prompts, STEPS))
    assert not torch.equal(changed, before)
    assert decoder.cache is not cache
    model.head.weight = torch.nn.Parameter(-model.head.weight.detach())  # another tensor
    assert torch.equal(decoder(prompts), plain(model, prompts, STEPS))


class StopHereError(Exception):
    pass


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


def test_requests_in_inference_mode_and_out_of_it(decoder_of):
    model, prompts = make("stu"), prompts_of(3, 6)
    options = {"sampler": RandomSampler(0.8, seed=1), "stop_ids": [5]}
    expected = plain(model, prompts, STEPS, **options)
    with torch.inference_mode():
        decoder = decoder_of(model, 2)
        assert torch.equal(decoder(prompts, **options), expected)
    assert torch.equal(decoder(prompts, **options), expected)


def test_memory_is_free_as_soon_as_a_decoder_is_gone(graphs, monkeypatch):
    """Without a collection of cycles, which a GPU's memory does not ask for."""
    monkeypatch.setattr(capturing.Tapes, "capture", lambda self, call: lambda: None)
    decoder = ff.Decoder(make("stu"), 2, STEPS, plan=PLAN, impl="device-books", cuda_graph=True)
    decoder(prompts_of(3, 6))
    state = weakref.ref(decoder.cache.caches[0].state)
    gc.disable()
    try:
        del decoder
        assert state() is None
    finally:
        gc.enable()


def test_decode_reuses_a_decoder(decoder_of):
    model, prompts = make("stu"), prompts_of(3, 6)
    decoder = decoder_of(model, 2)
    expected = plain(model, prompts, 9)
    assert torch.equal(ff.decode(decoder, prompts, 9), expected)
    padded = torch.nn.utils.rnn.pad_sequence(prompts, batch_first=True)
    assert torch.equal(ff.decode(decoder, padded, 9, lengths=[3, 6]), expected)
    with pytest.raises(ValueError, match="plan, impl belong to its making"):
        ff.decode(decoder, prompts, 9, plan=PLAN, impl="cpu")
    for name, value in {"cuda_graph": False, "spectra_dtype": torch.float32}.items():
        with pytest.raises(ValueError, match=f"{name} belong to its making"):
            ff.decode(decoder, prompts, 9, **{name: value})


def test_progress_counts_tokens(decoder_of, capsys):
    decoder_of(make("stu"), 1)(prompts_of(3), 6, progress=True)
    assert "/6" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("prompts", "steps", "options", "error", "message"),
    [
        (3, 5, {}, ValueError, "at most batch_size = 2 prompts, got 3"),
        (2, 21, {}, ValueError, r"max_new_tokens in 0 \.\. 20, .* got 21"),
        (2, -1, {}, ValueError, r"max_new_tokens in 0 \.\. 20, .* got -1"),
        (2, 5, {"sampler": RandomSampler(seed=[1, 2, 3])}, ValueError, r"\(2,\), got \(3,\)"),
        (2, 5, {"stop_ids": [50]}, ValueError, r"ids in 0 \.\. 49 .* got 50"),
        (2, 5, {"pad_id": -1}, ValueError, r"ids in 0 \.\. 49 .* got -1"),
        (2, 5, {"lengths": [1, 1]}, ValueError, "a list has its own"),
    ],
)
def test_bad_requests_change_nothing(decoder_of, prompts, steps, options, error, message):
    model, good = make("stu"), prompts_of(3, 6)
    decoder = decoder_of(model, 2)
    new = decoder(good, 9)
    with pytest.raises(error, match=message):
        decoder(prompts_of(*range(1, prompts + 1)), steps, **options)
    rows_as_if_fed(decoder, model, good, new[:, :-1])


def test_what_cannot_be_captured_is_refused(graphs):
    model, prompts = make("stu"), prompts_of(3)
    with pytest.raises(RuntimeError, match="impl='reference' reads positions on the host"):
        ff.Decoder(model, 1, 9, impl="reference", cuda_graph=True)
    with pytest.raises(RuntimeError, match="cannot be captured"):
        ff.decode(model, prompts, 9, impl="reference", cuda_graph=True)
    decoder = ff.Decoder(model, 1, 9, impl="device-books", cuda_graph=True)

    class Own(RandomSampler):
        pass

    for sampler, name in ((lambda logits: logits.argmax(-1), "<lambda>"), (Own(), "Own")):
        with pytest.raises(RuntimeError, match=rf"sampler={name} may read the host .* RandomSampl"):
            decoder(prompts, sampler=sampler)
    free = ff.Decoder(model, 1, 9, impl="device-books")
    assert torch.equal(
        free(prompts, sampler=Own(seed=3)), free(prompts, sampler=RandomSampler(seed=3))
    )


@pytest.mark.cpu_only("the message of a CPU")
def test_cuda_graphs_need_a_cuda_device():
    with pytest.raises(RuntimeError, match=r"need a CUDA device, the model is on cpu"):
        ff.Decoder(make("stu"), 1, 9, cuda_graph=True)


def test_a_side_stream_belongs_to_tokens_without_a_graph():
    for options in ({}, {"cuda_graph": True}):
        with pytest.raises(ValueError, match="fill_stream gains nothing in a token graph"):
            ff.Decoder(make("stu"), 1, 9, fill_stream=object(), **options)
    with pytest.raises(ValueError, match="fill_stream gains nothing in a token graph"):
        ff.decode(make("stu"), prompts_of(3), 9, fill_stream=object(), cuda_graph=True)
