"""The tables of docs/scaling.md are those of this commit's rows and planner."""

from __future__ import annotations

from bench.pages import scaling


def test_the_page_is_what_rows_and_planner_say(capsys):
    assert scaling.main(["--check"]) == 0, capsys.readouterr().out


def test_an_old_table_is_found_and_written_anew(tmp_path, capsys):
    page = tmp_path / "scaling.md"
    text = scaling.PAGE.read_text()
    page.write_text(text.replace("| 2 | ", "| 3 | ", 1))
    assert scaling.main(["--page", str(page), "--check"]) == 1
    assert "is not what python -m bench.pages.scaling writes" in capsys.readouterr().out
    assert scaling.main(["--page", str(page)]) == 0
    assert page.read_text() == text
