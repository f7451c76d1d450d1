import argparse
import json
import math
import re
from dataclasses import asdict

import pytest
import torch
from safetensors.torch import load_file, save_file

from futurefill_kernels.cli import evaluate, generate, train
from futurefill_kernels.cli.corpus import HELD_OUT, SEPARATOR, standard_library
from futurefill_kernels.nn import LanguageModel, LanguageModelConfig, load_model, save_model
from futurefill_kernels.nn.pretrained import SHIPPED, read_record

SMALL = LanguageModelConfig(context_length=64, channels=8, layers=1, mlp_hidden=8, filter_hidden=8)


@pytest.fixture
def saved(tmp_path):
    torch.manual_seed(0)
    path = tmp_path / "model.safetensors"
    save_model(LanguageModel(SMALL), path, {"steps": 3})
    return path


def parse(command, *options):
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return parser.parse_args([str(option) for option in options])


def test_saved_weights_come_back(saved):
    model = load_model(saved)
    assert model.config == SMALL
    assert read_record(saved) == {"steps": 3}
    torch.manual_seed(0)
    for name, tensor in LanguageModel(SMALL).state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name]), name


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


def test_training_learns_and_repeats(tmp_path, capsys):
    states = []
    for name in ("a", "b"):
        out = tmp_path / f"{name}.safetensors"
        sizes = ["--channels", 8, "--layers", 1, "--mlp-hidden", 16, "--context-length", 128]
        schedule = ["--steps", 80, "--learning-rate", 0.03, "--tokens-per-step", 256]
        args = parse(train, "--out", out, "--evaluate-every", 100, *schedule, *sizes)
        train.run(args)
        states.append(load_file(out))
        assert read_record(out)["steps"] == 80
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())
    ids = standard_library().train[:400].long()[None]
    with torch.no_grad():
        loss = torch.nn.functional.cross_entropy(load_model(out)(ids)[0, :-1], ids[0, 1:])
    assert loss / math.log(2) < 7.0


def test_evaluate_agrees_in_both_modes_and_writes_the_card(tmp_path, capsys):
    path = tmp_path / "card.md"
    options = ("--window", 48, "--limit", 3, "--batch-size", 2, "--card", path)
    evaluate.run(parse(evaluate, *options))
    bits = [float(x) for x in re.findall(r"([\d.]+) bits per byte", capsys.readouterr().out)]
    assert abs(bits[0] - bits[1]) <= evaluate.TOLERANCE
    text = path.read_text()
    assert f"| {bits[0]:.6f} |" in text
    assert "144 bytes" in text


def test_the_shipped_card_belongs_to_the_shipped_weights():
    record, text = read_record(), SHIPPED.with_suffix(".md").read_text()
    assert f"| steps | {record['steps']} |" in text
    parallel, decode = map(float, re.findall(r"\) \| ([\d.]+) \|", text))
    assert abs(parallel - decode) <= evaluate.TOLERANCE
    assert parallel < 2.5


def test_the_shipped_model_knows_python():
    model = load_model()
    ids = torch.tensor([list(b"import os\nimport sys\n\ndef main():\n    retur")])
    with torch.no_grad():
        assert chr(int(model(ids)[0, -1].argmax())) == "n"
    assert SHIPPED.stat().st_size <= 8 << 20


def test_generate_streams_the_same_text_with_the_naive_cache(capsys):
    generate.run(parse(generate, "--prompt", "def ", "--tokens", 150, "--compare"))
    captured = capsys.readouterr()
    assert captured.out.startswith("def ")
    assert len(captured.out.encode()) == 155
    assert "identical 150 tokens; FutureFill is" in captured.err
    assert "tokens/s" in captured.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--tokens", 0), "--tokens >= 1, got 0"),
        (("--compare", "--temperature", 0.5), "--compare is greedy"),
        (("--prompt", ""), "empty prompt"),
    ],
)
def test_generate_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        generate.run(parse(generate, *options))


def test_split_characters_are_put_together(capsys):
    stream = generate.TextPrinter(__import__("sys").stdout)
    for index, byte in enumerate("é!".encode()):
        stream(torch.tensor([byte]), index)
    stream.close()
    assert capsys.readouterr().out == "é!\n"
