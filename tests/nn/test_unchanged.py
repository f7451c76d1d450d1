"""Every change is noticed, in C and in Python, and nothing else is."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch

from futurefill_kernels import native
from futurefill_kernels.nn.unchanged import in_python, unchanged


def in_c(values, sizes, tensors):
    reason = native.unchanged_unavailable_reason()
    if reason is not None:
        pytest.skip(f"no compiled module: {reason}")
    return native.unchanged().make(values, sizes, tensors)


@pytest.fixture(params=[in_c, in_python, unchanged])
def make(request):
    return request.param


class Things:
    """Dictionaries and tensors that are watched."""

    def __init__(self, make):
        self.first, self.second = object(), object()
        self.values = [{}, {"a": self.first, "b": None}, {0: self.second}]
        self.sizes = [{}, {"a": 1, "b": 2}]
        view = torch.arange(12.0).view(3, 4)[:, 1:3]
        with torch.inference_mode():
            inference = torch.zeros(3)
        parameter = torch.nn.Parameter(torch.ones(2, 3, dtype=torch.bfloat16))
        self.tensors = [parameter, view, torch.zeros(0), inference, torch.zeros(2, device="meta")]
        self.same = make(self.values, self.sizes, self.tensors)


def test_nothing_has_changed(make):
    things = Things(make)
    assert things.same() is True
    things.sizes[1]["a"] = 7  # their values may be any
    things.tensors[0].detach()
    things.tensors[1].sum()
    assert things.same() is True
    assert make([], [], [])() is True


CHANGES = {
    "another value": lambda t: t.values[1].update(b=0),
    "an equal value": lambda t: t.values[1].update(a=object()),
    "one value more": lambda t: t.values[0].update(a=None),
    "one value less": lambda t: t.values[2].clear(),
    "values of other places": lambda t: t.values[1].update(a=t.values[1].pop("a")),
    "one entry more": lambda t: t.sizes[0].update(c=3),
    "one entry less": lambda t: t.sizes[1].popitem(),
    "written to": lambda t: t.tensors[1].add_(1),
    "written to a parameter": lambda t: t.tensors[0].detach().zero_(),
    "written to through another view": lambda t: t.tensors[1]._base[0].zero_(),
    "moved": lambda t: setattr(t.tensors[0], "data", t.tensors[0].data.clone()),
    "swapped": lambda t: torch.utils.swap_tensors(t.tensors[0], torch.nn.Parameter(torch.ones(2))),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_change_is_noticed(make, change):
    things = Things(make)
    change(things)
    assert things.same() is False


def test_what_is_watched_is_held_and_then_let_go(make):
    class Thing:
        pass

    def holding():
        thing = Thing()
        return make([{"a": thing}], [], [torch.zeros(4)]), weakref.ref(thing)

    same, thing = holding()
    assert thing() is not None
    assert same()
    del same
    gc.collect()
    assert thing() is None


def test_what_it_cannot_watch_is_an_error():
    for arguments in (([1], [], []), ([], [None], []), ([], [], [3])):
        with pytest.raises((TypeError, AttributeError)):
            in_c(*arguments)
    with pytest.raises(TypeError):
        in_c({}, [], [])
