"""The command line as a user calls it: help and errors of every command."""

from __future__ import annotations

import re

import pytest

from futurefill_kernels.__main__ import COMMANDS, main


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert "usage: python -m futurefill_kernels " + command in text
    # an option and what it is for, beside it or on the next line
    options = re.findall(r"^  (?:-h, )?(--[\w-]+).*(?:\n {10,}\S.*)*", text, re.M)
    explained = re.findall(r"^  (?:-h, )?(--[\w-]+)[^\n]*?(?:  |\n {10,})\S", text, re.M)
    assert "--help" in options
    assert options == explained


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["plan", "--length", "0"], "expected length >= 1, got 0"),
        (["plan", "--device", "h300"], "unknown device name 'h300'"),
        (["plan", "--block-sizes", "4,6"], "got 4 then 6"),
        (["generate", "--tokens", "0"], "expected --tokens >= 1, got 0"),
        (["generate", "--weights", "nowhere.safetensors"], "nowhere.safetensors"),
        (["generate", "--device", "tpu"], "unknown device 'tpu'; expected auto"),
        (["generate", "--device", "cuda:x"], "unknown device 'cuda:x'"),
        (["evaluate", "--device", "cuda:99"], "device 'cuda:99' is not there: torch"),
        (["generate", "--tokens", "50000000"], "would fit; or use fewer layers"),
        (["generate", "--impl", "fast", "--tokens", "4"], "unknown impl 'fast'"),
    ],
)
def test_errors_are_one_line(arguments, message, capsys):
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
