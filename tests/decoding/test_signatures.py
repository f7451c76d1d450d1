"""What decode, iterate and a Decoder take by the same name is the same.

Each says it in full, so that help(), editors and inspect.signature show names and defaults; a
TypedDict under ** would hide them.
"""

from __future__ import annotations

from inspect import Parameter, signature

import pytest

import futurefill_kernels as ff

CALLS = {
    "iterate": ff.iterate,
    "Decoder": ff.Decoder,
    "Decoder()": ff.Decoder.__call__,
    "Decoder.iterate": ff.Decoder.iterate,
}
#: What a generation is told about its prompt and its end.
OF_A_GENERATION = {
    "sampler", "lengths", "attention_mask", "stop_ids", "stop", "detokenize", "pad_id",
}  # fmt: skip


def keywords(call):
    return {
        name: (p.default, p.annotation)
        for name, p in signature(call).parameters.items()
        if p.kind is Parameter.KEYWORD_ONLY
    }


@pytest.mark.parametrize("name", CALLS)
def test_the_same_names_mean_the_same_as_in_decode(name):
    theirs, ours = keywords(CALLS[name]), keywords(ff.decode)
    assert {n: theirs[n] for n in theirs.keys() & ours} == {
        n: ours[n] for n in theirs.keys() & ours
    }
    if name != "Decoder":
        assert theirs.keys() >= OF_A_GENERATION
