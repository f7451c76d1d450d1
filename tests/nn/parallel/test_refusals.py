"""What ranks cannot do together is refused on all of them, and nothing has changed."""

from __future__ import annotations

import os
import time

import pytest
import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor.parallel import parallelize_module

import futurefill_kernels as ff
from futurefill_kernels.nn.language_model import LanguageModel, LanguageModelConfig
from tests.nn.parallel.ranks import on_ranks, results
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
    assert message.startswith("rank 0 of 2: sum over ranks failed: another rank has ended, or did")
    assert seconds < limit
    assert positions == [2, 2]  # the call was taken back
