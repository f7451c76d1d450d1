"""Every byte that a cache holds is counted, in the part that it belongs to."""

from __future__ import annotations

import functools
import types

import pytest
import torch
from torch import Tensor, nn

import futurefill_kernels as ff


def reachable(root: object) -> dict[int, int]:
    """Bytes of the storages of all tensors that an object holds, by address; models apart."""
    found: dict[int, int] = {}
    seen: set[int] = set()
    left = [root]
    while left:
        x = left.pop()
        if id(x) in seen or isinstance(x, type | types.ModuleType | nn.Module):
            continue
        seen.add(id(x))
        if isinstance(x, Tensor):
            storage = x.untyped_storage()
            found[storage.data_ptr()] = storage.nbytes()
        elif isinstance(x, dict):
            left += [*x.keys(), *x.values()]
        elif isinstance(x, list | tuple | set | frozenset):
            left += x
        elif isinstance(x, functools.partial):
            left += [x.func, x.args, x.keywords]
        elif isinstance(x, types.MethodType):
            left += [x.__self__]
        elif isinstance(x, types.FunctionType):
            left += [cell.cell_contents for cell in x.__closure__ or () if cell != types.CellType()]
        elif type(x).__module__.startswith("futurefill_kernels"):
            left += [getattr(x, name) for name in dir(type(x)) if _is_slot(type(x), name, x)]
            left += vars(x).values() if hasattr(x, "__dict__") else ()
    found.pop(0, None)  # empty ones
    return found


def _is_slot(kind: type, name: str, x: object) -> bool:
    slot = isinstance(getattr(kind, name, None), types.MemberDescriptorType)
    return slot and hasattr(x, name)


def scratch(cache) -> int:
    """Bytes of threads, which no tensor has."""
    return cache.memory().workspace.get("scratch", 0)


@pytest.mark.parametrize("filters_dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rollback", [0, 3, None])
@pytest.mark.parametrize("groups", [1, 7, 32])
def test_what_is_reachable_is_counted(impl, rollback, groups, filters_dtype):
    channels = 7 if groups == 7 else 32
    h = [torch.randn(groups, 300), torch.randn(groups, 150)]
    cache = ff.FutureFillCache(
        h, 2, 130, channels=channels, plan=ff.Plan(130, (4, 16, 64)), impl=impl, rollback=rollback,
        skip=torch.ones(channels), filters_dtype=filters_dtype, dtype=torch.float32,
        keep_prompt_spectra=groups == 7,
    )  # fmt: skip
    assert cache.nbytes == sum(reachable(cache).values()) + scratch(cache)
    for piece in (40, 5, 80):  # a prompt in pieces
        for layer in range(2):
            cache.prefill(torch.randn(2, channels, piece), layer)
        assert cache.nbytes == sum(reachable(cache).values()) + scratch(cache)
    for _ in range(70):
        for layer in range(2):
            cache.step(torch.randn(2, channels), layer)
    assert cache.nbytes == sum(reachable(cache).values()) + scratch(cache)
    for layer in range(2):
        cache.step(torch.randn(1, channels), layer, rows=[1])
    for layer in range(2):  # positions inside the stream
        cache.run(torch.randn(2, channels, 9), layer)
    # no tensor of Python's: what compiled steps of each layer may be taken back by
    layers = cache._prefill._chunks._layers.values()
    compiled = sum(own.plain.kept_bytes() for own in layers if own.plain is not None)
    assert cache.nbytes == sum(reachable(cache).values()) + scratch(cache) + compiled


@pytest.mark.parametrize("fused", [True, False])
def test_a_model_s_cache(fused):
    model = ff.nn.LanguageModel(ff.nn.LanguageModelConfig(16, 64, 24, 2, 48)).eval()
    cache = ff.DecodingCache(model, 2, 32, fused=fused)
    with torch.no_grad():
        for _ in range(3):
            model(torch.ones(2, 1, dtype=torch.int64), cache=cache)
    held = reachable(cache)
    for x in (*model.parameters(), *model.buffers()):
        held.pop(x.untyped_storage().data_ptr(), None)
    assert cache.nbytes == sum(held.values()) + scratch(cache)


def test_the_table_has_the_parts_and_their_sums():
    cache = ff.FutureFillCache(torch.ones(32, 256), 3, 256, plan=ff.Plan(256, (16, 32, 64, 128)))
    memory = cache.memory()
    assert memory.nbytes == cache.nbytes
    assert memory.filters["taps"] == 32 * 256 * 4
    assert memory.per_filter == pytest.approx(4 + 4 * 16 / 256 + 8 * (256 - 16) / 256)
    assert memory.per_row == pytest.approx(sum(memory.rows.values()) / (3 * 32 * 256))
    text = str(memory)
    assert f"{cache.nbytes}" in text.splitlines()[-1]
    for name in (*memory.rows, *memory.filters, *memory.workspace):
        assert name in text
    twice = memory + memory
    assert twice.nbytes == 2 * memory.nbytes - scratch(cache)  # threads are there once
    assert twice.per_row == memory.per_row
