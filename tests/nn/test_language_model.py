"""The language model in both modes, what it may be made of, and its sizes."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch.nn import functional as F

from futurefill_kernels import DecodingCache
from futurefill_kernels.nn import STU, LanguageModel, LanguageModelConfig
from futurefill_kernels.nn.language_model import GatedMLP
from tests.nn.mixers import CONTEXT, TOLERANCE, check_equal, run_split

SMALL = LanguageModelConfig(
    vocabulary=50, context_length=CONTEXT, channels=16, layers=3, mlp_hidden=24
)
STU_SMALL = dataclasses.replace(SMALL, mixer="stu", spectral_filters=5, activation="gelu")
CONFIGS = {
    "hyena": SMALL,
    "hyena-gelu": dataclasses.replace(SMALL, activation="gelu", norm_eps=1e-3),
    "stu": STU_SMALL,
    "stu-full-silu": dataclasses.replace(STU_SMALL, tensorised=False, activation="silu"),
}


@torch.no_grad()
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("name", CONFIGS)
def test_logits_in_both_modes(name, dtype):
    torch.manual_seed(0)
    ids = torch.randint(50, (2, 50))
    model = LanguageModel(CONFIGS[name]).to(dtype)
    cache = DecodingCache(model, 2, 45)
    streamed = run_split(model, ids, range(5, 50), cache)
    assert streamed.dtype == dtype
    check_equal(streamed, model(ids))


@torch.no_grad()
@pytest.mark.parametrize("name", CONFIGS)
def test_a_model_of_half_precision_is_the_rounded_one(name):
    """Its filters and norms are those of the float32 model with rounded weights."""
    torch.manual_seed(0)
    model, ids = LanguageModel(CONFIGS[name]), torch.randint(50, (1, 40))
    for parameter in model.parameters():
        parameter.copy_(parameter.bfloat16())
    taps = [
        block.mixer.filter if name[0] == "s" else block.mixer.filters[0] for block in model.blocks
    ]
    before = [f.taps(CONTEXT) for f in taps]
    expected = model(ids)
    model.bfloat16()
    after = [f.taps(CONTEXT) for f in taps]
    assert {t.dtype.itemsize for t in after} <= {4, 8}
    assert all(map(torch.equal, before, after))
    error = (model(ids).float() - expected).abs().max() / expected.abs().max()
    assert error < 0.05


def test_the_published_shape_has_half_a_billion_parameters():
    config = LanguageModelConfig(
        vocabulary=200_064, context_length=8192, channels=1024, layers=8, mlp_hidden=12 * 1024,
        mixer="stu", spectral_filters=24, activation="gelu",
    )  # fmt: skip
    with torch.device("meta"):
        model = LanguageModel(config)
    assert sum(p.numel() for p in model.parameters()) == 515_458_048
    assert all(isinstance(block.mixer, STU) for block in model.blocks)


@torch.no_grad()
@pytest.mark.parametrize("activation", ["silu", "gelu"])
def test_the_mlp_is_gated_by_its_activation(activation):
    torch.manual_seed(0)
    mlp, x = GatedMLP(6, 9, activation).double(), torch.randn(2, 5, 6, dtype=torch.float64)
    gate, up = x @ mlp.gate_up.weight[:9].T, x @ mlp.gate_up.weight[9:].T
    if activation == "silu":
        gate = F.silu(gate)
    else:
        gate = gate / 2 * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (gate + 0.044715 * gate**3)))
    torch.testing.assert_close(mlp(x), (gate * up) @ mlp.down.weight.T, rtol=0, atol=1e-12)


def test_every_parameter_of_an_stu_model_is_trained():
    torch.manual_seed(0)
    model = LanguageModel(STU_SMALL)
    model(torch.randint(50, (2, 12))).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mixer": "attention"}, r"mixer to be one of \('hyena', 'stu'\), got 'attention'"),
        ({"activation": "relu"}, r"activation to be one of \('silu', 'gelu'\), got 'relu'"),
        ({"layers": 0}, "layers to be an int >= 1, got 0"),
        ({"channels": 8.0}, r"channels to be an int >= 1, got 8\.0"),
        ({"vocabulary": True}, "vocabulary to be an int >= 1, got True"),
        ({"tensorised": 1}, "tensorised to be a bool, got 1"),
        ({"norm_eps": 0.0}, r"norm_eps > 0 and finite, got 0\.0"),
        ({"norm_eps": float("nan")}, "norm_eps > 0 and finite, got nan"),
        (
            {"mixer": "stu", "spectral_filters": 65},
            "spectral_filters <= context_length = 64, got 65",
        ),
    ],
)
def test_impossible_configurations_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SMALL, **changes)
