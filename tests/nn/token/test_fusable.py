"""What refuses to fuse, and why."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from torch import nn

import futurefill_kernels as ff
from futurefill_kernels import DecodingCache, native
from futurefill_kernels.nn import LanguageModel
from futurefill_kernels.nn.token.cpu import cannot_fuse

from .models import CONFIGS, make_model

pytestmark = pytest.mark.skipif(
    native.cpu_unavailable_reason() is not None,
    reason=f"no CPU kernels: {native.cpu_unavailable_reason()}",
)


def test_what_is_not_fused_says_why():
    class Other(LanguageModel):
        pass

    config = CONFIGS[0]
    assert DecodingCache(Other(config), 1, 4).not_fused == ["Other is not an ff.nn.LanguageModel"]
    mixed = make_model(config)
    mixed.norm.double()
    assert DecodingCache(mixed, 1, 4).not_fused == [
        "parameters that are not all of one of float32, bfloat16, float16, float64: "
        "float32, float64"
    ]
    model = make_model(config)
    assert DecodingCache(model, 1, 4, impl="reference").not_fused == ["impl='reference'"]
    full = LanguageModel(replace(CONFIGS[3], tensorised=False))
    assert DecodingCache(full, 1, 4).not_fused == [
        f"blocks.{i}.mixer.filter is futurefill_kernels.nn.stu.SpectralBank, not SpectralFilter"
        for i in range(3)
    ]


class Doubled(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


def hook(*arguments):
    return None


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda m: setattr(m, "norm", nn.Identity()), "norm is torch.* not RMSNorm"),
        (lambda m: setattr(m, "norm", nn.Linear(24, 24)), "norm is .*Linear, not RMSNorm"),
        (
            lambda m: setattr(m.blocks[1].mlp, "down", Doubled(40, 24, bias=False)),
            r"blocks.1.mlp.down is tests\..*Doubled, not Linear",
        ),
        (
            lambda m: setattr(m.blocks[0], "mixer", ff.nn.LongConv(24, 64)),
            "blocks.0.mixer is .*LongConv, not Hyena or STU",
        ),
        (
            lambda m: setattr(m.blocks[0], "extra", nn.Linear(2, 2)),
            "blocks.0.extra is torch.*Linear, not known",
        ),
        (
            lambda m: nn.utils.parametrizations.weight_norm(m.blocks[0].mlp.down),
            "mlp.down is .*ParametrizedLinear, not Linear",
        ),
        (lambda m: m.norm.register_forward_hook(hook), "norm has forward hooks"),
        (lambda m: m.register_forward_pre_hook(hook), "the model has forward hooks"),
        (
            lambda m: setattr(m.blocks[1].mixer.out_proj, "forward", hook),
            "blocks.1.mixer.out_proj has forward hooks or a forward of its own",
        ),
        (lambda m: setattr(m, "norm", nn.RMSNorm(24, elementwise_affine=False)), "norm has no wei"),
        (lambda m: setattr(m.embedding, "max_norm", 1.0), "embedding has a max_norm"),
    ],
)
def test_other_modules_are_never_fused(change, reason):
    model = make_model(CONFIGS[0])
    change(model)
    (first, *_) = cannot_fuse(model, [])
    assert re.search(reason, first), first
