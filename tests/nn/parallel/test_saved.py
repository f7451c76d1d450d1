"""Weights and state, saved by four ranks and loaded by two, by one and by the whole model."""

from __future__ import annotations

import pytest
import torch
from torch.distributed import checkpoint
from torch.distributed.tensor import DTensor, Shard, empty

import futurefill_kernels as ff
from futurefill_kernels.nn.pretrained import read_record
from tests.nn.parallel.ranks import results
from tests.nn.parallel.stories import follow, model_of, over, prompts

NAMES = ("language-model", "stu-lm", "stu-full-lm", "long-conv")


def _whole(state):
    return {k: x.full_tensor() if isinstance(x, DTensor) else x for k, x in state.items()}


def _cache(model, rollback):
    return ff.DecodingCache(
        model, 2, 40, plan=ff.Plan(40, (4, 16)), rollback=rollback, filters_dtype=torch.bfloat16
    )


def _save(rank, n, name, folder, rollback):
    """Weights other than those the model was made with, and a state in the middle of a stream."""
    model = model_of(name)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter *= 1.25
    over(n, model)
    cache, found = _cache(model, rollback), []
    ids = follow(model, prompts(model), cache, 7, found)
    with torch.no_grad():
        cache.reset([1])
        with cache.select(rows=[1]):
            model(prompts(model)[1:, :5], cache=cache)  # a prompt that is half read
    weights, state = model.state_dict(), cache.state_dict()
    checkpoint.save({"model": weights, "cache": state}, checkpoint_id=f"{folder}/cut")
    whole = {"model": _whole(weights), "cache": _whole(state), "ids": ids}
    if rank == 0:
        torch.save(whole, f"{folder}/whole.pt")
    with cache.select(rows=[0, 1]):
        follow(model, ids, cache, 6, found)
    return torch.stack(found[7:])


def _load(rank, n, name, folder, rollback, cut):
    model = over(n, model_of(name))
    whole = torch.load(f"{folder}/whole.pt")
    if cut:
        weights = {"model": model.state_dict()}
        checkpoint.load(weights, checkpoint_id=f"{folder}/cut")
        model.load_state_dict(weights["model"])
        state = _read_cut(model, f"{folder}/cut", whole["cache"])
    else:
        model.load_state_dict(whole["model"])
        state = whole["cache"]
    cache, found = _cache(model, rollback), []
    cache.load_state_dict(state)
    follow(model, whole["ids"], cache, 6, found)
    again = _whole(model.state_dict())
    assert all(torch.equal(again[key], x) for key, x in whole["model"].items())
    return torch.stack(found)


def _read_cut(model, folder, whole):
    """The cache's part of a sharded checkpoint: tensors of its sizes, cut over these ranks."""
    mesh = next(m for m in model.modules() if "ranks" in vars(m)).ranks.mesh
    sizes = checkpoint.FileSystemReader(folder).read_metadata().state_dict_metadata
    found = {}
    for key, x in whole.items():
        shape = sizes[f"cache.{key}"].size
        dim = next((d for d, size in enumerate(shape) if size % 4 == 0 and d), None)
        cut = x.is_floating_point() and "fingerprint" not in key and dim is not None
        placed = {"device_mesh": mesh, "placements": [Shard(dim)]} if cut else {}
        found[key] = (empty if cut else torch.empty)(shape, dtype=x.dtype, **placed)
    checkpoint.load({"cache": found}, checkpoint_id=folder)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("rollback", [0, None])
def test_saved_on_four_and_loaded_on_two_and_one(name, rollback, tmp_path):
    expected = results(4, _save, 4, name, str(tmp_path), rollback)[0]
    for n, cut in ((2, True), (2, False)):
        for logits in results(n, _load, n, name, str(tmp_path), rollback, cut):
            torch.testing.assert_close(logits, expected, rtol=1e-9, atol=1e-9)
    model, whole = model_of(name), torch.load(tmp_path / "whole.pt")
    model.load_state_dict(whole["model"])
    cache, found = _cache(model, rollback), []
    cache.load_state_dict(whole["cache"])
    follow(model, whole["ids"], cache, 6, found)
    torch.testing.assert_close(torch.stack(found), expected, rtol=1e-9, atol=1e-9)


def _save_file(rank, folder):
    """A cut model as one file, and what is said where it cannot be written."""
    model = over(2, model_of("shipped", "float32"))
    ff.nn.save_model(model, f"{folder}/whole.safetensors", {"steps": 3})
    try:
        ff.nn.save_model(model, f"{folder}/none/whole.safetensors", {})
    except RuntimeError as error:
        return str(error)
    return "nothing was refused"


def test_a_cut_model_is_saved_whole_by_rank_0(tmp_path):
    messages = results(2, _save_file, str(tmp_path))
    assert messages[0] == messages[1]
    assert messages[0].startswith("rank 0 of 2: ")
    assert "No such file or directory" in messages[0]
    assert [path.name for path in tmp_path.iterdir()] == ["whole.safetensors"]
    model, whole = ff.nn.load_model(tmp_path / "whole.safetensors"), ff.nn.load_model()
    for name, x in whole.state_dict().items():
        assert torch.equal(model.state_dict()[name], x), name
    assert read_record(tmp_path / "whole.safetensors") == {"steps": 3}


def _load_others(rank, n, name, folder):
    """States that do not fit, and that nothing has changed then."""
    model = over(n, model_of(name))
    whole = torch.load(f"{folder}/whole.pt")["cache"]  # of other weights
    cache = _cache(model, 0)
    refused, found = [], []
    ids = follow(model, prompts(model), cache, 3, found)
    before = _whole(cache.state_dict())
    missing = {key: x for key, x in whole.items() if key != "seen"}
    shorter = {**before, "caches.0.inputs": before["caches.0.inputs"][:, :, 1:]}
    on_one = before if rank == 0 else {**before, "seen": torch.zeros(3, dtype=torch.bool)}
    for state in (whole, missing, shorter, on_one, None):
        try:
            cache.load_state_dict(state)
        except (ValueError, TypeError) as error:
            refused.append(str(error))
    after = _whole(cache.state_dict())
    assert all(torch.equal(after[key], x) for key, x in before.items())
    follow(model, ids, cache, 1, found)
    return refused


@pytest.mark.slow
def test_a_state_that_does_not_fit_is_refused_on_all_ranks(tmp_path):
    results(4, _save, 4, "language-model", str(tmp_path), 0)
    found = results(2, _load_others, 2, "language-model", str(tmp_path))
    assert found[0] == found[1]
    others, missing, shorter, on_one, nothing = found[0]
    assert "expected a state of the same filters" in others
    assert "seen" in missing
    assert "expected 8 entries in dimension 2" in shorter
    assert on_one.startswith("rank 1 of 2: expected seen")
    assert nothing == "rank 0 of 2: expected state to be a state_dict, got NoneType"
