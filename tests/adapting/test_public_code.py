"""The public code itself against what `adapt` makes of it: ``python -m bench adapted`` as a test.

Runs where FUTUREFILL_PUBLIC_CODE names a folder of checkouts; docs/models.md has their commits.
"""

from __future__ import annotations

import pytest
import torch

from bench.harness import public_code
from bench.harness.adapted import agreement
from bench.harness.public_models import PUBLIC

pytestmark = pytest.mark.cpu_only("public code")


@pytest.mark.parametrize("name", PUBLIC)
def test_teacher_forced_logits_and_greedy_tokens(name):
    repository, build = PUBLIC[name]
    why = public_code.missing(repository)
    if why is not None:
        pytest.skip(why)
    torch.manual_seed(0)
    with torch.no_grad():
        found = agreement(build().eval())
    print(f"{name}: {found}")
    assert found.parallel < 5e-6
    assert found.teacher_forced < 5e-6
    assert found.same == found.tokens or found.near_ties
