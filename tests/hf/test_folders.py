"""Folders of weights: saved, loaded by every door, and refused where they are not right."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

transformers = pytest.importorskip(
    "transformers", minversion="5", reason="ff.hf needs transformers: pip install '.[hf]'"
)

from futurefill_kernels import hf, nn  # noqa: E402
from futurefill_kernels.__main__ import main  # noqa: E402
from tests.hf.models import make  # noqa: E402


@pytest.fixture
def folder(tmp_path):
    make().save_pretrained(tmp_path)
    return tmp_path


def same(left, right):
    left, right = left.state_dict(), right.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[n], right[n]) for n in left)


@pytest.mark.parametrize("mixer", ["hyena", "stu"])
def test_a_model_comes_back(mixer, tmp_path):
    model, ids = make(mixer), torch.randint(50, (1, 6))
    model.save_pretrained(tmp_path)
    loaded = hf.FutureFillForCausalLM.from_pretrained(tmp_path)
    by_name = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    plain = nn.load_model(tmp_path)
    assert type(by_name) is hf.FutureFillForCausalLM
    assert same(loaded, model)
    assert same(by_name, model)
    assert same(plain, model.model)
    assert plain.config == model.model.config == loaded.config.sizes()
    assert not loaded.training
    with torch.no_grad():
        torch.testing.assert_close(loaded(ids).logits, model(ids).logits)


def test_another_dtype_and_the_loading_report(folder):
    loaded, report = hf.FutureFillForCausalLM.from_pretrained(
        folder, dtype=torch.bfloat16, output_loading_info=True
    )
    assert loaded.dtype is torch.bfloat16
    assert not any(report.values())


def test_generate_reads_a_folder(tmp_path, capsys):
    hf.FutureFillForCausalLM.from_language_model(nn.load_model()).save_pretrained(tmp_path)
    options = ["--prompt", "def ", "--tokens", "20", "--temperature", "0"]
    assert main(["generate", *options]) == 0
    expected = capsys.readouterr().out
    assert main(["generate", *options, "--weights", str(tmp_path)]) == 0
    assert capsys.readouterr().out == expected


@pytest.fixture
def shards(tmp_path):
    make().save_pretrained(tmp_path, max_shard_size="10KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    return tmp_path


def test_a_folder_of_several_files(shards, capsys):
    model = make()
    assert same(hf.FutureFillForCausalLM.from_pretrained(shards), model)
    assert same(nn.load_model(shards, progress=True), model.model)
    assert "B/s" in capsys.readouterr().err
    options = ["--prompt", "\x07\x01", "--tokens", "9", "--dtype", "float64"]
    assert main(["generate", "--weights", str(shards), *options]) == 0
    assert len(capsys.readouterr().out.encode()) == 2 + 9 + 1


def test_generate_refuses_a_vocabulary_that_is_not_bytes(tmp_path, capsys):
    config = hf.FutureFillConfig(vocabulary=300, channels=8, layers=1, mlp_hidden=8)
    hf.FutureFillForCausalLM(config).save_pretrained(tmp_path)
    assert main(["generate", "--weights", str(tmp_path)]) == 2
    assert "vocabulary of at most 256, got 300" in capsys.readouterr().err


def change_config(**fields):
    def change(folder):
        path = folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))

    return change


def change_tensors(change):
    def changed(folder):
        path = folder / "model.safetensors"
        tensors = load_file(path)
        change(tensors)
        save_file(tensors, path, {"format": "pt"})

    return changed


def cut(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


CORRUPT = {
    "cut": (cut, "complete safetensors"),
    "missing tensor": (change_tensors(lambda t: t.pop("model.norm.weight")), "norm.weight"),
    "a tensor more": (change_tensors(lambda t: t.update(x=torch.ones(1))), "x"),
    "another shape": (
        change_tensors(lambda t: t.update({"model.norm.weight": torch.ones(9)})), "norm.weight"),
    "vocabulary": (change_config(vocabulary=51), "embedding.weight"),
    "sizes": (change_config(layers=0), "layers to be an int >= 1, got 0"),
    "mixer": (change_config(mixer="attention"), "mixer to be one of"),
    "no JSON": (lambda f: (f / "config.json").write_text("{"), "config"),
    "no config": (lambda f: (f / "config.json").unlink(), "config"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "model.safetensors|no weights"),
}  # fmt: skip


@pytest.mark.parametrize("load", [hf.FutureFillForCausalLM.from_pretrained, nn.load_model])
@pytest.mark.parametrize("case", CORRUPT)
def test_a_corrupt_folder_is_refused(case, load, folder):
    spoil, message = CORRUPT[case]
    spoil(folder)
    with pytest.raises((ValueError, RuntimeError, OSError), match=message):
        load(folder)


def change_index(change):
    def changed(folder):
        path = folder / "model.safetensors.index.json"
        found = json.loads(path.read_text())
        change(found)
        path.write_text(json.dumps(found))

    return changed


def second(folder):
    return sorted(folder.glob("*.safetensors"))[1]


def swapped(index):
    """Every name in the file of the next."""
    names = index["weight_map"]
    names.update(zip(names, [*list(names.values())[1:], *list(names.values())[:1]], strict=True))


CORRUPT_SHARDS = {
    "index is no JSON": (
        lambda f: (f / "model.safetensors.index.json").write_text("{"), "index.json is no JSON"),
    "a file is gone": (lambda f: second(f).unlink(), r"names \['model-00002.*does not have"),
    "a file is cut": (
        lambda f: second(f).write_bytes(second(f).read_bytes()[:-8]), "complete safetensors"),
    "no map": (change_index(lambda i: i.pop("weight_map")), "to have a weight_map"),
    "a name less": (change_index(lambda i: i["weight_map"].pop("model.norm.weight")), "norm.wei"),
    "a name more": (change_index(lambda i: i["weight_map"].update(x=i["weight_map"][
        "model.norm.weight"])), "x"),
    "names in other files": (change_index(swapped), "does not match its index: unexpected"),
    "another folder's": (
        change_index(lambda i: i["weight_map"].update(x="../weights.safetensors")),
        "name a file beside it for x, got '../weights.safetensors'"),
}  # fmt: skip


@pytest.mark.parametrize("load", [hf.FutureFillForCausalLM.from_pretrained, nn.load_model])
@pytest.mark.parametrize("case", CORRUPT_SHARDS)
def test_corrupt_files_of_several_are_refused(case, load, shards):
    spoil, message = CORRUPT_SHARDS[case]
    spoil(shards)
    with pytest.raises((ValueError, OSError), match=message):
        load(shards)


@pytest.mark.parametrize("load", [hf.FutureFillForCausalLM.from_pretrained, nn.load_model])
def test_a_folder_of_another_kind_is_refused(load, folder):
    change_config(model_type="llama")(folder)
    with pytest.raises(ValueError, match="model_type 'futurefill', got 'llama'"):
        load(folder)


def test_names_of_transformers_for_sizes():
    config = hf.FutureFillConfig(vocab_size=30, hidden_size=12)
    assert (config.vocabulary, config.channels, config.vocab_size) == (30, 12, 30)
    with pytest.raises(ValueError, match="vocabulary to be an int >= 1"):
        hf.FutureFillConfig(vocab_size=0)


def test_the_examples_of_the_docs_run(tmp_path, monkeypatch):
    page = (Path(__file__).parents[2] / "docs" / "models.md").read_text()
    first, *_ = re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    blocks = re.findall(r"^```python hf\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    assert len(blocks) == 2
    monkeypatch.chdir(tmp_path)
    names = {"__name__": __name__}
    for block in (first, *blocks):  # the first has the classes that the others adapt
        exec(compile(block, "models.md", "exec"), names)
