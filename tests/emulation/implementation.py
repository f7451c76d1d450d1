"""The CUDA kernels as an implementation on CPU tensors, which the emulator runs."""

from __future__ import annotations

import dataclasses
from functools import partial
from types import SimpleNamespace

from futurefill_kernels.implementations import cuda
from futurefill_kernels.implementations.base import PromptKernels
from futurefill_kernels.implementations.gpu_made_spectra import made_fill
from tests.emulation import cuda_rig


def emulated_implementation() -> SimpleNamespace:
    """Named ``"emulated"``; ``launches`` says what ran."""
    launches: list[str] = []

    def make_history(state):
        def history(rows):
            launches.append("history")
            cuda_rig.run_history(state, rows, checks=False)

        return history

    def make_step(state):
        def step(u, pre, post, y, rows, layer, advance):
            launches.append("step")
            cuda_rig.run_apply(state, u, pre, post, y, rows, layer, advance, checks=False)

        return step

    def has_kernels(state, level):
        return cuda.capabilities.has_kernels(level.transform, state.layout.lanes)

    def fill(state, level, rows):
        launches.append(f"fill {level.block}")
        if level.made:
            made_fill(state, level, rows, implementation)
        elif has_kernels(state, level):
            cuda_rig.run_level(state, level, rows, checks=False)
        else:
            cuda.fill(state, level, rows)

    def fill_share(state, level, rows, begin, end):
        first, last = state.layout.channels_of_share(level, begin, end)
        if not has_kernels(state, level):
            cuda.fill_share(state, level, rows, begin, end)
        elif first < last:
            launches.append(f"share {level.block}")
            cuda_rig.run_level(state, level, rows, checks=False, channels=(first, last))

    def prompt_kernels():
        launches.append("prompt")
        kernels = cuda_rig.run_inputs, cuda_rig.run_outputs
        return PromptKernels(*(partial(kernel, checks=False) for kernel in kernels))

    implementation = SimpleNamespace(
        capabilities=dataclasses.replace(cuda.capabilities, name="emulated"),
        cannot_run=lambda device, dtype, plan: [],
        make_layout=cuda.make_layout,
        make_spectra=cuda.make_spectra,
        arrange_level=cuda.arrange_level,
        make_history=make_history,
        make_due_fills=cuda.make_due_fills,
        scratch_nbytes=cuda.scratch_nbytes,
        reserve_scratch=cuda.reserve_scratch,
        make_step=make_step,
        make_plain_steps=cuda.make_plain_steps,
        make_run=cuda.make_run,
        fill=fill,
        fill_share=fill_share,
        prompt_kernels=prompt_kernels,
        launches=launches,
    )
    return implementation
