"""What every implementation owes to torch on its device: ops, compilation, graphs, whole models.

Streams against the parallel convolution are in tests/cache. Here too the CPU's implementations do
what is no matter of CUDA.
"""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

import futurefill_kernels as ff
from tests.oracles import relative_error

PLAN = ff.Plan(60, (4, 8, 24), slack_from=8)


class Calls(TorchDispatchMode):
    """One call of each of the package's in-place ops, with copies of its arguments before it."""

    def __init__(self):
        super().__init__()
        self.found = {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        ours = function.namespace == "futurefill_kernels" and not function._schema.returns
        if ours and function not in self.found:
            self.found[function] = tree_map(
                lambda x: x.clone() if isinstance(x, torch.Tensor) else x, args
            )
        return function(*args, **(kwargs or {}))


def make(impl, layers=2, length=60, plan=PLAN, **options):
    torch.manual_seed(0)
    h = [torch.randn(8, length) / 8 for _ in range(layers)]
    return h, ff.FutureFillCache(h, 2, length, plan=plan, impl=impl, **options)


@torch.no_grad()
@pytest.mark.parametrize(
    ("plan", "state_dtype"), [(PLAN, torch.float32), (ff.Plan(60, (4, 8, 24)), torch.bfloat16)]
)
def test_opcheck_of_every_op_that_a_stream_calls(impl, plan, state_dtype):
    if impl == "reference":
        pytest.skip("plain torch has no ops of its own")
    _, cache = make(impl, plan=plan, state_dtype=state_dtype)
    calls, u = Calls(), torch.randn(2, 8)
    with calls:
        for width in (5, 70, 3):  # the last one continues what is longer than itself
            for layer in range(2):
                cache.prefill(torch.randn(2, 8, width), layer, lengths=[width, 3])
        for t in range(26):
            rows = [1, -1] if t == 25 else None
            for layer in range(2):
                cache.step(u, layer, rows=rows)
            cache.launch_fills()
    assert calls.found
    for op, arguments in calls.found.items():
        torch.library.opcheck(op, arguments)


@torch.no_grad()
def test_a_compiled_step_is_the_step(impl):
    if impl == "reference":
        pytest.skip("plain torch reads positions on the host")
    (h,), cache = make(impl, layers=1)

    def step(x):  # with out: conftest's empty_like is not traced
        return 2 * cache.step(x, out=torch.zeros_like(x))

    double = torch.compile(step, backend="eager", fullgraph=True)
    u = torch.randn(2, 8, 30)
    y = torch.stack([double(u[..., t].contiguous()) for t in range(30)], -1)
    assert relative_error(y, 2 * ff.causal_conv(u.double(), h.double())) < 1e-6


@torch.no_grad()
@pytest.mark.parametrize(("state_dtype", "limit"), [(torch.float32, 2e-6), (torch.float16, 2e-3)])
def test_a_replayed_step_is_the_step(impl, device, state_dtype, limit):
    """One graph for every token; the fills are launched behind it."""
    if device.type != "cuda" or impl == "reference":
        pytest.skip("CUDA graphs need a device, and positions that stay on it")
    plan = ff.Plan(60, (4, 8, 24), slack_from=8 if state_dtype == torch.float32 else None)
    h, cache = make(impl, plan=plan, state_dtype=state_dtype)
    u, y = torch.zeros(2, 8), torch.zeros(2, 8)
    whole = torch.randn(2, 8, 60)
    expected = ff.causal_conv(ff.causal_conv(whole.double(), h[0].double()), h[1].double())
    found = []
    for t in range(4):  # a firing too, so that every kernel has been loaded
        found.append(cache.step(cache.step(whole[..., t].contiguous(), 0), 1))
    graph = torch.cuda.CUDAGraph()
    cache.begin_token()
    with torch.cuda.graph(graph), cache.capture():
        cache.step(cache.step(u, 0), 1, out=y)
    for t in range(4, 60):
        if t > 4:
            cache.begin_token()
        u.copy_(whole[..., t])
        graph.replay()
        cache.finish_token()
        found.append(y.clone())
    assert relative_error(torch.stack(found, -1), expected) < limit


@pytest.mark.parametrize("batch", [1, 3])
def test_the_shipped_model_writes_what_the_cpu_writes(device, batch):
    """Greedy, ragged prompts; on a GPU the tokens come from a graph."""
    model = ff.nn.load_model()
    texts = [b"import sys\n\ndef main(", b"class Node:\n", b"for i in "][:batch]
    prompts = [torch.tensor(list(text), device="cpu") for text in texts]
    expected = ff.decode(model, prompts, 40, impl="reference")
    model = model.to(device)
    found = ff.decode(model, [p.to(device) for p in prompts], 40)
    assert torch.equal(found.cpu(), expected)
