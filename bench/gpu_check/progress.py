"""A plugin of pytest: a share of the tests, and a file that says how far it came.

--shard i/n keeps every n-th test. --progress FILE gets "selected TEST" for all of them before the
first runs, then "passed TEST", "failed TEST" or "skipped TEST".
"""

from __future__ import annotations

from pathlib import Path

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Both options."""
    parser.addoption("--shard", default="0/1")
    parser.addoption("--progress", type=Path, default=None)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The share of this process."""
    shard, count = map(int, config.getoption("--shard").split("/"))
    items[:] = items[shard::count]
    _write(config, "".join(f"selected {item.nodeid}\n" for item in items))


class _Outcomes:
    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Of the call, and of what fails or is skipped before or after it."""
        if report.when == "call" or report.outcome != "passed":
            _write(self._config, f"{report.outcome} {report.nodeid}\n")


def pytest_configure(config: pytest.Config) -> None:
    """Outcomes go to the file of this run."""
    config.pluginmanager.register(_Outcomes(config))


def _write(config: pytest.Config, text: str) -> None:
    file = config.getoption("--progress")
    if file is not None:
        with file.open("a") as out:
            out.write(text)
