"""What benches do only on a GPU, on the CPU: plain calls in place of graphs, the same checks."""

from __future__ import annotations

import argparse

import pytest
import torch

import futurefill_kernels as ff
from bench.commands import decode, paper
from bench.harness.launches import HostOnly
from bench.harness.models import stu_model, weight_nbytes
from bench.harness.rows import Report

CPU = torch.device("cpu")


def arguments(bench, **others):
    report = Report(bench, "command", 1, None, None)
    return argparse.Namespace(
        device=CPU, quick=True, repeats=1, threads=1, dtype=torch.float32, report=report, **others
    )


def test_tokens_of_the_shipped_model():
    args = arguments("decode", impl="auto", prompt="import ")
    decode._decode_on_a_gpu(args, ff.nn.load_model(), 2, 40)
    assert not args.report.failed
    assert [row.variant for row in args.report.rows] == [
        "ours", "ours, host alone", "ours, launches",
    ]  # fmt: skip
    assert args.report.rows[0].error < 1e-5


@pytest.mark.parametrize(("prompt", "new"), [(20, 30), (1, 40)])
def test_the_papers_model(prompt, new):
    model = stu_model(
        2, 32, prompt + new, vocabulary=100, mlp_hidden=64, device=CPU, dtype=torch.bfloat16
    )
    args = arguments("paper", impl="reference", no_naive=False, scale=1)
    ids = torch.randint(100, (1, prompt + new), generator=torch.Generator().manual_seed(0))
    fields = {"B": 1, "L": new, "P": prompt, "dtype": torch.bfloat16, "tokens": new}
    with torch.no_grad():
        paper._on_a_gpu(args, model, ids, prompt, new, 1.9, fields, "")
    assert not args.report.failed
    naive, ours, weights = args.report.rows
    assert 0 < naive.error < 2e-2
    assert 0 < ours.error < 2e-2
    assert ours.ratio > 0
    assert weights.variant == "time of the weights"


def test_the_papers_model_has_its_size():
    model = stu_model(
        8, 1024, 64, vocabulary=200064, mlp_hidden=12288, device=torch.device("meta"),
        dtype=torch.bfloat16,
    )  # fmt: skip
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(515e6, rel=0.01)
    assert weight_nbytes(model) == pytest.approx(1.03e9, rel=0.01)


def test_replays_without_their_work(monkeypatch):
    """Graphs that were seen inside ``watching`` stand still while the host is timed."""
    replayed = []

    class Graph:
        def replay(self):
            replayed.append(self)

    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr("bench.harness.launches.empty_graph", lambda device: Graph())
    host = HostOnly()
    with host.watching():
        graph = Graph()
        replay = graph.replay
        replay()
    assert (host.graphs, replayed) == (1, [graph])
    host.seconds(torch.device("cpu"), lambda: [replay() for _ in range(3)], replay)
    assert graph not in replayed[1:]
    assert len(replayed) == 5
    replay()
    assert replayed[-1] is graph
