"""Every bench runs at its small size and passes its own check; no test looks at a time."""

from __future__ import annotations

import contextlib
import csv
import itertools
import json
from functools import partial

import pytest
import torch

from bench.__main__ import BENCHES, main
from bench.commands import crossover, distill
from bench.harness import timing
from bench.harness.machine import check_memory
from bench.harness.rows import Report, read, relative_error, shares
from bench.pages import docs


@pytest.mark.parametrize("name", BENCHES)
def test_quick(name, capsys, tmp_path):
    status = main([name, "--quick", "--csv", str(tmp_path / "rows.csv")])
    output = capsys.readouterr()
    assert status == 0, output.out + output.err
    rows = read([tmp_path / "rows.csv"])
    assert rows
    assert all(row["status"] != "wrong" for row in rows)
    assert any(row["error"] or row["status"] != "ok" for row in rows), "no check was made"
    assert all(row["command"] == f"python -m bench {name} --quick" for row in rows)


def test_unknown_names_list_the_known_ones(capsys):
    with pytest.raises(SystemExit):
        main(["speed"])
    error = capsys.readouterr().err
    assert all(name in error for name in BENCHES)


def test_a_red_check_stores_no_time(tmp_path, capsys):
    report = Report("stream", "command", 1, tmp_path / "rows.csv", tmp_path / "rows.json")
    times = timing.Times((1.0, 2.0, 3.0))
    report.add("ours", times=times, tokens=5, error=2e-6, tolerance=1e-6, bytes=1, flops=1)
    report.add("nan", times=times, error=float("nan"), tolerance=1e-6)
    report.add("good", times=times, tokens=4, error=1e-7, tolerance=1e-6)
    assert report.failed
    assert "WRONG" in capsys.readouterr().out
    wrong, nan, good = csv.DictReader((tmp_path / "rows.csv").open())
    assert wrong["status"] == nan["status"] == "wrong"
    assert wrong["p50"] == wrong["tokens_per_s"] == nan["p50"] == ""
    assert (good["status"], good["p50"], good["tokens_per_s"]) == ("ok", "2", "2")
    assert len(json.loads((tmp_path / "rows.json").read_text())) == 3


def test_times():
    a, b = timing.Times((1.0, 2.0, 9.0)), timing.Times((2.0, 4.0, 3.0))
    assert a.ratio(b) == 0.5
    assert a.p50 == 2.0
    assert timing.weighted([(2.0, a), (1.0, b)]).seconds == (4.0, 8.0, 21.0)
    assert timing.Times(tuple(range(1, 101))).quantile(0.99) == 99


def test_variants_are_timed_in_turns():
    order = []
    times = timing.measure(
        {name: lambda name=name: order.append(name) for name in "ab"},
        repeats=3,
        warmup=0,
        clock="cpu",
    )
    assert order == list("ababab")
    assert {len(t.seconds) for t in times.values()} == {3}


def test_shares_of_the_measured_roofs():
    """Each roof has its own share; a row without time, bytes or FLOPs has none."""
    row = {"bytes": "3e9", "roof_bytes_per_s": "6e9", "flops": "", "roof_flops": "5e9", "p50": "2"}
    assert shares(row) == (0.25, None)
    assert shares(row | {"flops": "8e9"}) == (0.25, 0.8)
    assert shares(row | {"p50": ""}) == (None, None)


class FakeGpu:
    """Records what the CUDA clocks ask of torch.cuda; a call takes 2 ms on its events."""

    def __init__(self, monkeypatch):
        self.log = log = []
        ticks = itertools.count()

        class Event:
            def __init__(self, enable_timing):
                assert enable_timing

            def record(self):
                self.at = next(ticks)
                log.append("record")

            def synchronize(self):
                log.append("synchronize")

            def elapsed_time(self, other):
                assert other.at == self.at + 1
                return 2.0  # milliseconds

        class Graph:
            def replay(self):
                log.append("replay")

        @contextlib.contextmanager
        def capture(graph):
            log.append("capture")
            yield
            log.append("captured")

        empty = torch.empty
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "Event", Event)
        monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
        monkeypatch.setattr(torch.cuda, "graph", capture)
        monkeypatch.setattr(torch, "empty", lambda *a, device, **k: log.append(device) or empty(*a))


def test_cuda_clocks_with_a_stand_in(monkeypatch):
    """Events around every call, or around the replay of what was captured once."""
    gpu = FakeGpu(monkeypatch)
    call = partial(gpu.log.append, "call")
    times = timing.measure({"a": call}, repeats=2, clock="auto")
    timed = ["record", "call", "record", "synchronize"]
    assert gpu.log == ["cuda", "call", *timed, *timed]
    assert times["a"].seconds == (2e-3, 2e-3)
    gpu.log.clear()
    times = timing.measure({"a": call}, repeats=1, clock="graph")
    assert gpu.log[:4] == ["cuda", "call", "capture", "call"]
    assert gpu.log[4:] == ["captured", "record", "replay", "record", "synchronize"]
    assert times["a"].p50 == 2e-3


@pytest.mark.parametrize("clock", ["sundial", "graph"])
def test_clocks_that_are_not_there(clock):
    if clock == "graph" and torch.cuda.is_available():
        return
    with pytest.raises((ValueError, RuntimeError), match=clock):
        timing.measure({"a": lambda: None}, repeats=1, clock=clock)


def test_what_does_not_fit_is_refused_with_the_bytes():
    with pytest.raises(ValueError, match="needs 1,125,899,906,842,624 bytes"):
        check_memory(1 << 50, "a stream")


def test_a_shape_that_does_not_fit(capsys):
    assert main(["stream", "--shapes", "64,65536,1048576"]) == 1
    assert "bytes" in capsys.readouterr().err


@pytest.mark.parametrize("shape", ["1,2", "1,x,3", "0,1,1"])
def test_bad_shapes(shape, capsys):
    with pytest.raises(SystemExit):
        main(["stream", "--shapes", shape])
    assert "expected B,D,L" in capsys.readouterr().err


def test_interruption_keeps_the_rows(tmp_path, monkeypatch, capsys):
    from bench.commands import stream

    def interrupted(args):
        args.report.add("ours", error=0.0, tolerance=0.0)
        raise KeyboardInterrupt

    monkeypatch.setattr(stream, "run", interrupted)
    assert main(["stream", "--csv", str(tmp_path / "rows.csv")]) == 130
    assert "interrupted after 1 rows" in capsys.readouterr().out
    assert len(read([tmp_path / "rows.csv"])) == 1


def test_unknown_base(capsys):
    assert main(["stream", "--quick", "--base", "no-such-ref"]) == 1
    assert "no-such-ref" in capsys.readouterr().err


def test_plots_are_drawn_from_rows(tmp_path):
    assert main(["step", "--quick", "--plots", str(tmp_path)]) == 0
    assert "</svg>" in (tmp_path / "step.svg").read_text()


def test_the_page_is_written_from_rows(tmp_path, capsys):
    for name in ("stream", "memory"):
        assert main([name, "--quick", "--csv", str(tmp_path / f"{name}.csv")]) == 0
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{docs.BEGIN}\nold\n{docs.END}\nafter\n")
    arguments = ["--results", tmp_path, "--out", tmp_path, "--readme", readme]
    arguments = [str(argument) for argument in arguments]
    assert docs.main([*arguments, "--check"]) == 1
    assert docs.main(arguments) == 0
    assert docs.main([*arguments, "--check"]) == 0
    page, part = (tmp_path / "benchmarks.md").read_text(), readme.read_text()
    assert "python -m bench stream --quick" in page
    assert "| causal-conv1d | not installed |" in page
    assert part.startswith("before\n")
    assert part.endswith("after\n")
    assert "old" not in part
    assert "naive dot product, torch" in part


def test_pages_of_this_commit_come_from_its_rows(capsys):
    assert docs.main(["--check"]) == 0, capsys.readouterr().out


def test_distilled_modes_of_a_recurrence_are_exact():
    generator = torch.Generator().manual_seed(0)
    radius, angle = 0.9 + 0.09 * torch.rand(3, 2, generator=generator), torch.rand(3, 2)
    poles, weights = torch.polar(radius, angle), torch.randn(3, 2, generator=generator) + 0j
    h = distill.taps_of(poles, weights, 256)
    # real parts of two complex modes are two conjugate pairs, four states
    found = distill.taps_of(*distill.to_modes(h, 4), 256)
    assert relative_error(found, h) < 1e-4


@pytest.mark.parametrize(
    ("ratios", "size"), [((0.5, 2.0, 8.0), 2**0.5), ((2.0, 3.0, 4.0), 1), ((0.1, 0.2, 0.4), 4)]
)
def test_crossing(ratios, size):
    found, _ = crossover.crossing(list(zip((1, 2, 4), ratios, strict=True)))
    assert found == pytest.approx(size)


def test_step_times():
    times = timing.step_times(lambda t: None, 200)
    assert len(times.seconds) == 200
    assert 0 <= times.p50 <= times.quantile(0.99) <= max(times.seconds)
