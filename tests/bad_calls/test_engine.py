"""What compiled code refuses, and what a process cannot hand on: nothing changes."""

from __future__ import annotations

import pickle

import pytest
import torch

import futurefill_kernels as ff
from futurefill_kernels import native
from tests.bad_calls.refusals import bytes_of, expect_same_bytes, refusal

HAS_LIBRARY = pytest.mark.skipif(
    native.cpu_unavailable_reason() is not None,
    reason=f"errors of the compiled kernels need them: {native.cpu_unavailable_reason()}",
)


def cache_under_way(**options):
    g = torch.Generator().manual_seed(0)
    h = torch.randn(3, 30, generator=g) / 5
    cache = ff.FutureFillCache(h, 2, 20, plan=ff.Plan(20, (2, 4)), **options)
    cache.run(torch.randn(2, 3, 7, generator=g))
    cache.launch_fills()
    return cache


def refusing(*_):
    """A function of the library that finds something wrong."""
    return b"the engine's reason"


@HAS_LIBRARY
@pytest.mark.parametrize("way", ["step", "run"])
def test_an_error_of_the_engine_is_raised(monkeypatch, way):
    monkeypatch.setattr(native, "plain_step", lambda: None)
    monkeypatch.setattr(native, "bound_step", lambda: (refusing,) * 3)
    cache = loaded()
    before = bytes_of(cache)
    u = torch.ones(2, 3, 4)
    with refusal("the engine's reason", kind=RuntimeError):
        cache.run(u) if way == "run" else cache.step(u[..., 0])
    expect_same_bytes(before, bytes_of(cache))


def loaded():
    """A cache whose engine has taken no step yet."""
    cache = ff.FutureFillCache(
        torch.randn(3, 30, generator=torch.Generator().manual_seed(0)) / 5, 2, 20,
        plan=ff.Plan(20, (2, 4)), impl="cpu",
    )  # fmt: skip
    cache.load_state_dict(cache_under_way(impl="reference").state_dict())
    return cache


def test_an_error_of_a_move_is_raised(monkeypatch):
    cache = cache_under_way(rollback=3)
    before = bytes_of(cache)
    monkeypatch.setattr(native, "move_slots", lambda: refusing)
    for call in (lambda: cache.crop(5), lambda: cache.reorder([1, 0])):
        with refusal("the engine's reason", kind=RuntimeError):
            call()
        expect_same_bytes(before, bytes_of(cache))


@HAS_LIBRARY
def test_a_cache_that_has_no_memory_for_its_branches(monkeypatch):
    cache = cache_under_way()
    before, calls = bytes_of(cache), native.branch_calls()
    monkeypatch.setattr(cache._branches, "_calls", calls._replace(copy=lambda _: None))
    with refusal("no memory", "parted", kind=MemoryError):
        cache.clone()
    expect_same_bytes(before, bytes_of(cache))


def test_fills_that_have_run_are_taken_back_by_crop_alone():
    cache = cache_under_way()
    before = bytes_of(cache)
    with refusal("take_back", "before its fills", "crop"):
        cache.take_back({0: 6, 1: 6})
    expect_same_bytes(before, bytes_of(cache))


def test_streams_of_a_process_are_not_pickled():
    cache = cache_under_way()
    before = bytes_of(cache)
    cache._fills.stream = object()
    with refusal("fill_stream", "cannot be pickled"):
        pickle.dumps(cache)
    cache._fills.stream = None
    expect_same_bytes(before, bytes_of(cache))


def test_names_that_the_package_has_not():
    with refusal("no attribute", "'speed'", kind=AttributeError):
        _ = ff.speed
