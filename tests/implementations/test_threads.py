"""Worker threads: equal results for every count, fork, several Python threads, limits."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time

import pytest
import torch

import futurefill_kernels as ff
from futurefill_kernels import native
from futurefill_kernels.__main__ import main
from tests.cache.snapshot import snapshot
from tests.oracles import relative_error

pytestmark = pytest.mark.skipif(
    native.cpu_unavailable_reason() is not None,
    reason=f"no CPU kernels: {native.cpu_unavailable_reason()}",
)

LENGTH, CHANNELS = 512, 300


@pytest.fixture(autouse=True)
def _restore_threads():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def stream(seed: int) -> tuple[ff.FutureFillCache, torch.Tensor]:
    """Two layers whose fills are worth several threads, and inputs (N, B, D)."""
    generator = torch.Generator().manual_seed(seed)
    h = torch.randn(CHANNELS, LENGTH, generator=generator) / LENGTH**0.5
    u = torch.randn(LENGTH, 2, CHANNELS, generator=generator)
    cache = ff.FutureFillCache(
        [h, h.flip(0)], 2, LENGTH, impl="cpu", plan=ff.Plan(LENGTH, (16, 64, 256))
    )
    return cache, u


def outputs_of(cache: ff.FutureFillCache, u: torch.Tensor) -> list[torch.Tensor]:
    return [cache.step(cache.step(u_t), layer=1) for u_t in u]


def generation(cache: ff.FutureFillCache, u: torch.Tensor) -> torch.Tensor:
    """All outputs (N, B, D), from a clone: of spectra that torch makes it promises no bits."""
    return torch.stack(outputs_of(cache.clone(), u))


def test_every_thread_count_gives_equal_outputs():
    outputs, prepared = [], stream(0)
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        outputs.append(generation(*prepared))
    assert torch.isfinite(outputs[0]).all()
    assert torch.equal(outputs[0], outputs[1])
    assert torch.equal(outputs[0], outputs[2])


def block_stream(kind: str) -> tuple[ff.FutureFillCache, list[torch.Tensor]]:
    """One layer, rows at 3 and 8, and a block's u, pre and post (2, D, 130).

    wide: of more groups of channels than threads.
    """
    generator = torch.Generator().manual_seed(3)

    def randn(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    plan = ff.Plan(LENGTH, (8, 32, 64, 256), slack_from=64 if kind == "slack" else None)
    half = torch.bfloat16 if kind == "half state" else None
    dtype = torch.bfloat16 if kind == "bfloat16" else torch.float32
    channels = 1000 if kind == "wide" else CHANNELS
    h = randn(channels, LENGTH) / LENGTH**0.5
    rollback = 0 if kind == "slack" else 20
    cache = ff.FutureFillCache(
        h.to(dtype), 2, LENGTH, impl="cpu", plan=plan, state_dtype=half, rollback=rollback
    )
    for t in range(8):
        rows = torch.tensor([0, 1] if t < 3 else [1])
        cache.step(randn(len(rows), channels).to(dtype), rows=rows)
    block = [randn(2, channels, 130).to(dtype) for _ in range(3)]
    if kind == "tokens together":
        block = [x.permute(2, 0, 1).contiguous().permute(1, 2, 0) for x in block]
    return cache, block


KINDS = ["float32", "wide", "bfloat16", "tokens together", "half state", "slack"]


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_blocks_have_the_bits_of_steps_on_every_number_of_threads(kind, threads):
    cache, block = block_stream(kind)
    torch.set_num_threads(1)
    other = cache.clone()
    expected = [other.step(u, pre=pre, post=post) for u, pre, post in zip(*(
        x.unbind(2) for x in block), strict=True)]  # fmt: skip
    torch.set_num_threads(threads)
    y = cache.run(block[0], pre=block[1], post=block[2])
    assert torch.equal(y, torch.stack(expected, 2))
    assert all(map(torch.equal, snapshot(cache), snapshot(other)))
    if kind != "slack":
        cache.crop([120, 119])
        other.crop([120, 119])
    assert all(map(torch.equal, snapshot(cache), snapshot(other)))


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("next_input", ["identity", "relu"])
@pytest.mark.parametrize("kind", ["wide", "bfloat16", "half state"])
def test_tokens_that_feed_on_themselves_on_every_number_of_threads(kind, next_input, threads):
    cache, (u, *_) = block_stream(kind)
    torch.set_num_threads(1)
    other, token, expected = cache.clone(), u[..., 0], []
    for _ in range(130):
        token = other.step(token)
        token = token.relu() if next_input == "relu" else token
        expected.append(token)
    torch.set_num_threads(threads)
    assert torch.equal(cache.generate(u[..., 0], 130, next_input), torch.stack(expected, 2))
    assert all(map(torch.equal, snapshot(cache), snapshot(other)))


WORKERS = """
import os, sys, torch
import futurefill_kernels as ff
from futurefill_kernels import native
torch.set_num_threads(2)

def workers(call):
    before = len(os.listdir("/proc/self/task"))
    call()
    return len(os.listdir("/proc/self/task")) - before

def threads(channels):
    if sys.argv[1] == "step":
        return native.step_threads(1, channels, 16, 2)
    return native.fill_threads(1, 1, channels, 8, 2)

lanes = native.cpu_lanes(torch.float32)
channels = next(c for c in range(lanes, 10000, lanes) if threads(c) == 2)
sizes = (16,) if sys.argv[1] == "step" else (2, 8)
for count, expected in ((channels - lanes, 0), (channels, 1)):
    cache = ff.FutureFillCache(
        torch.ones(count, 16) / 16, 1, 16, impl="cpu", plan=ff.Plan(16, sizes)
    )
    u = torch.ones(1, count)
    found = workers(lambda: [cache.step(u) for _ in range(16)])
    assert found == expected, (count, found, expected)
"""


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="no /proc to count threads in")
@pytest.mark.parametrize("work", ["step", "fill"])
def test_plans_count_the_threads_that_the_engine_uses(work):
    environment = {k: v for k, v in os.environ.items() if k != "FUTUREFILL_NUM_THREADS"}
    done = subprocess.run(
        [sys.executable, "-c", WORKERS, work], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_child_makes_its_own_workers():
    torch.set_num_threads(3)
    cache, u = stream(1)
    copy = cache.clone()
    expected = outputs_of(cache, u)  # the workers exist before the fork
    child = os.fork()
    if child == 0:  # only steps: torch's own parallel functions hang in a forked child
        same = all(map(torch.equal, outputs_of(copy, u), expected))
        os._exit(0 if same else 1)
    deadline = time.monotonic() + 60
    finished, status = os.waitpid(child, os.WNOHANG)
    while not finished and time.monotonic() < deadline:
        time.sleep(0.02)
        finished, status = os.waitpid(child, os.WNOHANG)
    if not finished:
        os.kill(child, 9)
        os.waitpid(child, 0)
    assert finished, "the child hangs"
    assert os.waitstatus_to_exitcode(status) == 0
    assert all(map(torch.equal, outputs_of(copy, u), expected))


def test_caches_in_several_python_threads():
    torch.set_num_threads(2)
    prepared = [stream(seed) for seed in range(3)]
    expected = [generation(*each) for each in prepared]
    found: dict[int, torch.Tensor] = {}
    anew: dict[int, torch.Tensor] = {}

    def run(seed: int) -> None:
        torch.set_num_threads(2)  # torch counts per thread
        found[seed] = generation(*prepared[seed])
        anew[seed] = generation(*stream(seed))

    threads = [threading.Thread(target=run, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed in range(3):
        assert torch.equal(found[seed], expected[seed])
        assert relative_error(anew[seed], expected[seed]) < 1e-6


def test_idle_workers_sleep():
    torch.set_num_threads(3)
    generation(*stream(2))
    time.sleep(0.05)
    before = time.process_time()
    time.sleep(0.3)
    assert time.process_time() - before < 0.1


NO_MEMORY_FOR_STACKS = """
import os, resource, torch
import futurefill_kernels as ff
from tests.implementations.test_threads import outputs_of, stream

def tasks():
    return len(os.listdir("/proc/self/task"))

torch.set_num_threads(1)
cache, u = stream(0)
copy = cache.clone()
expected = outputs_of(cache, u)
places = [torch.empty_like(expected[0]) for _ in u]
torch.set_num_threads(2)
before = tasks()
with open("/proc/self/statm") as sizes:
    room = int(sizes.read().split()[0]) * os.sysconf("SC_PAGE_SIZE") + 2**22
resource.setrlimit(resource.RLIMIT_AS, (room, room))  # a thread's stack takes 8 MB
for u_t, place in zip(u, places):
    copy.step(copy.step(u_t), layer=1, out=place)
assert tasks() == before
assert all(map(torch.equal, places, expected))
copy.reorder([1, 0])
assert tasks() == before
"""


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="no /proc to count threads in")
def test_a_system_that_starts_no_threads_computes_on_its_own():
    environment = {k: v for k, v in os.environ.items() if k != "FUTUREFILL_NUM_THREADS"}
    code = [sys.executable, "-c", NO_MEMORY_FOR_STACKS]
    done = subprocess.run(code, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("value", ["0", "two"])
def test_bad_thread_counts_are_refused(value):
    make = "ff.FutureFillCache(torch.ones(4, 8), 1, 8, impl='cpu')"
    code = f"import torch, futurefill_kernels as ff; {make}"
    result = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "FUTUREFILL_NUM_THREADS": value},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 1
    assert f"FUTUREFILL_NUM_THREADS: expected a number of at least 1, got '{value}'" in (
        result.stderr
    )


@pytest.mark.parametrize("value", ["0", "-1"])
def test_the_command_refuses_thread_counts_below_one(value, capsys):
    assert main(["generate", "--tokens", "1", "--threads", value]) == 2
    assert f"expected --threads >= 1, got {value}" in capsys.readouterr().err
