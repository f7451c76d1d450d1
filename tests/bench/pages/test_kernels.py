"""The times in docs/kernels.md are those that plans go by."""

from __future__ import annotations

from bench.pages import kernels


def test_the_page_has_the_times_that_are_shipped(capsys):
    assert kernels.main(["--check"]) == 0, capsys.readouterr().out


def test_an_old_table_is_found_and_written_anew(tmp_path, capsys):
    page, text = tmp_path / "kernels.md", kernels.PAGE.read_text()
    page.write_text(text.replace("| 16384 | 8 | 1 | ", "| 16384 | 8 | 2 | ", 1))
    assert kernels.main(["--page", str(page), "--check"]) == 1
    assert "is not what python -m bench.pages.kernels writes" in capsys.readouterr().out
    assert kernels.main(["--page", str(page)]) == 0
    assert page.read_text() == text


def test_a_fill_at_its_floor():
    """20 bytes of a position and channel with one row."""
    fills = kernels.times_text().split("**The first firing")[1]
    (row,) = [line for line in fills.splitlines() if line.startswith("| 64 | 24 | 1 |")]
    assert row.split(" | ")[3] == f"{20 * 64 * 24 * 1024 / 4.2e12 * 1e6:.3g}"
