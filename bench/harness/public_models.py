"""Small models of public operators, built with the public code itself."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

import futurefill_kernels as ff

from .public_code import importing

VOCABULARY, WIDTH, LONGEST = 12, 16, 96
#: positions that the operators' own transforms are for, and the power of two behind them
_TRANSFORM = 256


class Bases(nn.Module):
    """Layers of an operator between norms, from ids (B, T) to logits.

    transposed: the operator takes channels before time.
    """

    def __init__(
        self, make: Callable[[], nn.Module], layers: int = 2, transposed: bool = False
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.layers = nn.ModuleList(make() for _ in range(layers))
        self.head, self.transposed = nn.Linear(WIDTH, VOCABULARY), transposed

    def forward(self, ids: Tensor) -> Tensor:
        """Logits (B, T, vocabulary)."""
        x = self.embedding(ids)
        for layer in self.layers:
            y = layer(x.mT if self.transposed else x)
            y = y[0] if isinstance(y, tuple) else y
            y = nn.functional.rms_norm(y.mT if self.transposed else y, (WIDTH,))
            x = nn.functional.rms_norm(x + 2 * y, (WIDTH,))
        return 8 * self.head(x)


class Genome(nn.Module):
    """A backbone of HyenaDNA under its tied embedding. scale: of the logits."""

    def __init__(self, backbone: Any, scale: float = 1.0) -> None:
        super().__init__()
        self.inner, self.scale = backbone, scale

    def forward(self, ids: Tensor) -> Tensor:
        """Logits (B, T, vocabulary)."""
        table = self.inner.backbone.embeddings.word_embeddings.weight
        logits = nn.functional.linear(self.inner(ids), table)
        return logits if self.scale == 1 else self.scale * logits


def hyena_dna(
    order: int = 2,
    *,
    width: int = WIDTH,
    layers: int = 3,
    longest: int = LONGEST,
    filter_order: int = 16,
    vocabulary: int = VOCABULARY,
    scale: float = 60.0,
) -> nn.Module:
    """HyenaDNA by its standalone file."""
    layer = {"l_max": longest, "order": order, "emb_dim": 5, "filter_order": filter_order}
    with importing("hyena-dna") as load:
        backbone = load("standalone_hyenadna").HyenaDNAModel(
            d_model=width, n_layer=layers, d_inner=4 * width, vocab_size=vocabulary, layer=layer,
            pad_vocab_size_multiple=4,
        )  # fmt: skip
    return Genome(backbone, scale)


def hyena_operators(repository: str, **options: Any) -> nn.Module:
    """Layers of safari's HyenaOperator, which hyena-dna has a copy of."""
    with importing(repository) as load:
        operator = load("src.models.sequence.hyena").HyenaOperator
        return Bases(lambda: operator(WIDTH, LONGEST, filter_order=16, **options))


def long_convs(**options: Any) -> nn.Module:
    """Layers of safari's LongConv."""
    with importing("safari") as load:
        operator = load("src.models.sequence.long_conv").LongConv
        return Bases(
            lambda: operator(WIDTH, l_max=LONGEST, lam=1e-3, **options),
            transposed=options.get("transposed", True),
        )


def gconvs(**options: Any) -> nn.Module:
    """Layers of SGConv's GConv, called once: the first call measures its kernels."""
    with importing("SGConv") as load:
        operator = load("gconv_standalone").GConv
        model = Bases(
            lambda: operator(WIDTH, l_max=128, kernel_dim=8, **options),
            transposed=options.get("transposed", True),
        )
        model(torch.zeros(1, 128, dtype=torch.long, device="cpu"))
    return model


def stus(repository: str, **options: Any) -> nn.Module:
    """Layers of the STU of flash-stu, flash-stu-2 or SpectraLDS."""
    config = SimpleNamespace(
        num_eigh=5, n_embd=WIDTH, dim=WIDTH, seq_len=LONGEST, use_flash_fft=False, d_in_tile=None,
        d_out_tile=None, torch_dtype=torch.float32,
        **{"use_hankel_L": False, "use_approx": True, **options},
    )  # fmt: skip
    phi = ff.nn.spectral_filters(LONGEST, 5).T.float().contiguous()
    more = () if repository == "SpectraLDS" else (_TRANSFORM,)
    with importing(repository) as load:
        kind = load("flash_stu.modules.stu").STU

        def make() -> nn.Module:
            operator = kind(config, phi, *more)
            for parameter in operator.parameters():
                nn.init.normal_(parameter)
            if hasattr(operator, "setup_phi") and operator.use_approx:
                operator.setup_phi()
            return operator

        return Bases(make)


def mini_stus(**options: Any) -> nn.Module:
    """Layers of flash-stu-2's MiniSTU."""
    with importing("flash-stu-2") as load:
        kind = load("mini_stu.stu").MiniSTU
        return Bases(lambda: kind(LONGEST, 5, WIDTH, WIDTH, use_flash_fft=False, **options))


def _hyenas(repository: str) -> dict[str, tuple[str, Callable[[], nn.Module]]]:
    found = {}
    for name, options in {
        "order 2": {"order": 2},
        "order 3, no bias": {"order": 3, "bias": False, "activation": "gelu"},
        "order 4, normalised": {
            "order": 4, "short_filter_order": 5, "normalized": True, "return_state": True,
        },
    }.items():  # fmt: skip

        def build(options: dict[str, Any] = options) -> nn.Module:
            return hyena_operators(repository, **options)

        found[f"{repository} HyenaOperator, {name}"] = (repository, build)
    return found


def _stus(repository: str) -> dict[str, tuple[str, Callable[[], nn.Module]]]:
    found = {}
    for name, options in {
        "tensorised": {},
        "full": {"use_approx": False},
        "tensorised, plus alone": {"use_hankel_L": True},
        "full, plus alone": {"use_approx": False, "use_hankel_L": True},
    }.items():
        if repository == "SpectraLDS" and "use_hankel_L" in options:  # raises there
            continue

        def build(options: dict[str, Any] = options) -> nn.Module:
            return stus(repository, **options)

        found[f"{repository} STU, {name}"] = (repository, build)
    return found


#: name -> (repository, what builds it)
PUBLIC: dict[str, tuple[str, Callable[[], nn.Module]]] = {
    "HyenaDNA, order 2": ("hyena-dna", lambda: hyena_dna(2)),
    "HyenaDNA, order 3": ("hyena-dna", lambda: hyena_dna(3)),
    **_hyenas("hyena-dna"),
    **_hyenas("safari"),
    "safari LongConv": ("safari", long_convs),
    "safari LongConv, 3 copies": ("safari", lambda: long_convs(channels=3, transposed=False)),
    "SGConv GConv, 2 copies": ("SGConv", lambda: gconvs(channels=2)),
    "SGConv GConv, sums": (
        "SGConv", lambda: gconvs(transposed=False, postact="glu", ln=True, mode="sum_randn"),
    ),
    "SGConv GConv, learned decay": (
        "SGConv", lambda: gconvs(mode="cat_randn_learnable_nearest", linear=True),
    ),
    **_stus("flash-stu-2"),
    "flash-stu-2 MiniSTU": ("flash-stu-2", lambda: mini_stus(use_mlp=True)),
    **_stus("flash-stu"),
    **_stus("SpectraLDS"),
}  # fmt: skip
