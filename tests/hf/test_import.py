"""The package without transformers."""

from __future__ import annotations

import subprocess
import sys

WITHOUT = """
import sys
sys.modules["transformers"] = None
import futurefill_kernels as ff
try:
    ff.hf
except ImportError as error:
    assert "pip install 'futurefill_kernels[hf]'" in str(error), error
else:
    raise AssertionError("ff.hf came without transformers")
try:
    ff.nothing
except AttributeError as error:
    assert "no attribute 'nothing'" in str(error), error
"""


def test_without_transformers_the_error_says_what_to_install():
    done = subprocess.run([sys.executable, "-c", WITHOUT], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_package_alone_imports_no_transformers():
    script = "import sys, futurefill_kernels; assert 'transformers' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
