"""Text generation: the same text with the naive cache, refusals, characters of several bytes."""

from __future__ import annotations

import sys

import pytest
import torch

from futurefill_kernels.__main__ import main
from futurefill_kernels.cli import generate


@pytest.mark.parametrize(("prompt", "tokens"), [("def ", 150), ("import ", 40)])
def test_generate_streams_the_same_text_with_the_naive_cache(prompt, tokens, capsys):
    arguments = ["--prompt", prompt, "--tokens", str(tokens), "--compare"]
    assert main(["generate", *arguments]) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith(prompt)
    assert len(captured.out.encode()) == len(prompt) + tokens + 1
    assert f"identical {tokens} tokens; FutureFill is" in captured.err
    assert "tokens/s" in captured.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--tokens", 0), "--tokens >= 1, got 0"),
        (("--compare", "--temperature", 0.5), "--compare is greedy"),
        (("--prompt", ""), "empty prompt"),
    ],
)
def test_generate_refuses(options, message, capsys):
    assert main(["generate", *map(str, options)]) == 2
    assert message in capsys.readouterr().err


def test_split_characters_are_put_together(capsys):
    printer = generate.TextPrinter(sys.stdout)
    for index, byte in enumerate("é!".encode()):
        printer(torch.tensor([byte]), index)
    printer.close()
    assert capsys.readouterr().out == "é!\n"
