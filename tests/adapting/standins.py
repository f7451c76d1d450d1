"""Small operators with the attributes of public code; every convolution is a sum as it is written.

Their classes are named as there, by which they are recognised.
"""

from __future__ import annotations

from types import SimpleNamespace

import torch
from torch import nn

from futurefill_kernels import reference

VOCABULARY, WIDTH, LONGEST = 23, 6, 48


class Filter(nn.Module):
    """Taps of a network of the lag under an exponential window, and a weight on the input."""

    def __init__(self, rows, longest):
        super().__init__()
        lag = torch.linspace(0, 1, longest)[None, :, None]
        self.register_buffer("lag", lag)
        self.features = nn.Parameter(torch.cat([lag, (9 * lag).sin(), (9 * lag).cos()], -1))
        self.net = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, rows, bias=False))
        self.bias = nn.Parameter(torch.randn(rows))

    def filter(self, length):
        """(1, length, rows)."""
        return self.net(self.features[:, :length]) * torch.exp(-4 * self.lag[:, :length])


class HyenaOperator(nn.Module):
    """Filters of several orders one after the other, as in HyenaDNA's own file."""

    def __init__(self, order=2, longest=LONGEST, dropout=0.0):
        super().__init__()
        self.d_model, self.order, self.l_max = WIDTH, order, longest
        self.in_proj = nn.Linear(WIDTH, (order + 1) * WIDTH)
        self.out_proj = nn.Linear(WIDTH, WIDTH)
        wide = (order + 1) * WIDTH
        self.short_filter = nn.Conv1d(wide, wide, 3, padding=2, groups=wide)
        self.filter_fn = Filter((order - 1) * WIDTH, longest)
        self.dropout = nn.Dropout(dropout)

    def rows(self, x, index):
        return x[index * WIDTH : (index + 1) * WIDTH]

    def forward(self, u, *args, **kwargs):
        length = u.shape[1]
        if length > self.l_max:
            raise IndexError("too long")
        x = self.short_filter(self.in_proj(u).mT)[..., :length]
        first, *gates, v = x.split(WIDTH, 1)
        h = self.filter_fn.filter(length)[0].T
        for index, gate in enumerate(reversed(gates)):
            skip = self.rows(self.filter_fn.bias, index)
            v = reference.causal_conv(self.dropout(v * gate), self.rows(h, index), skip)
        return self.out_proj((v * first).mT)


class SafariHyena(HyenaOperator):
    """Filters of a channel side by side, an activation, a state that is None."""

    def __init__(self, order=2, **options):
        super().__init__(order)
        plain = {"num_heads": 1, "num_blocks": 1, "inner_factor": 1, "return_state": False}
        for name, value in {**plain, **options}.items():
            setattr(self, name, value)
        self.activation = nn.GELU()
        self.filter_fn.use_bias = order != 4

    def rows(self, x, index):
        y = x[index :: self.order - 1]
        return y * self.filter_fn.use_bias if x is self.filter_fn.bias else y

    def forward(self, u, *args, **kwargs):
        out, self.out_proj = self.out_proj, nn.Identity()
        y = super().forward(u)
        self.out_proj = out
        y = out(self.activation(y))
        return (y, None) if self.return_state else y


SafariHyena.__name__ = "HyenaOperator"


class Kernel(nn.Module):
    """Explicit taps under a threshold."""

    def __init__(self, copies, longest):
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(copies, WIDTH, longest) / longest**0.5)

    def forward(self, **kwargs):
        k = self.kernel
        return torch.sign(k) * (k.abs() - 0.01).clamp(min=0), None


class LongConv(nn.Module):
    """Several filters per channel, copy after copy, then a position-wise map."""

    def __init__(self, copies=2, transposed=True, longest=LONGEST):
        super().__init__()
        self.D = nn.Parameter(torch.randn(copies, WIDTH))
        self.kernel = Kernel(copies, longest)
        self.activation, self.transposed = nn.GELU(), transposed
        self.bidirectional = self.block_fft_conv = False
        self.mix = nn.Linear(copies * WIDTH, WIDTH)
        self.output_linear = Transposed(self.mix) if transposed else self.mix

    def taps(self, length):
        return self.kernel(L=length)[0]

    def convolve(self, u):
        k = self.taps(u.shape[2])
        parts = [reference.causal_conv(u, h, d) for h, d in zip(k, self.D, strict=True)]
        return torch.cat(parts, 1)

    def forward(self, u, state=None, rate=1.0, lengths=None):
        y = self.convolve(u if self.transposed else u.mT)
        y = y if self.transposed else y.mT
        return self.output_linear(self.activation(y)), None


class Transposed(nn.Module):
    """A linear map over channels that come before time."""

    def __init__(self, linear):
        super().__init__()
        self.linear = linear

    def forward(self, x):
        return self.linear(x.mT).mT


class GConv(LongConv):
    """Taps made of stretched pieces, each weaker than the one before, in the forward."""

    def __init__(self, copies=2, transposed=True, linear=False, scales=3):
        super().__init__(1 if linear else copies, transposed)
        copies = len(self.D)
        del self.kernel, self.block_fft_conv
        self.kernel_dim, self.num_scales, self.init_scale = 8, scales, 0
        self.kernel_list = nn.ParameterList(
            torch.randn(copies, WIDTH, self.kernel_dim) for _ in range(scales)
        )
        self.register_buffer("kernel_norm", torch.full((copies, WIDTH, 1), 4.0))
        self.register_buffer("kernel_norm_initialized", torch.tensor(True))
        self.linear, self.hyper = linear, False
        if linear:
            del self.activation, self.output_linear, self.mix
        else:
            self.norm = nn.LayerNorm(WIDTH * copies) if not transposed else nn.Identity()

    def taps(self, length):
        widths = [1, *(2**i for i in range(self.num_scales - 1))]
        pieces = [
            x.repeat_interleave(width, -1) / 2**i
            for i, (x, width) in enumerate(zip(self.kernel_list, widths, strict=True))
        ]
        k = torch.cat(pieces, -1) / self.kernel_norm
        return nn.functional.pad(k, (0, max(length - k.shape[-1], 0)))[..., :length]

    def forward(self, u, return_kernel=False):
        y = self.convolve(u if self.transposed else u.mT)
        y = y if self.linear else self.activation(y)
        y = y if self.transposed else y.mT
        y = y if self.linear else self.output_linear(self.norm(y))
        return y, self.taps(u.shape[-1 if self.transposed else -2]) if return_kernel else None


class STU(nn.Module):
    """Plus and minus branches as they are written: the minus branch alternates its input's sign."""

    def __init__(self, tensorised=True, plus_only=False, filters=4, as_buffer=True, **config):
        super().__init__()
        self.use_hankel_L, self.config, self.K = plus_only, SimpleNamespace(**config), filters
        phi = torch.randn(LONGEST, filters) / LONGEST**0.5
        if as_buffer:
            self.register_buffer("phi", phi, persistent=False)
        else:
            self.stu_filters = phi
        if tensorised:
            self.M_inputs = nn.Parameter(torch.randn(WIDTH, WIDTH) / WIDTH**0.5)
            self.M_filters = nn.Parameter(torch.randn(filters, WIDTH))
        else:
            self.M_phi_plus = nn.Parameter(torch.randn(filters, WIDTH, WIDTH) / 5)
            if not plus_only:
                self.M_phi_minus = nn.Parameter(torch.randn(filters, WIDTH, WIDTH) / 5)

    def forward(self, x, *args, **kwargs):
        phi = getattr(self, "phi", None)
        phi = (self.stu_filters if phi is None else phi).to(x.dtype)
        sign = (-1.0) ** torch.arange(x.shape[1], dtype=x.dtype)
        if hasattr(self, "M_inputs"):
            u, h = (x @ self.M_inputs).mT, (phi @ self.M_filters).T
            y = reference.causal_conv(u, h)
            if not self.use_hankel_L:
                y = y + sign * reference.causal_conv(sign * u, h)
            return y.mT
        u, total = x.mT, 0
        for k in range(self.K):
            h = phi[None, :, k]
            total = total + reference.causal_conv(u, h).mT @ self.M_phi_plus[k]
            if not self.use_hankel_L:
                minus = sign * reference.causal_conv(sign * u, h)
                total = total + minus.mT @ self.M_phi_minus[k]
        return total


class Last(nn.Module):
    """The first of several outputs of an operator, on channels before time where it wants them."""

    def __init__(self, operator, transposed=False):
        super().__init__()
        self.operator, self.transposed = operator, transposed

    def forward(self, x):
        y = self.operator(x.mT if self.transposed else x)
        y = y[0] if isinstance(y, tuple) else y
        return y.mT if self.transposed else y


class Model(nn.Module):
    """Operators between norms, from ids to an object with logits."""

    def __init__(self, *operators):
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.blocks = nn.ModuleList(operators)
        self.head = nn.Linear(WIDTH, VOCABULARY)

    def forward(self, ids):
        x = self.embedding(ids)
        for block in self.blocks:
            y = nn.functional.rms_norm(block(x), (WIDTH,))  # or weak ones leave no trace
            x = nn.functional.rms_norm(x + 2 * y, (WIDTH,))
        logits = 8 * self.head(x)
        return SimpleNamespace(logits=logits.scatter(-1, ids[..., None], -50))  # no repetition


OPERATORS = {
    "hyena-2": HyenaOperator,
    "hyena-3": lambda: HyenaOperator(3),
    "hyena-4": lambda: HyenaOperator(4),
    "safari-2": SafariHyena,
    "safari-3": lambda: Last(SafariHyena(3, return_state=True)),
    "safari-4-no-bias": lambda: SafariHyena(4),
    "long-conv": lambda: Last(LongConv(), True),
    "long-conv-time-first": lambda: Last(LongConv(3, transposed=False)),
    "gconv": lambda: Last(GConv(), True),
    "gconv-time-first": lambda: Last(GConv(transposed=False)),
    "gconv-linear-one-scale": lambda: Last(GConv(linear=True, scales=1), True),
    "stu-tensorised": STU,
    "stu-tensorised-plus": lambda: STU(plus_only=True, as_buffer=False),
    "stu-full": lambda: STU(False, as_buffer=False),
    "stu-full-plus": lambda: STU(False, plus_only=True),
}


def make(*names):
    """A model of operators by name, in double precision and ready to decode."""
    torch.manual_seed(0)
    return Model(*(OPERATORS[name]() for name in names)).double().eval()
