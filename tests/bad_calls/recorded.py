"""A plugin of pytest: which lines of the package refused something, into a file."""

from __future__ import annotations

import json
import os
from pathlib import Path

from tests.bad_calls.refusals import PROVOKED

#: Names the file.
VARIABLE = "FUTUREFILL_PROVOKED"


def pytest_sessionfinish():
    Path(os.environ[VARIABLE]).write_text(json.dumps(sorted(PROVOKED)))
