"""A prompt through torch.fft, with plain torch in place of the kernels around the transforms."""

from __future__ import annotations

import weakref
from collections import Counter
from types import SimpleNamespace

import pytest
import torch
from torch import is_tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from futurefill_kernels import FutureFillCache, Plan, causal_conv
from futurefill_kernels.implementations import gpu_prompt_by_fft, reference, select
from futurefill_kernels.implementations.base import PromptKernels
from futurefill_kernels.planning.prompt_length import prompt_length
from tests.implementations.plain_gpu import plain_inputs, plain_outputs
from tests.implementations.prompt_cases import (
    DTYPES,
    INPUTS,
    OUTPUTS,
    check_inputs,
    check_outputs,
    check_prompts,
)
from tests.oracles import relative_error


@pytest.mark.parametrize("dtype", DTYPES)
def test_plain_kernels_do_what_kernels_must(dtype):
    for case in INPUTS:
        check_inputs(plain_inputs, case, dtype)
    for case in OUTPUTS:
        check_outputs(plain_outputs, case, False, dtype)
        check_outputs(plain_outputs, case, True, dtype, torch.bfloat16)


@pytest.fixture
def widths(monkeypatch):
    """``impl="prompted"``: reference with prompts by torch.fft; rows and channels of every pass."""
    seen: list[tuple[int, int]] = []

    def outputs(z, *others):
        seen.append(tuple(z.shape[:2]))
        plain_outputs(z, *others)

    kernels = PromptKernels(plain_inputs, outputs)
    implementation = SimpleNamespace(**vars(reference) | {"prompt_kernels": lambda: kernels})
    monkeypatch.setitem(select.IMPLEMENTATIONS, "prompted", implementation)
    return seen


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("groups", [40, 5, 1])
@pytest.mark.parametrize("workspace", [1, 40_000, 1 << 28])
def test_prompts(widths, monkeypatch, workspace, groups, dtype):
    """With a workspace that holds one row and 8 channels, some, and everything."""
    monkeypatch.setattr(gpu_prompt_by_fft, "WORKSPACE_BYTES", workspace)
    check_prompts("prompted", dtype, 40, groups)
    rows, channels = (max(sizes) for sizes in zip(*widths, strict=True))
    if workspace == 1:
        assert (rows, channels) == (1, 8)
    if workspace == 1 << 28:
        assert (rows, channels) == (2, 40)  # the third row's prompt goes on as a stream of its own


@pytest.mark.parametrize("state_dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("channels", [9, 40])
def test_prompts_of_a_state_of_16_bits(widths, monkeypatch, channels, state_dtype):
    """The open block has what the ring has, with and without a prompts' fill."""
    monkeypatch.setattr(gpu_prompt_by_fft, "WORKSPACE_BYTES", 40_000)
    check_prompts("prompted", torch.float32, channels, channels, state_dtype)
    assert widths


@pytest.mark.parametrize("workspace", [1, 1 << 28])
def test_first_outputs_are_made_again_where_that_saves_a_longer_transform(
    widths, monkeypatch, workspace
):
    """Rows of different lengths and shared filters; the future fill behind each."""
    monkeypatch.setattr(gpu_prompt_by_fft, "WORKSPACE_BYTES", workspace)
    costs = gpu_prompt_by_fft.fft_costs(torch.device("cpu"))
    assert prompt_length(256, 272, 16, 0, costs) == (512, 15, 32)
    torch.manual_seed(workspace)
    h, u, later = torch.randn(4, 300), torch.randn(3, 12, 256), torch.randn(3, 12, 16)
    lengths = [256, 100, 7]
    cache = FutureFillCache(h, 3, 16, channels=12, plan=Plan(16, (4,)), impl="prompted")
    y = cache.prefill(u, lengths=lengths)
    steps = torch.stack([cache.step(later[..., t]) for t in range(16)], -1)
    for r, n in enumerate(lengths):
        whole = causal_conv(torch.cat([u[r, :, :n], later[r]], -1)[None].double(), h.double())[0]
        assert relative_error(y[r, :, :n], whole[:, :n]) < 1e-6
        assert relative_error(steps[r], whole[:, n:]) < 1e-6


class LiveBytes(TorchDispatchMode):
    """Most bytes of tensors made inside the mode that were alive at once."""

    def __init__(self):
        super().__init__()
        self.live, self.most, self.users, self.paused = 0, 0, Counter(), False

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        if self.paused:
            return made
        given = {x.untyped_storage().data_ptr() for x in tree_leaves(args) if is_tensor(x)}
        for x in tree_leaves(made):
            place = x.untyped_storage().data_ptr() if is_tensor(x) else None
            if place is None or (place in given and not self.users[place]):
                continue  # of the caller
            size = x.untyped_storage().nbytes()
            self.live += size if not self.users[place] else 0
            self.users[place] += 1
            self.most = max(self.most, self.live)
            weakref.finalize(x, self._gone, place, size)
        return made

    def _gone(self, place, size):
        self.users[place] -= 1
        self.live -= size if not self.users[place] else 0


@pytest.mark.parametrize("groups", [64, 4, 1])
@pytest.mark.parametrize("batch", [1, 16])
def test_workspace_that_is_taken(monkeypatch, batch, groups):
    """Never more than it may be, and not more for more rows."""
    monkeypatch.setattr(gpu_prompt_by_fft, "WORKSPACE_BYTES", 1 << 20)
    plan = Plan(256, (16,))
    h = torch.randn(groups, 256)
    cache = FutureFillCache(h, batch, 256, channels=64, plan=plan, impl="reference")
    u = torch.randn(batch, 64, 1000)
    y, held = torch.empty_like(u), torch.empty_like(u)
    everyone = list(range(batch))
    live = LiveBytes()

    def uncounted(kernel):
        """Kernels allocate nothing, what stands in for them does."""

        def call(*arguments):
            live.paused = True
            kernel(*arguments)
            live.paused = False

        return call

    with live:
        gpu_prompt_by_fft.prompt_by_fft(
            *(cache.state, h, u, None, None, y, held, [0] * batch),
            *([1000] * batch, 0, everyone, uncounted(plain_inputs), uncounted(plain_outputs)),
        )
    assert relative_error(y, causal_conv(u.double(), h.double())) < 1e-6
    print(live.most)
    assert 1 << 16 < live.most <= 1 << 20


def test_a_prompt_that_runs_out_of_memory_can_be_repeated(widths, monkeypatch):
    """What was held of earlier calls is as before."""
    caches = [FutureFillCache(torch.ones(3, 9), 2, 9, impl=i) for i in ("prompted", "reference")]
    first, second = torch.randn(2, 3, 5), torch.randn(2, 3, 6)
    for cache in caches:
        cache.prefill(first)
    irfft = torch.fft.irfft

    def fail(*arguments, **options):
        raise torch.OutOfMemoryError("no memory")

    monkeypatch.setattr(torch.fft, "irfft", fail)
    with pytest.raises(torch.OutOfMemoryError):
        caches[0].prefill(second)
    monkeypatch.setattr(torch.fft, "irfft", irfft)
    got, expected = (cache.prefill(second) for cache in caches)
    assert relative_error(got, expected) < 1e-6


@pytest.mark.parametrize("batch", [1, 7, 64])
@pytest.mark.parametrize("channels", [8, 1000, 4096])
@pytest.mark.parametrize("n", [64, 1 << 14, 1 << 21])
def test_workspace_is_bounded(n, channels, batch):
    """By the constant, or by the transforms of one row and 8 channels."""
    most, rows = gpu_prompt_by_fft._at_once(n, channels, batch, gpu_prompt_by_fft._ARRAYS)
    taken = 4 * n * most * (gpu_prompt_by_fft._ARRAYS * rows + gpu_prompt_by_fft._FILTER_ARRAYS)
    least = 4 * n * 8 * (gpu_prompt_by_fft._ARRAYS + gpu_prompt_by_fft._FILTER_ARRAYS)
    assert 1 <= rows <= batch
    assert 8 <= most <= max(8, channels)
    assert taken <= max(gpu_prompt_by_fft.WORKSPACE_BYTES, least)


@pytest.mark.parametrize("t", [0, 7, 20])
def test_a_nan_stays_in_its_row_and_channel_and_behind_itself(widths, t):
    torch.manual_seed(t)
    h, u = torch.randn(3, 5), torch.randn(2, 3, 24)
    expected = causal_conv(u, h)
    u[1, 2, t] = float("nan")
    for calls in ([24], [10, 14]):
        cache, found, begin = FutureFillCache(h, 2, 8, plan=Plan(8, (2,)), impl="prompted"), [], 0
        for n in calls:
            found.append(cache.prefill(u[..., begin : begin + n]))
            begin += n
        y = torch.cat(found, -1)
        assert y[1, 2, t : t + 5].isnan().all()
        y[1, 2, t : t + 5] = expected[1, 2, t : t + 5]
        assert relative_error(y, expected) < 1e-6
        finite, left = cache.state.ring[0, :, 0].isfinite(), max(t + 5 - 24, 0)
        assert not finite[1, :left, 2].any()
        finite[1, :left, 2] = True
        assert finite.all()
