"""Every bench runs at its small size and passes its own check; no test looks at a time."""

from __future__ import annotations

import pytest

from bench.__main__ import BENCHES, main
from bench.harness.rows import read


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


def test_processor_time_is_of_one_thread(capsys):
    assert main(["step", "--quick", "--processor-time", "--threads", "2"]) == 2
    assert "--processor-time needs --threads 1, got 2" in capsys.readouterr().err


def test_unknown_names_list_the_known_ones(capsys):
    with pytest.raises(SystemExit):
        main(["speed"])
    error = capsys.readouterr().err
    assert all(name in error for name in BENCHES)


def test_interruption_keeps_the_rows(tmp_path, monkeypatch, capsys):
    from bench.commands import stream

    def interrupted(args):
        args.report.add("ours", error=0.0, tolerance=0.0)
        raise KeyboardInterrupt

    monkeypatch.setattr(stream, "run", interrupted)
    assert main(["stream", "--csv", str(tmp_path / "rows.csv")]) == 130
    assert "interrupted after 1 rows" in capsys.readouterr().out
    assert len(read([tmp_path / "rows.csv"])) == 1


@pytest.mark.parametrize("shape", ["1,2", "1,x,3", "0,1,1"])
def test_bad_shapes(shape, capsys):
    with pytest.raises(SystemExit):
        main(["stream", "--shapes", shape])
    assert "expected B,D,L" in capsys.readouterr().err
