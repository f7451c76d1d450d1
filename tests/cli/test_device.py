"""Which device a command runs on: the GPU where there is one, and only one that is there."""

from __future__ import annotations

import pytest
import torch

from futurefill_kernels.__main__ import main
from futurefill_kernels.cli.device import resolve_device


def test_without_a_gpu(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device("auto") == resolve_device("cpu") == torch.device("cpu")
    for command in ("generate", "evaluate", "train"):
        assert main([command, "--device", "cuda"]) == 2
        assert "device 'cuda' is not there: torch" in capsys.readouterr().err


def test_with_two_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    assert resolve_device("auto") == resolve_device("cuda") == torch.device("cuda", 1)
    assert resolve_device("cuda:0") == torch.device("cuda", 0)
    assert resolve_device("cpu") == torch.device("cpu")
    with pytest.raises(RuntimeError, match="'cuda:2' is not there: torch finds 2"):
        resolve_device("cuda:2")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_text_in_every_dtype(dtype, capsys):
    options = ["--tokens", "8", "--temperature", "0", "--dtype", dtype, "--device", "cpu"]
    assert main(["generate", *options]) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith("def ")
    assert "FutureFill on cpu: 4 prompt tokens" in captured.err
