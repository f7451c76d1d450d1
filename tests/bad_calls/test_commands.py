"""What commands find out on their way: results that differ, machines that lack something."""

from __future__ import annotations

import argparse
import io

import torch
from torch import distributed

import futurefill_kernels as ff
from futurefill_kernels import native
from futurefill_kernels.cli import COMMANDS, check_wheel, evaluate, generate, ranks
from futurefill_kernels.nn.language_model import LanguageModel, LanguageModelConfig
from tests.bad_calls.refusals import refusal


def run(command, *words):
    """A command whose errors are raised and not printed."""
    module, _ = COMMANDS[command]
    parser = argparse.ArgumentParser()
    module.add_arguments(parser)
    words = [str(word) for word in words]
    args = parser.parse_args(words)
    args.arguments = [command, *words]
    module.run(args)


def test_modes_that_differ(monkeypatch):
    monkeypatch.setattr(evaluate, "parallel_bits", lambda *_: 10.0)
    monkeypatch.setattr(evaluate, "decode_mode_bits", lambda *_: 10.5)
    with refusal("the modes differ", "bits per byte", kind=RuntimeError):
        run("evaluate", "--window", 16, "--limit", 1, "--batch-size", 1)


def test_tokens_that_differ():
    model = LanguageModel(LanguageModelConfig(256, 16, channels=8, layers=1, mlp_hidden=8))
    prompt = torch.ones(1, 2, dtype=torch.int64)
    ids = ff.decode(model.requires_grad_(False), prompt, 5)
    ids[0, 3] += 1
    with refusal("differ from token 3 of 5", kind=RuntimeError):
        generate.compare(model, prompt, ids, generate.TextPrinter(io.StringIO()), "auto")


def test_an_architecture_that_the_library_lacks(monkeypatch):
    monkeypatch.setattr(check_wheel, "problems", lambda wanted: [f"no code for sm_{max(wanted)}"])
    with refusal("missing: no code for sm_90", kind=RuntimeError):
        run("check-wheel", "--architectures", "80,90")


def test_more_ranks_than_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with refusal("--tensor-parallel 2", "torch finds 1", kind=RuntimeError):
        ranks.check_ranks(2, torch.device("cuda"))


def test_other_ranks_than_torchrun_has_started(monkeypatch):
    ended = []
    monkeypatch.setattr(distributed, "init_process_group", lambda *_, **__: None)
    monkeypatch.setattr(distributed, "get_world_size", lambda: 3)
    monkeypatch.setattr(distributed, "destroy_process_group", lambda: ended.append(True))
    with (
        refusal("--tensor-parallel 3", "got 2"),
        ranks.on_ranks(2, torch.nn.Linear(2, 2), torch.device("cpu")),
    ):
        pass
    assert ended


def test_nothing_to_measure(monkeypatch):
    monkeypatch.setattr(native, "cpu_unavailable_reason", lambda: "no library")
    with refusal("cannot be measured: no library", kind=RuntimeError):
        run("tune", "--device", "cpu")


def test_nothing_to_compile():
    with refusal("no Triton kernels to compile on cpu", kind=RuntimeError):
        run("tune", "--compile", "--device", "cpu")
