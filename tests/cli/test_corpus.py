"""The training text: the standard library, split by module."""

from __future__ import annotations

import pytest
import torch

from futurefill_kernels.cli.corpus import HELD_OUT, SEPARATOR, standard_library


def test_the_corpus_is_split_by_module():
    corpus = standard_library()
    assert {name.split("/")[0] for name in corpus.held_out} <= HELD_OUT
    assert {"argparse", "json/decoder"} <= set(corpus.held_out)
    text = corpus.train.numpy().tobytes()
    assert b"class OrderedDict(dict)" in text
    assert b"class ArgumentParser(" not in text
    assert text[0] == SEPARATOR
    generator = torch.Generator().manual_seed(0)
    assert corpus.sample(2, 10, generator).shape == (2, 10)


def test_a_directory_without_sources_is_refused(tmp_path):
    with pytest.raises(ValueError, match="standard library sources"):
        standard_library(tmp_path)
