"""The command line as a user calls it."""

from __future__ import annotations

import pytest

from futurefill_kernels import make_plan
from futurefill_kernels.__main__ import COMMANDS, main
from futurefill_kernels.implementations.select import IMPLEMENTATIONS


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    assert "usage: python -m futurefill_kernels " + command in capsys.readouterr().out


def test_plan_prints_the_planners_choice(capsys):
    assert main(["plan", "--length", "5000", "--channels", "64"]) == 0
    assert capsys.readouterr().out.strip() == make_plan(5000, 64).explain()
    assert main(["plan", "--length", "5000", "--block-sizes", "10,100"]) == 0
    assert "blocks of 10" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["plan", "--length", "0"], "expected length >= 1, got 0"),
        (["plan", "--device", "h300"], "unknown device name 'h300'"),
        (["plan", "--block-sizes", "4,6"], "got 4 then 6"),
        (["generate", "--tokens", "0"], "expected --tokens >= 1, got 0"),
        (["generate", "--weights", "nowhere.safetensors"], "nowhere.safetensors"),
        (["generate", "--impl", "fast", "--tokens", "4"], "unknown impl 'fast'"),
    ],
)
def test_errors_are_one_line(arguments, message, capsys):
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


def test_env_names_every_implementation(capsys):
    assert main(["env"]) == 0
    report = capsys.readouterr().out
    assert all(name in report for name in IMPLEMENTATIONS)


def test_generate_compares_with_the_naive_cache(capsys):
    assert main(["generate", "--prompt", "import ", "--tokens", "40", "--compare"]) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith("import ")
    assert "identical 40 tokens" in captured.err
