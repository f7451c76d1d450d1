"""The pages are written from rows, and those of this commit are."""

from __future__ import annotations

from bench.__main__ import main
from bench.harness.rows import Report, read
from bench.pages import docs
from bench.pages.doc_tables import general


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
    assert "| naive dot product, " in part


def test_rows_of_a_gpu_are_apart(tmp_path):
    """A page of CPU rows stays as it is, the card's rows come behind them and in the README."""
    files = [tmp_path / f"{name}.csv" for name in ("decode", "stream")]
    assert main(["decode", "--quick", "--csv", str(files[0])]) == 0
    assert main(["stream", "--quick", "--peers", "none", "--csv", str(files[1])]) == 0
    (own, *_) = rows = read(files)
    there = {**own, "device": "NVIDIA T1000"}
    page, readme = docs.page_of(rows), docs.readme_of(rows, f"{docs.BEGIN}{docs.END}")
    both = docs.page_of([*rows, there])
    assert "T1000" not in page + readme
    assert "On an NVIDIA T1000:" in both
    assert (
        both.replace("\n", " ").count("| ours |") == page.replace("\n", " ").count("| ours |") + 1
    )
    part = docs.readme_of([*rows, there], f"{docs.BEGIN}{docs.END}")
    assert "| NVIDIA T1000 | decode | ours | 2 |" in part


def test_pages_of_this_commit_come_from_its_rows(capsys):
    assert docs.main(["--check"]) == 0, capsys.readouterr().out


def test_a_verdict_stands_beside_its_limit(tmp_path):
    """Rows of older files have neither column; a limit that nothing was judged by is left out."""
    report = Report("regret", "command", 1, tmp_path / "regret.csv", None)
    report.add("planned", quantity="planned / best", value=1.2, limit=1.1)
    (row,) = read([tmp_path / "regret.csv"])
    assert "| planned / best | 1.2 | 1.1 | too slow |" in general([row])
    assert "at most" not in general([{**row, "verdict": ""}])
    old = {name: text for name, text in row.items() if name not in ("limit", "verdict", "floor")}
    assert "| planned | planned / best | 1.2 |" in general([old])
