"""Filter spectra that are kept for later prompts: same outputs, counted, shared, never stale."""

from __future__ import annotations

import pickle
from types import SimpleNamespace

import pytest
import torch

import futurefill_kernels as ff
from futurefill_kernels import native
from futurefill_kernels.implementations import gpu_prompt_by_fft, reference, select
from futurefill_kernels.implementations.base import PromptKernels
from futurefill_kernels.planning.prompt_length import prompt_length
from futurefill_kernels.state import convolve
from futurefill_kernels.state.convolve import fft_length, shared_taps
from tests.implementations.plain_gpu import plain_inputs, plain_outputs
from tests.oracles import relative_error

#: engine: the CPU's; torch: torch.fft as in float64; gpu: around it what a GPU has
PATHS = ("engine", "torch", "gpu")
N = 24
DTYPES = {"engine": torch.float32, "torch": torch.float64, "gpu": torch.float32}
LENGTHS = [(40, 40), (40, 41), (1, 90), (90, 12, 90)]


@pytest.fixture
def make(monkeypatch):
    kernels = PromptKernels(plain_inputs, plain_outputs)
    gpu = SimpleNamespace(**vars(reference) | {"prompt_kernels": lambda: kernels})
    monkeypatch.setitem(select.IMPLEMENTATIONS, "prompted", gpu)

    def make(path, h, batch=2, keep=True, **options):
        impl = "prompted" if path == "gpu" else "reference"
        h = [x.to(DTYPES[path]) for x in h]
        options = {"plan": ff.Plan(N, (4, 8))} | options
        return ff.FutureFillCache(
            h, batch, N, impl=impl, keep_prompt_spectra=keep, **{"channels": 12} | options
        )

    return make


def filters(groups=12, taps=(200, 30), seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(groups, n, generator=generator) for n in taps]


def signal(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(shape[-1]))


def outputs(cache, prompt, lengths=None, calls=1):
    """Of a prompt and five steps after it, per layer."""
    found = []
    for part in prompt.to(cache.dtype).chunk(calls, dim=-1):
        found += [cache.prefill(part, layer, lengths=lengths) for layer in range(cache.layers)]
    for t in range(5):
        u = prompt[..., 0].to(cache.dtype) * t
        found += [cache.step(u, layer)[..., None] for layer in range(cache.layers)]
    return torch.cat(found, -1)


def kept_bytes(cache):
    return cache.memory().filters.get("prompts", 0)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("groups", [12, 3, 1])
@pytest.mark.parametrize("lengths", LENGTHS)
def test_outputs_are_those_without(make, path, groups, lengths):
    h = filters(groups)
    kept, plain = make(path, h), make(path, h, keep=False)
    for length in lengths:
        for cache in (kept, plain):
            cache.reset()
        u = signal(2, 12, length)
        bound = 1e-12 if path == "torch" else 1e-6
        assert relative_error(outputs(kept, u), outputs(plain, u)) < bound
    assert kept_bytes(kept) > 0
    assert kept_bytes(plain) == 0


@pytest.mark.parametrize("path", PATHS)
def test_a_second_prompt_transforms_no_filters(make, path, monkeypatch):
    """Of 35 and of 34 positions, which take the same transform."""
    cache, seen = make(path, filters()), []
    outputs(cache, signal(2, 12, 35))
    before = kept_bytes(cache)
    taken = {"engine": convolve.ops.offline_conv, "torch": torch.fft.rfft, "gpu": torch.fft.rfft}

    def rfft(x, *arguments, **options):
        seen.append(x.ndim)
        return taken[path](x, *arguments, **options)

    def offline_conv(*arguments, made=False):
        seen.append(made)
        return taken[path](*arguments, made=made)

    monkeypatch.setattr(torch.fft, "rfft", rfft)
    monkeypatch.setattr(convolve.ops, "offline_conv", offline_conv)
    for length in (35, 34):
        cache.reset()
        for layer in range(2):
            cache.prefill(signal(2, 12, length).to(cache.dtype), layer)
    assert seen == [True] * 4 if path == "engine" else len(seen) >= 4 and 2 not in seen
    assert kept_bytes(cache) == before


@pytest.mark.parametrize("path", PATHS)
def test_bytes_by_formula_and_at_most_two_lengths(make, path):
    taps = 200
    cache = make(path, filters(3, (taps,)))

    def expected(total):
        stop = total + N
        used = min(taps, stop)
        if path == "engine":
            block, lanes = convolve.conv_block(max(total, used)), native.cpu_lanes(torch.float32)
            values = (block + native.work_gaps()) * 2 * lanes
            return 4 * -(-12 // lanes) * -(-used // block) * values
        if path == "torch":
            n = fft_length(max(total + used - 1, stop))
            return 3 * (n // 2 + 1) * 16
        costs = gpu_prompt_by_fft.fft_costs(torch.device("cpu"))
        return 3 * (prompt_length(total, used, N, 0, costs).points // 2 + 1) * 8

    lengths = [20, 100, 700]
    for count, length in enumerate(lengths):
        cache.reset()
        cache.prefill(signal(2, 12, length).to(cache.dtype))
        newest = lengths[max(0, count - 1) : count + 1]
        assert kept_bytes(cache) == sum(map(expected, newest))
    cache.reset()  # the oldest but one is still there, and the newest then
    cache.prefill(signal(2, 12, 100).to(cache.dtype))
    cache.reset()
    cache.prefill(signal(2, 12, 20).to(cache.dtype))
    assert kept_bytes(cache) == expected(100) + expected(20)


@pytest.mark.parametrize("path", PATHS)
def test_other_filters_have_none_of_the_old_spectra(make, path):
    old, new = filters(), filters(seed=1)
    cache, plain = make(path, old), make(path, new, keep=False)
    u = signal(2, 12, 40)
    cache.prefill(u.to(cache.dtype))
    cache.prefill(u.to(cache.dtype), 1)
    cache.set_filters(new)
    assert kept_bytes(cache) == 0
    cache.reset()
    assert relative_error(outputs(cache, u), outputs(plain, u)) < 1e-6
    assert kept_bytes(cache) > 0


@pytest.mark.parametrize("path", PATHS)
def test_clones_and_caches_of_the_same_filters_share(make, path):
    h, u = filters(), signal(2, 12, 40)
    cache = make(path, h)
    outputs(cache, u)
    other, clone = make(path, h), cache.clone()
    assert kept_bytes(clone) == kept_bytes(cache) > kept_bytes(other) == 0

    def addresses(cache):
        kept = cache._prefill.spectra._kept
        return [x.values.data_ptr() for layer in kept for x in layer.values()]

    for one in (other, clone):
        one.reset()
        outputs(one, u)
        assert addresses(one) == addresses(cache)
    clone.reset()
    clone.set_filters(filters(seed=1))
    assert kept_bytes(cache) == kept_bytes(other) > kept_bytes(clone) == 0
    bank = cache.state.prepared.bank
    assert len(bank.prompts) == 2
    del cache, other, one
    assert not bank.prompts  # nobody keeps them


@pytest.mark.parametrize("path", PATHS)
def test_caches_of_other_channels_on_the_same_filters(make, path):
    """As many tiles, of other channels."""
    h = filters(groups=4)
    keeping = {channels: make(path, h, channels=channels) for channels in (8, 4)}
    for channels, cache in keeping.items():
        prompt = signal(2, channels, 90)
        expected = outputs(make(path, h, keep=False, channels=channels), prompt)
        assert relative_error(outputs(cache, prompt), expected) < 2e-6


@pytest.mark.parametrize("path", PATHS)
def test_prompts_in_calls_and_of_several_lengths(make, path):
    h = filters()
    kept, plain = make(path, h, rollback=None), make(path, h, keep=False, rollback=None)
    for _ in range(2):
        for options in ({"calls": 3}, {"lengths": [60, 7]}):
            for cache in (kept, plain):
                cache.reset()
            u = signal(2, 12, 60)
            y, expected = (outputs(cache, u, **options) for cache in (kept, plain))
            if "lengths" in options:  # behind them outputs mean nothing
                y[1, :, 7:60] = expected[1, :, 7:60]
                y[1, :, 67:120] = expected[1, :, 67:120]
            assert relative_error(y, expected) < 1e-6


@pytest.mark.parametrize("path", ["engine", "torch"])  # the third has no name of its own
def test_a_pickled_cache_keeps_again(make, path):
    cache, u = make(path, filters()), signal(2, 12, 40)
    expected = outputs(cache, u)
    other = pickle.loads(pickle.dumps(cache))
    assert kept_bytes(other) == 0
    other.reset()
    assert relative_error(outputs(other, u), expected) < 1e-6
    assert kept_bytes(other) == kept_bytes(cache) > 0


@pytest.mark.parametrize("path", PATHS)
def test_no_room_is_said_and_changes_nothing(make, path, monkeypatch):
    cache, plain = make(path, filters()), make(path, filters(), keep=False)
    u = signal(2, 12, 40)
    monkeypatch.setattr("futurefill_kernels.planning.memory.free_bytes", lambda: 99)
    monkeypatch.setattr("futurefill_kernels.planning.memory.ASKED_FROM", 0)
    with pytest.raises(MemoryError, match=r"the kept spectrum of a prompt needs \d+ bytes, cpu"):
        cache.prefill(u.to(cache.dtype))
    monkeypatch.undo()
    assert kept_bytes(cache) == 0
    assert relative_error(outputs(cache, u), outputs(plain, u)) < 1e-6


@pytest.mark.parametrize("path", PATHS)
def test_made_in_inference_mode_and_used_outside(make, path):
    cache, u = make(path, filters()), signal(2, 12, 40)
    with torch.inference_mode():
        expected = outputs(cache, u)
    cache.reset()
    assert relative_error(outputs(cache, u), expected) < 1e-6


@pytest.mark.parametrize("path", PATHS)
def test_a_nan_in_a_prompt_leaves_kept_spectra_finite(make, path):
    cache, u = make(path, filters()), signal(2, 12, 40)
    expected = outputs(cache, u)
    cache.reset()
    bad = u.clone()
    bad[0, 3, 5] = torch.nan
    y = cache.prefill(bad.to(cache.dtype))
    assert y[0, 3, 5:].isnan().all()
    assert y[1].isfinite().all()
    cache.reset()
    assert relative_error(outputs(cache, u), expected) < 1e-6


def test_taps_that_prompts_share_wrap_nothing_and_are_enough():
    for after in (1, 24, 100):
        for total in range(1, 200):
            for taps in (1, 7, 150, 1000):
                needed = min(taps, total + after)
                n = fft_length(max(total + needed - 1, total + after))
                found = shared_taps(total, taps, total + after, n)
                assert needed <= found <= taps
                assert total + found - 1 <= n
                assert found == min(taps, after + (n - after + 1) // 2)  # of n and not of total
    assert shared_taps(256, 300, 272, 512) == 272  # a wrapping transform has what it had
