"""What ranks cannot do together is refused on all of them, and nothing has changed."""

from __future__ import annotations

import functools
import os
import time

import pytest
import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor.parallel import parallelize_module

import futurefill_kernels as ff
from futurefill_kernels.nn.language_model import LanguageModel, LanguageModelConfig
from tests.nn.parallel.ranks import PATIENCE, on_ranks, results
from tests.nn.parallel.stories import follow, model_of, over, prompts


def _message(call, kind=ValueError):
    try:
        call()
    except kind as error:
        return str(error)
    return "nothing was refused"


def _refusals(rank):
    """Messages of everything that two ranks are refused."""
    found = {}
    odd = LanguageModel(LanguageModelConfig(11, 16, channels=6, layers=1, mlp_hidden=5))
    mesh, plan = init_device_mesh("cpu", (2,)), ff.nn.parallel_plan(odd)
    before = {key: x.clone() for key, x in odd.state_dict().items()}
    found["channels"] = _message(lambda: parallelize_module(odd, mesh, plan))
    after = odd.state_dict()
    assert all(torch.equal(after[key], x) for key, x in before.items())
    assert type(odd) is LanguageModel
    other = LanguageModel(
        LanguageModelConfig(11, 16, channels=8 + 8 * rank, layers=1, mlp_hidden=8)
    )
    plan = ff.nn.parallel_plan(other)
    found["models"] = _message(lambda: parallelize_module(other, mesh, plan))

    model = over(2, model_of("language-model"))
    found["twice"] = _message(lambda: ff.nn.parallel_plan(model))
    sizes = (8,) if rank else (4, 16)
    found["plans"] = _message(lambda: ff.DecodingCache(model, 1, 32, plan=ff.Plan(32, sizes)))
    found["rows"] = _message(lambda: ff.DecodingCache(model, 1 + rank, 32))
    found["one"] = _message(lambda: ff.DecodingCache(model, 1, -1 if rank else 32))
    sampler = ff.RandomSampler(seed=rank)
    ids = prompts(model)
    found["seeds"] = _message(lambda: ff.decode(model, ids, 3, sampler=sampler))
    found["prompts"] = _message(lambda: ff.decode(model, ids[:, rank:], 3))
    found["pickle"] = _message(lambda: torch.save(model, os.devnull), TypeError)

    # of another mesh: one that was cut again, and a state that lies on other ranks
    cache = ff.DecodingCache(model, 2, 32)
    second = over(2, model_of("language-model"))
    with torch.no_grad():
        found["cache"] = _message(lambda: second(ids, cache=cache))
    logits = []
    follow(model, ids, cache, 2, logits)
    alone = init_device_mesh("cpu", (2, 1), mesh_dim_names=("copies", "ranks"))["ranks"]
    single = model_of("language-model")
    parallelize_module(single, alone, ff.nn.parallel_plan(single))
    state = ff.DecodingCache(single, 2, 32).state_dict()
    found["mesh"] = _message(lambda: cache.load_state_dict(state))
    follow(model, ids[:, :1], cache, 1, logits)  # and all goes on
    return found, ff.decode(model, ids, 4)


def test_all_ranks_refuse_alike():
    found = results(2, _refusals)
    (messages, ids), (others, same_ids) = found
    assert torch.equal(ids, same_ids)
    for name in set(messages) - {"mesh"}:
        assert messages[name] == others[name], name
    assert "rank 0 of 2: " in messages["channels"]
    assert "to divide output channels of each part = 5, got 2 ranks" in messages["channels"]
    assert "expected the same " in messages["models"]
    assert "is cut over ranks already" in messages["twice"]
    assert "expected the same plan on every rank" in messages["plans"]
    assert "expected the same batch_size on every rank, got 1 on rank 0 and 2" in messages["rows"]
    assert messages["one"].startswith("rank 1 of 2: expected max_new_tokens")
    assert "expected the same seed on every rank, got [0, 1] on rank 0" in messages["seeds"]
    assert "expected the same prompt" in messages["prompts"]
    assert "expected its state_dict to be saved" in messages["pickle"]
    assert "convolutions are called in the order" in messages["cache"]
    assert "on its own mesh makes it whole" in messages["mesh"]


def _arguments(rank):
    """Messages of calls whose arguments are others on rank 1, and the ids that follow them all."""
    model, found = over(2, model_of("language-model")), {}
    prompt = prompts(model)
    cache = ff.DecodingCache(model, 2, 32, rollback=8)
    ids = follow(model, prompt, cache, 6, [])
    found["crop"] = _message(lambda: cache.crop(4 - rank))
    found["reset"] = _message(lambda: cache.reset([rank]))
    found["reorder"] = _message(lambda: cache.reorder([1, rank]))
    found["bad crop"] = _message(lambda: cache.crop([1, 2, 3] if rank else 4))
    found["two calls"] = _message(lambda: cache.reset([0]) if rank else cache.crop(4))

    def call(ids, **selected):
        with torch.no_grad(), cache.select(**selected):
            model(ids, cache=cache)

    found["ids"] = _message(lambda: call(ids + rank * (ids == ids[0])))
    found["width"] = _message(lambda: call(ids.expand(2, 1 + rank)))
    found["rows"] = _message(lambda: call(ids, rows=[1, 0] if rank else [0, 1]))
    found["lengths"] = _message(lambda: call(ids.expand(2, 3), lengths=[3, 3 - rank]))
    found["step and crop"] = _message(lambda: cache.crop(4) if rank else call(ids))
    assert cache.positions.tolist() == [5, 5]
    if rank:
        cache.reset()  # it has no argument, and nobody is asked
    found["positions"] = _message(lambda: call(ids))

    decoder = ff.Decoder(model, 2, 12)
    decode = functools.partial(decoder, prompt, 6)
    sampler = ff.RandomSampler(1.0 + rank)
    found["temperature"] = _message(lambda: decode(sampler=sampler))
    other = (lambda logits: logits.argmin(-1)) if rank else (lambda logits: logits.argmax(-1))
    found["sampler"] = _message(lambda: decode(sampler=other))
    found["callback"] = _message(lambda: decode(callback=lambda ids, t: t == 1 + rank))

    def fails(first, *others):
        if rank:
            raise KeyError("of my own")
        return first.argmax(-1) if isinstance(first, torch.Tensor) else ""

    kind = KeyError if rank else RuntimeError
    found["an error"] = _message(lambda: decode(callback=fails), kind)
    found["a sampler's error"] = _message(lambda: decode(sampler=fails), kind)
    detokenized = {"stop": ["x"], "detokenize": fails}
    found["a text's error"] = _message(lambda: decode(**detokenized), kind)

    def leave():
        tokens = decoder.iterate(prompt, 6)
        for t, _ in enumerate(tokens):
            if t == 1 + rank:
                tokens.close()

    found["left"] = _message(leave)
    return found, decode()


def test_arguments_that_differ_are_named_before_anything_changes():
    begin = time.monotonic()
    (messages, ids), (others, same_ids) = results(2, _arguments)
    assert time.monotonic() - begin < PATIENCE / 2  # no rank waits for the time-out of another
    assert torch.equal(ids, same_ids)
    model = model_of("language-model")
    assert torch.equal(ids, ff.decode(model, prompts(model), 6))
    of_one = {name for name in messages if "error" in name}
    for name in set(messages) - of_one:
        assert messages[name] == others[name], name
    for name, (argument, first, second) in {
        "crop": ("length", "[4, 4]", "[3, 3]"),
        "reset": ("rows", "[0]", "[1]"),
        "reorder": ("rows", "[1, 0]", "[1, 1]"),
        "two calls": ("call", "'crop'", "'reset'"),
        "ids": ("inputs", "['(2, 1) of torch.int64: [32, ", "['(2, 1) of torch.int64: [33, "),
        "width": ("inputs", "['(2, 1) of", "['(2, 2) of"),
        "rows": ("rows", "[0, 1]", "[1, 0]"),
        "lengths": ("lengths", "[3, 3]", "[3, 2]"),
        "step and crop": ("call", "'a call of the model'", "'crop'"),
        "positions": ("positions", "[5, 5]", "[0, 0]"),
        "temperature": ("sampler", "(1.0, None, None)", "(2.0, None, None)"),
        "sampler": ("inputs", "['(2, 1) of", "['(2, 1) of"),
        "callback": ("call", "'the end of a request (a callback", "'a call of the model'"),
        "left": ("call", "'the end of a request (a callback", "'a call of the model'"),
    }.items():
        of_first, _, of_second = messages[name].partition(" on rank 0 and ")
        assert of_first.startswith(f"expected the same {argument} on every rank, got {first}"), name
        assert of_second.startswith(second), name
        assert of_second.endswith(" on rank 1 of 2"), name
    assert messages["bad crop"].startswith("rank 1 of 2: expected length >= 0 of all rows")
    for name in of_one:
        assert others[name] == "'of my own'"
        assert messages[name] == "rank 1 of 2: KeyError('of my own')"


def _one_dies(rank, how):
    model = over(2, model_of("language-model"))
    cache, ids = ff.DecodingCache(model, 2, 32), prompts(model)
    ids = follow(model, ids, cache, 3, [])
    if rank == 1:
        if how == "sleeps":
            time.sleep(25)
        os._exit(3)
    begin = time.monotonic()
    try:
        follow(model, ids, cache, 1, [])
    except RuntimeError as error:
        at = cache.positions.tolist()
        return str(error), time.monotonic() - begin, at
    return None


@pytest.mark.slow
@pytest.mark.parametrize(("how", "limit"), [("dies", 15), ("sleeps", 20)])
def test_a_rank_that_is_gone_ends_the_others_call(how, limit):
    found, gone = on_ranks(2, _one_dies, how, patience=10)
    assert gone is None
    message, seconds, positions = found
    assert message.startswith("rank 0 of 2: gather over ranks failed: another rank has ended, has ")
    assert seconds < limit
    assert positions == [2, 2]  # the call was taken back
