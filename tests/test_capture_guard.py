"""Nothing that a token's graph holds copies from the host, waits or draws from a generator."""

from __future__ import annotations

import pytest
import torch

import futurefill_kernels as ff
from futurefill_kernels.decoding import graphs
from futurefill_kernels.decoding.sampling import RandomSampler, greedy
from tests.capture_guard import CaptureError, check_capture
from tests.decoding import capturing
from tests.decoding.models import MODELS, make

STEPS = 6


@pytest.fixture
def decode(monkeypatch):
    """Decode with tapes that check what they take down; returns the ops of the last capture."""
    capturing.install(monkeypatch)
    launched = []

    class Guarded(capturing.Tapes):
        def capture(self, call):
            launched.append(check_capture(call))
            return super().capture(call)

    monkeypatch.setattr(graphs, "CudaGraphs", lambda device: Guarded())

    def run(model, lengths, **options):
        prompts = [torch.arange(n) for n in lengths]
        plan = ff.Plan(STEPS, (2, 4))
        new = [
            ff.decode(
                model, prompts, STEPS, plan=plan, impl="device-books", cuda_graph=graph, **options
            )
            for graph in (None, False)
        ]
        assert torch.equal(*new)  # what is checked is what is right
        assert len(launched) == 1
        return launched[0]

    return run


@pytest.mark.parametrize("lengths", [(3,), (2, 5, 1)], ids=["one", "ragged"])
@pytest.mark.parametrize("name", MODELS)
def test_a_token_of_every_model(decode, name, lengths):
    assert "argmax" in decode(make(name), lengths)


@pytest.mark.parametrize("name", ["long-conv", "stu"])
def test_a_token_of_a_state_of_16_bits(decode, name):
    """The open block turns outside of graphs."""
    assert "argmax" in decode(make(name).float(), (3, 2), state_dtype=torch.bfloat16)


SAMPLERS = {
    "greedy": greedy,
    "temperature": RandomSampler(0.9),
    "top-k": RandomSampler(top_k=5),
    "top-p": RandomSampler(top_p=0.9, seed=[1, 2]),
    "both": RandomSampler(0.5, top_k=9, top_p=0.9),
}


@pytest.mark.parametrize("stops", [(), (49,), tuple(range(20, 50))], ids=["on", "stop", "stops"])
@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_with_and_without_stops(decode, name, stops):
    launches = decode(
        make("stu"), (3, 2), sampler=SAMPLERS[name], stop_ids=stops, pad_id=1,
        callback=lambda ids, t: None,
    )  # fmt: skip
    assert ("cumsum" in launches) == (name != "greedy")
    assert ("where" in launches) == bool(stops)


def test_behind_a_sampler_of_the_callers(decode):
    assert "index_copy_" not in decode(
        make("stu"), (3, 2), sampler=lambda x: x.sort().indices[:, 0]
    )


class Fault:
    """Something with a tensor on the device."""

    def __init__(self, work):
        self.x = torch.randn(4, 5)
        self.index = torch.tensor([0, 1])
        self.mask = torch.tensor([True, False, True, True])
        self.host = [1, 2]
        self.generator = torch.Generator("cpu")
        self._work = work

    def __call__(self):
        self._work(self)


FAULTS = {
    "list to the device": (lambda f: f.x + torch.tensor([1.0], device=f.x.device), "from the host"),
    "index by a list": (lambda f: f.x[f.host], "from the host"),
    "copy_ of the host": (lambda f: f.x.copy_(torch.zeros(4, 5)), "from the host"),
    "to(device)": (lambda f: torch.zeros(3).to(f.x.device), "from the host"),
    "cuda()": (lambda f: torch.zeros(3).cuda(), "from the host"),
    "a host tensor": (lambda f: f.x * torch.tensor(2.0), "from the host"),
    "cpu()": (lambda f: f.x.cpu(), "to the host, which waits"),
    "to(cpu)": (lambda f: f.x.to("cpu"), "to the host, which waits"),
    "copy_ to the host": (lambda f: torch.zeros(4, 5).copy_(f.x), "to the host, which waits"),
    "item()": (lambda f: f.x.sum().item(), "read back"),
    "tolist()": (lambda f: f.index.tolist(), "read back"),
    "any()": (lambda f: bool((f.x > 0).any()), "read back"),
    "equal": (lambda f: torch.equal(f.x, f.x), "read back"),
    "nonzero": (lambda f: f.mask.nonzero(), "depends on data"),
    "a mask": (lambda f: f.x[f.mask], "depends on data"),
    "masked_select": (lambda f: torch.masked_select(f.x, f.x > 0), "depends on data"),
    "repeats on the device": (lambda f: f.index.repeat_interleave(f.index), "depends on data"),
    "unique": (lambda f: torch.unique(f.index), "depends on data"),
    "isin": (lambda f: torch.isin(f.index, f.index), "waits inside"),
    "multinomial": (lambda f: torch.multinomial(f.x.softmax(-1), 1), "waits inside"),
    "a generator": (
        lambda f: f.x.exponential_(1, generator=f.generator),
        "no graph has registered",
    ),
    "synchronize": (lambda f: torch.cuda.synchronize(), "waits for the device"),
    "event": (lambda f: torch.cuda.Event.synchronize(None), "waits for the device"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_found(name):
    work, reason = FAULTS[name]
    fault = Fault(work)
    tensor = fault.x
    with pytest.raises(CaptureError, match=reason):
        check_capture(fault)
    assert fault.x is tensor
    check_capture(Fault(lambda f: f.x[0, 1:].mul_(2) + f.x[:1, 1:][..., None].sum()))


def test_a_check_writes_nothing():
    fault = Fault(lambda f: f.x.fill_(7.0))
    before = fault.x.clone()
    assert check_capture(fault) == ["fill_"]
    assert torch.equal(fault.x, before)
