"""Nothing depends on torch's default device or dtype, which belong to the caller."""

from __future__ import annotations

import ast
import contextlib
from pathlib import Path

import pytest
import torch
from torch.utils._device import _device_constructors

import futurefill_kernels as ff
from futurefill_kernels.decoding.model_cache import DecodingCache
from futurefill_kernels.decoding.sampling import make_sampler

PACKAGE = Path(ff.__file__).parent
CONSTRUCTORS = {f.__name__ for f in _device_constructors()} | {"Generator"}


def silent_constructors(source: str) -> list[str]:
    """Calls of torch that make a tensor on the default device.

    Parameters of a module are those, as everywhere in torch: ``nn.Parameter(torch.randn(...))``.
    """
    tree = ast.parse(source)
    parameters = {
        id(call)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "nn.Parameter"
        for call in ast.walk(node)
    }
    return [
        f"line {node.lineno}: {ast.unparse(node)}"
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and ast.unparse(node.func).removeprefix("torch.") in CONSTRUCTORS
        and ast.unparse(node.func).startswith("torch.")
        and id(node) not in parameters
        and not any(keyword.arg in ("device", None) for keyword in node.keywords)
        and not (node.func.attr == "Generator" and node.args)  # type: ignore[attr-defined]
    ]


def test_every_tensor_names_its_device():
    assert len(list(PACKAGE.rglob("*.py"))) > 50
    found = {
        str(path.relative_to(PACKAGE)): silent
        for path in PACKAGE.rglob("*.py")
        if (silent := silent_constructors(path.read_text()))
    }
    assert not found
    assert silent_constructors("x = torch.zeros(3)") == ["line 1: torch.zeros(3)"]
    assert not silent_constructors("nn.Parameter(torch.ones(3)); torch.zeros(3, device=d)")


@contextlib.contextmanager
def default_dtype(dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


DEFAULTS = {
    "meta": lambda: torch.device("meta"),
    "float64": lambda: default_dtype(torch.float64),
    "bfloat16": lambda: default_dtype(torch.bfloat16),
}


@pytest.fixture(params=DEFAULTS)
def defaults(request):
    return DEFAULTS[request.param]


def random(*shape, seed=0):
    generator = torch.Generator("cpu").manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float32, device="cpu")


def stream(h, u, impl):
    """Most of what a cache does, with its outputs."""
    plan = ff.Plan(40, (2, 6, 12))
    cache = ff.FutureFillCache([h, h], 2, 40, channels=8, plan=plan, impl=impl, rollback=None)
    found = [cache.prefill(u[..., :9], layer, lengths=[9, 4]) for layer in range(2)]

    def steps(cache, count, rows=None):
        for t in range(count):
            for layer in range(2):
                u_t = u[..., 10 + t] if rows is None else u[rows, :, 10 + t]
                found.append(cache.step(u_t, layer, rows=rows))

    steps(cache, 15)
    steps(cache, 3, rows=[1])
    cache.reorder([1, 0])
    other = cache.clone()
    other.load_state_dict(cache.state_dict())
    other.crop(12)
    steps(other, 6)
    cache.reset([1])
    found += [cache.prefill(u[1:, :, :5], layer, rows=[1]) for layer in range(2)]
    steps(cache, 2)
    return [*found, cache.positions, ff.causal_conv(u, h), ff.future_fill(u, h, 5)]


def test_a_stream(impl, defaults):
    h, u = random(4, 30), random(2, 8, 30, seed=1)
    expected = stream(h, u, impl)
    with defaults():
        found = stream(h, u, impl)
    for x, y in zip(found, expected, strict=True):
        assert x.dtype == y.dtype
        assert torch.equal(x, y)


def test_a_stream_that_is_made_in_inference_mode_goes_on_outside(impl):
    h, u = random(4, 30), random(2, 8, 30, seed=1)
    expected = stream(h, u, impl)
    with torch.inference_mode():
        cache = ff.FutureFillCache(h, 2, 40, channels=8, impl=impl, rollback=None)
        cache.prefill(u[..., :9])
        cache.step(u[..., 9])
        inner = cache.clone()
        saved = cache.state_dict()
    for c in (cache, inner):
        c.reset([1])
        c.reset()
        c.prefill(u[..., :9])
        c.step(u[..., 9])
        c.reorder([1, 0])
        c.crop(0)
        c.reset()
        c.load_state_dict(saved)
        c.step(u[..., 10])
        c.reset()
        y = c.prefill(u[..., :9], lengths=[9, 4])
        assert torch.equal(y[0], expected[0][0])


def test_a_model_s_cache_that_is_made_in_inference_mode_goes_on_outside():
    model, ids = ff.nn.load_model(), torch.tensor([list(b"def f(x"), list(b"import ")])
    with torch.inference_mode():
        cache = DecodingCache(model, 2, 12)
        model(ids, cache=cache)
        model(ids[:, :1], cache=cache)
        caches = [cache, cache.clone()]
    for c in caches:
        with torch.no_grad():
            expected = model(ids[:, :2], cache=c)
            c.reorder([1, 0])
            c.reset([1])
            c.reset()
            model(ids, cache=c)
            model(ids[:, :1], cache=c)
            torch.testing.assert_close(model(ids[:, :2], cache=c), expected)


def test_the_shipped_model(defaults):
    prompt = torch.tensor([list(b"def f(x"), list(b"import ")])
    expected = ff.decode(ff.nn.load_model(), prompt, 12, lengths=[7, 6])
    with defaults():
        model = ff.nn.load_model()
        assert torch.equal(ff.decode(model, prompt, 12, lengths=[7, 6]), expected)
        sampler = make_sampler(0.8, top_k=5, top_p=0.9, seed=3)
        assert ff.decode(model, prompt, 3, sampler=sampler).device == prompt.device


def test_filters_alone(defaults):
    h, prompt = random(4, 30), random(2, 4, 7, seed=1)
    expected = ff.decode(h, prompt, 9)
    with defaults():
        assert torch.equal(ff.decode(h, prompt, 9), expected)


@pytest.mark.parametrize(
    "make", [ff.nn.Hyena, ff.nn.LongConv, ff.nn.STU, lambda d, n: ff.nn.STU(d, n, tensorised=False)]
)
def test_modules_are_made_by_the_defaults(make):
    """Parameters and buffers, as every module of torch, and together."""
    with torch.device("meta"):
        made = make(4, 32)
        assert {x.device.type for x in [*made.parameters(), *made.buffers()]} == {"meta"}
    with default_dtype(torch.float64):
        made = make(4, 32)
        assert {x.dtype for x in [*made.parameters(), *made.buffers()]} == {torch.float64}
        x = random(1, 9, 4).double()
        with torch.no_grad():
            assert torch.allclose(made(x, cache=DecodingCache(made, 1, 8)), made(x))
