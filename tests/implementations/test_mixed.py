"""Several implementations in one stream: what each part is given to."""

from __future__ import annotations

from types import SimpleNamespace

import torch

import futurefill_kernels as ff
from futurefill_kernels.implementations import cuda, cuda_early, select, triton
from futurefill_kernels.implementations.base import PromptKernels
from futurefill_kernels.implementations.mixed import Mixed, exact_name
from futurefill_kernels.planning.workload import Workload
from futurefill_kernels.state.layout import Layout
from futurefill_kernels.state.spectra import tiled_spectra


def test_each_levels_spectra_are_in_the_order_of_its_fills():
    plan = ff.Plan(3 * 8192, (16, 4096, 8192))
    h = torch.randn(24, 3 * 8192)
    layout = Layout.padded(24, 24, plan.length)
    plain = tiled_spectra(h, plan, layout, torch.float32)
    units = cuda.make_spectra(h, plan, layout, torch.float32)
    mixed = Mixed(cuda, cuda, (triton, triton, cuda))
    found = mixed.make_spectra(h, plan, layout, torch.float32)
    last = plan.levels[-1].spectra_offset
    assert torch.equal(found[:, :last], plain[:, :last])
    assert torch.equal(found[:, last:], units[:, last:])
    assert not torch.equal(units, plain)


def test_streams_whose_levels_are_arranged_alike_share_what_is_prepared():
    one = Mixed(cuda, cuda, (triton, cuda)).make_spectra
    assert one is Mixed(triton, cuda, (triton, cuda)).make_spectra
    assert one is not Mixed(cuda, cuda, (cuda, triton)).make_spectra


def test_it_has_the_names_of_its_parts_and_keeps_what_all_of_them_do():
    mixed = Mixed(triton, cuda, (triton, cuda_early))
    assert mixed.capabilities.name == "triton+cuda+cuda_early"
    assert mixed.capabilities.kind == "cuda"
    assert mixed.capabilities.capturable
    assert mixed.capabilities.spectra_dtypes == mixed.capabilities.ring_dtypes == ()
    assert Mixed(triton, triton, (triton,)).capabilities == triton.capabilities
    assert exact_name(mixed) == "triton;cuda;triton,cuda_early"
    assert exact_name(cuda) == "cuda"
    several = Mixed(cuda, cuda, (cuda,), ((512, triton), (4096, cuda)))
    assert exact_name(several) == "cuda;cuda,512:triton,4096:cuda;cuda"
    assert several.capabilities.name == "cuda+triton"


def test_prompts_are_done_by_their_length():
    called = []

    def kernels(name):
        return PromptKernels(
            lambda u, *rest: called.append((name, "inputs", *rest)),
            lambda z, u, *rest: called.append((name, "outputs", *rest)),
        )

    short, long, none = (
        SimpleNamespace(prompt_kernels=lambda made=made: made)
        for made in (kernels("short"), kernels("long"), None)
    )
    found = Mixed(cuda, short, (), ((64, long),)).prompt_kernels()
    for positions in (63, 64, 1000):
        u = torch.zeros(1, 1, positions)
        found.inputs(u, "x")
        found.outputs("z", u, "y")
    assert [name for name, *_ in called] == ["short"] * 2 + ["long"] * 4
    assert called[:2] == [("short", "inputs", "x"), ("short", "outputs", "y")]
    assert Mixed(cuda, none, (), ((64, long),)).prompt_kernels() is None
    assert Mixed(cuda, short, ()).prompt_kernels() is short.prompt_kernels()


def test_reasons_name_their_part():
    reasons = Mixed(cuda, triton, (triton,)).cannot_run(
        torch.device("cpu"), torch.float64, ff.Plan(64, (16, 32))
    )
    assert "cuda computes in float32, not in float64" in reasons
    assert "triton computes in float32, not in float64" in reasons
    assert reasons[-1] == "fills 1 levels, the plan has 2"


def test_auto_takes_for_each_part_what_was_fastest():
    info = ff.DeviceInfo.named("h200")
    plan, workload = ff.Plan(16384, (16, 256, 8192)), Workload(16384, 16384, 4, 1, 1, 4)
    mixed = select.fastest_parts(plan, workload, info)
    assert mixed == Mixed(cuda, cuda, (triton, triton, cuda), ((65536, triton),))
    assert mixed.capabilities.name == "cuda+triton"
    alone = Workload(64, 64, 4, 1, 1, 4, impls=("triton",))
    assert select.fastest_parts(ff.Plan(64, (16,)), alone, info) is triton
