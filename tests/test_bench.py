"""Every bench runs at its small size and passes its own check."""

from __future__ import annotations

import pytest

from bench.__main__ import BENCHES, main


@pytest.mark.parametrize("name", BENCHES)
def test_quick(name, capsys):
    assert main([name, "--quick"]) == 0, capsys.readouterr().err


def test_unknown_names_list_the_known_ones(capsys):
    with pytest.raises(SystemExit):
        main(["speed"])
    assert "choose from stream, step, memory" in capsys.readouterr().err.replace("'", "")
