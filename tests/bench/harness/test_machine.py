"""What does not fit into memory is refused before it is allocated."""

from __future__ import annotations

import pytest

from bench.__main__ import main
from bench.harness.machine import check_memory


def test_what_does_not_fit_is_refused_with_the_bytes():
    with pytest.raises(ValueError, match="needs 1,125,899,906,842,624 bytes"):
        check_memory(1 << 50, "a stream")


def test_a_shape_that_does_not_fit(capsys):
    assert main(["stream", "--shapes", "64,65536,1048576"]) == 1
    assert "bytes" in capsys.readouterr().err
