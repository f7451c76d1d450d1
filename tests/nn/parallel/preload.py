"""What every rank imports, so that it is imported once."""

import tests.nn.parallel.ranks  # noqa: F401
