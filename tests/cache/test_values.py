"""The values of a tensor count, not how it lies in memory; padding counts for nothing."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch

import futurefill_kernels as ff

H = torch.randn(4, 40, generator=torch.Generator().manual_seed(0)) / 6


def negated(*shape):
    """A lazily negated view."""
    x = torch.complex(torch.randn(*shape), torch.randn(*shape)).conj().imag
    assert x.is_neg()
    return x


VIEWS = {
    "negated": negated,
    "transposed": lambda *shape: torch.randn(*reversed(shape)).permute(
        *reversed(range(len(shape)))
    ),
    "expanded": lambda *shape: torch.randn(1, *shape[1:]).expand(shape),
    "strided": lambda *shape: torch.randn(*shape[:-1], 2 * shape[-1])[..., ::2],
}


@pytest.mark.parametrize("view", VIEWS)
def test_any_view_gives_the_result_of_its_values(impl, view):
    make = VIEWS[view]
    cache, plain = (ff.FutureFillCache(H, 2, 16, impl=impl) for _ in range(2))
    for shape in ((2, 4, 9), (2, 4), (2, 4, 3), (2, 4)):
        u, pre, post = make(*shape), make(*shape), make(*shape)
        calls = [
            (c.step if len(shape) == 2 else c.prefill)(*x[:1], pre=x[1], post=x[2])
            for c, x in (
                (cache, (u, pre, post)),
                (plain, [x.clone(memory_format=torch.contiguous_format) for x in (u, pre, post)]),
            )
        ]
        assert torch.equal(*calls)
    assert torch.equal(
        ff.causal_conv(make(2, 4, 9) * 0 + 1, H), ff.causal_conv(torch.ones(2, 4, 9), H)
    )


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
@pytest.mark.parametrize("gated", [False, True])
def test_padding_never_matters(impl, poison, gated):
    cache, clean = (ff.FutureFillCache(H, 2, 16, impl=impl) for _ in range(2))
    u, pre = torch.randn(2, 2, 4, 12)
    for calls in range(2):  # a prompt, then a chunk inside the stream
        lengths = [12, 5]
        dirty = [x.clone() for x in (u, pre)]
        for x in dirty if gated else dirty[:1]:
            x[1, :, 5:] = poison
        got = cache.prefill(dirty[0], pre=dirty[1] if gated else None, lengths=lengths)
        expected = clean.prefill(u, pre=pre if gated else None, lengths=lengths)
        for row, n in enumerate(lengths):
            assert torch.equal(got[row, :, :n], expected[row, :, :n])
        for _ in range(2 - calls):
            token = torch.randn(2, 4)
            assert torch.equal(cache.step(token), clean.step(token))
    assert torch.isfinite(cache.state.ring).all()


def test_an_output_that_is_a_negated_view_is_refused(impl):
    cache, plain = (ff.FutureFillCache(H, 2, 16, impl=impl) for _ in range(2))
    u, out = torch.ones(2, 4), torch._neg_view(torch.ones(2, 4))
    with pytest.raises(ValueError, match="expected out without a negation"):
        cache.step(u, out=out)
    assert torch.equal(cache.step(u), plain.step(u))


def test_a_cache_goes_with_its_last_reference(impl):
    gc.disable()
    try:
        cache = ff.FutureFillCache(H, 2, 16, impl=impl)
        cache.prefill(torch.ones(2, 4, 3))
        cache.step(torch.ones(2, 4))
        ring = weakref.ref(cache.state.ring)
        del cache
        assert ring() is None
    finally:
        gc.enable()
