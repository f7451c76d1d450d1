"""Compiles a launch of a Triton kernel for a GPU that need not be here."""

from __future__ import annotations

import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from futurefill_kernels.implementations.triton_kernels.launch import Launch
from tests.emulation.counters import Resources

CAPABILITIES = (80, 90, 100, 120)
_POINTERS = {
    torch.float32: "*fp32", torch.bfloat16: "*bf16", torch.float16: "*fp16", torch.int64: "*i64",
    torch.int32: "*i32",
}  # fmt: skip


def _signature(launch: Launch) -> tuple[dict[str, str], dict[Any, Any], dict[Any, Any]]:
    """Types, constants and alignment of the arguments, as Triton's launcher would see them."""
    types: dict[str, str] = {}
    constants: dict[Any, Any] = {}
    attributes: dict[Any, Any] = {}
    values = dict(zip(launch.kernel.arg_names, launch.arguments, strict=False)) | launch.constants
    for i, parameter in enumerate(launch.kernel.params):
        value = values[parameter.name]
        special = not parameter.do_not_specialize
        tensor = isinstance(value, torch.Tensor)
        if parameter.is_constexpr or value is None or (special and not tensor and value == 1):
            types[parameter.name] = "constexpr"
            constants[(i,)] = value
            continue
        types[parameter.name] = _POINTERS[value.dtype] if tensor else "i32"
        aligned = value.data_ptr() if tensor else value
        if special and aligned % 16 == 0:
            attributes[(i,)] = [["tt.divisibility", 16]]
    return types, constants, attributes


def _compiled(launch: Launch, capability: int) -> Any:
    types, constants, attributes = _signature(launch)
    source = ASTSource(launch.kernel, types, constants, attributes)
    target = GPUTarget("cuda", capability, 32)
    return triton.compile(source, target=target, options=launch.options)


def ptx(launch: Launch, capability: int) -> str:
    """The launch's PTX for ``sm_<capability>``."""
    return str(_compiled(launch, capability).asm["ptx"])


class Access(NamedTuple):
    """A load or store of a tensor: its shape, and of every dimension how many values are of a
    thread, threads of a warp and warps of a program, side by side. order: the fastest dimension
    first.
    """

    shape: tuple[int, ...]
    thread: tuple[int, ...]
    warp: tuple[int, ...]
    program: tuple[int, ...]
    order: tuple[int, ...]


def accesses(launch: Launch, capability: int) -> list[Access]:
    """Those of tensors to global memory, as this Triton lays them out for ``sm_<capability>``;
    without vectors that are laid out as a dimension of a larger tensor.
    """
    text = str(_compiled(launch, capability).asm["ttgir"])
    layouts = dict(re.findall(r"(#\w+) = #ttg.blocked<\{(.*)\}>", text))
    found = []
    for line in text.splitlines():
        if re.search(r"\btt\.(load|store|atomic_rmw) .*tensor<", line) and "#ttg.slice" not in line:
            shape, name = re.findall(r"tensor<((?:\d+x)+)!tt.ptr<\w+>, (#\w+)>", line)[-1]
            lists = re.findall(r"= \[(.*?)\]", layouts[name])
            numbers = [tuple(int(n) for n in values.split(",")) for values in lists]
            found.append(Access(tuple(int(n) for n in shape.split("x")[:-1]), *numbers))
    return found


def machine_code(launch: Launch, capability: int) -> str:
    """The launch's disassembled machine code for ``sm_<capability>``."""
    return _inspect("nvdisasm", _compiled(launch, capability), "-c")


def resources(launch: Launch, capability: int) -> Resources:
    """Compile for ``sm_<capability>`` and read the machine code's resource usage."""
    compiled = _compiled(launch, capability)
    usage = _inspect("cuobjdump", compiled, "--dump-resource-usage")
    found = {k: int(v) for k, v in re.findall(r"(REG|STACK|LOCAL):(\d+)", usage)}
    return Resources(
        found["REG"], compiled.metadata.shared, found["STACK"] + found["LOCAL"],
        compiled.metadata.num_warps,
    )  # fmt: skip


def _inspect(tool: str, compiled: Any, option: str) -> str:
    """What a tool that comes with Triton says of the machine code."""
    path = Path(triton.__file__).parent / "backends/nvidia/bin" / tool
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        return subprocess.run(
            [path, option, file.name], capture_output=True, text=True, check=True
        ).stdout
