"""Weights: saved and loaded again, files that are refused, and the shipped model."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from futurefill_kernels.nn import LanguageModel, LanguageModelConfig, load_model, save_model
from futurefill_kernels.nn.pretrained import SHIPPED, read_record

SMALL = LanguageModelConfig(context_length=64, channels=8, layers=1, mlp_hidden=8, filter_hidden=8)


@pytest.fixture
def saved(tmp_path):
    torch.manual_seed(0)
    path = tmp_path / "model.safetensors"
    save_model(LanguageModel(SMALL), path, {"steps": 3})
    return path


def test_saved_weights_come_back(saved):
    model = load_model(saved)
    assert model.config == SMALL
    assert read_record(saved) == {"steps": 3}
    torch.manual_seed(0)
    for name, tensor in LanguageModel(SMALL).state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name]), name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_a_model_comes_back_as_what_it_was(tmp_path, dtype):
    config = replace(SMALL, mixer="stu", spectral_filters=3, activation="gelu", norm_eps=1e-4)
    model = LanguageModel(config).to(dtype)
    save_model(model, tmp_path / "model.safetensors", {})
    again = load_model(tmp_path / "model.safetensors")
    assert again.config == config
    for name, tensor in model.state_dict().items():
        assert again.state_dict()[name].dtype == dtype
        assert torch.equal(again.state_dict()[name], tensor), name


def test_other_configurations_are_refused(saved):
    tensors = load_file(saved)
    for config in ({**asdict(SMALL), "mixer": "attention"}, {**asdict(SMALL), "layers": -1}):
        save_file(tensors, saved, {"config": json.dumps(config)})
        with pytest.raises(ValueError, match="no usable model configuration"):
            load_model(saved)


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_truncated_files_are_refused(saved, keep):
    saved.write_bytes(saved.read_bytes()[:keep])
    with pytest.raises(ValueError, match="not a complete safetensors file"):
        load_model(saved)


def test_files_that_are_not_ours_are_refused(saved, tmp_path):
    with pytest.raises(FileNotFoundError, match="no weights at"):
        load_model(tmp_path / "missing.safetensors")
    tensors = load_file(saved)
    save_file(tensors, saved)
    with pytest.raises(ValueError, match="no usable model configuration"):
        load_model(saved)
    save_file(tensors, saved, {"config": '{"channels": 8, "colour": 1}'})
    with pytest.raises(ValueError, match="no usable model configuration"):
        load_model(saved)


def test_tensors_that_do_not_match_are_refused(saved):
    config = {"config": json.dumps(asdict(SMALL))}
    tensors = load_file(saved)
    norm = tensors.pop("norm.weight")
    save_file(tensors, saved, config)
    with pytest.raises(ValueError, match=r"missing \['norm.weight'\]"):
        load_model(saved)
    save_file({**tensors, "norm.weight": norm[:4].clone()}, saved, config)
    with pytest.raises(ValueError, match=r"norm.weight \(8,\) in .*, got \(4,\)"):
        load_model(saved)
    save_file({**tensors, "norm.weight": norm * float("nan")}, saved, config)
    with pytest.raises(ValueError, match=r"norm.weight in .* to be finite"):
        load_model(saved)
    for wrong in (norm.double(), norm.int()):
        save_file({**tensors, "norm.weight": wrong}, saved, config)
        with pytest.raises(ValueError, match=r"one floating point dtype in .*torch.float32"):
            load_model(saved)


def test_the_shipped_model_knows_python():
    model = load_model()
    ids = torch.tensor([list(b"import os\nimport sys\n\ndef main():\n    retur")])
    with torch.no_grad():
        assert chr(int(model(ids)[0, -1].argmax())) == "n"
    assert SHIPPED.stat().st_size <= 8 << 20
