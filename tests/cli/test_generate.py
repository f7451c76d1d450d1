"""Text generation: the same text with the naive cache, refusals, characters of several bytes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from futurefill_kernels.__main__ import main
from futurefill_kernels.cli import generate, ranks


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
        (("--compare", "--stop", "x"), "expected no --stop with it"),
        (("--tensor-parallel", 0), "expected --tensor-parallel >= 1, got 0"),
        (
            ("--tensor-parallel", 5),
            "divide output channels of each part = 192, got 5 ranks (and",
        ),
        (("--stop", ""), "at least one id or character in stop"),
    ],
)
def test_generate_refuses(options, message, capsys):
    assert main(["generate", *map(str, options)]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_ranks_write_the_text_of_one_process_once(capfd):
    arguments = ["generate", "--tokens", "20", "--temperature", "0.8", "--device", "cpu"]
    assert main(arguments) == 0
    text = capfd.readouterr().out
    assert main([*arguments, "--tensor-parallel", "2"]) == 0
    captured = capfd.readouterr()
    assert captured.out == text
    assert captured.err.count("tokens/s") == 1
    # one that is refused on the ranks, after they have started
    assert main([*arguments, "--tensor-parallel", "2", "--impl", "none"]) == 2
    captured = capfd.readouterr()
    assert captured.out == ""
    assert captured.err.count("error: rank 0 of 2: unknown impl") == 2
    assert "2 ranks ended with status 1" in captured.err


def _children(pid):
    """Processes that a process has started and that have not ended, by /proc."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, parent = stat.read_text().rpartition(")")[2].split()[:2]
            if int(parent) == pid and state != "Z":
                found.append(int(stat.parent.name))
    return sorted(found)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds the ranks in /proc")
@pytest.mark.parametrize("killed", [0, 1])
def test_a_rank_that_is_killed_ends_the_command(killed):
    """All processes end soon, and it is said which one was killed."""
    command = [sys.executable, "-m", "futurefill_kernels", "generate", "--device", "cpu"]
    process = subprocess.Popen(
        [*command, "--tokens", "16000", "--tensor-parallel", "2"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        assert process.stdout.read1(4)  # they are among the tokens
        (launcher,) = _children(process.pid)
        both = _children(launcher)
        assert len(both) == 2
        os.kill(both[killed], signal.SIGKILL)
        begin = time.monotonic()
        _, said = process.communicate(timeout=ranks.TIME_OUT)
    finally:
        process.kill()
    assert time.monotonic() - begin < ranks.TIME_OUT / 2  # nobody waited for the time-out
    assert process.returncode == 2
    assert not [pid for pid in both if Path(f"/proc/{pid}").exists()]
    lines = said.decode().splitlines()
    for error in (line for line in lines if line.startswith("error: rank ")):  # if it had time to
        assert error.startswith(f"error: rank {1 - killed} of 2: ")
        assert "another rank has ended, has made another call, or did not come" in error
    assert f"Signal 9 (SIGKILL) received by PID {both[killed]}" in said.decode()
    assert lines[-1].startswith("error: 2 ranks ended with status 1; what each of them said")


def test_split_characters_are_put_together(capsys):
    printer = generate.TextPrinter(sys.stdout)
    for index, byte in enumerate("é!".encode()):
        printer(torch.tensor([byte]), index)
    printer.close()
    assert capsys.readouterr().out == "é!\n"


def test_generation_ends_before_a_stop(capsys):
    arguments = ["generate", "--prompt", "def ", "--tokens", "60", "--temperature", "0"]
    assert main(arguments) == 0
    text = capsys.readouterr().out[:-1]
    for stop in (text[20:24], text[8], "never there"):
        assert main([*arguments, "--stop", stop]) == 0
        end = text.find(stop, 4)
        assert capsys.readouterr().out == (text[:end] if end >= 0 else text) + "\n"


def test_the_beginning_of_a_stop_waits_until_it_is_decided(capsys):
    printer = generate.TextPrinter(sys.stdout, "", ["<end>", "\n\n"])
    for index, (byte, shown) in enumerate(
        zip(b"a<en\n!<", ["a", "", "", "", "<en", "\n!", ""], strict=True)
    ):
        printer(torch.tensor([byte]), index)
        assert capsys.readouterr().out == shown
    printer.close()
    assert capsys.readouterr().out == "<\n"
