"""Runs a call as a CUDA graph capture would see it, without a GPU: every tensor that the call
reaches becomes a fake one on a CUDA device, and ops that a capture refuses, that wait or that bake
a value of the host into the graph raise `CaptureError` with the reason.

Kernels that read the host themselves are not seen: ``Capabilities.capturable`` tells of those.
"""

from __future__ import annotations

import types
from contextlib import ExitStack, contextmanager
from unittest import mock

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

CUDA = torch.device("cuda", 0)
#: Tensors of the package that are on the host wherever the model is.
ON_THE_HOST = ("levels", "_seen")
#: Ops that wait for the device or copy from the host inside, at least for some sizes.
WAITING = ("isin", "multinomial", "unique_consecutive", "unique_dim", "_unique2")

aten = torch.ops.aten


class CaptureError(Exception):
    """A CUDA graph capture would fail here, or bake in what changes."""


class CaptureGuard(TorchDispatchMode):
    """Host tensors run for real; ops on fake CUDA tensors are checked, then faked.

    launches: names of the ops on the device.
    """

    def __init__(self, fake):
        super().__init__()
        self.launches: list[str] = []
        self._fake = fake

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        leaves = tree_leaves((args, kwargs))
        tensors = [x for x in leaves if isinstance(x, Tensor)]
        on_device = [x for x in tensors if isinstance(x, FakeTensor)]
        device = kwargs.get("device")
        target = None if device is None else torch.device(device).type
        if not on_device and target != "cuda":
            return func(*args, **kwargs)
        name = func._schema.name.split("::")[1]
        writes_host = name == "copy_" and not isinstance(args[0], FakeTensor)
        if on_device and (target == "cpu" or writes_host):
            raise CaptureError(f"{func}: a copy to the host, which waits")
        if len(on_device) < len(tensors):
            raise CaptureError(f"{func}: takes a value from the host")
        if torch.Tag.data_dependent_output in func.tags:
            raise CaptureError(f"{func}: a value is read back, which waits")
        if _depends_on_data(func, name, args):
            raise CaptureError(f"{func}: a shape that depends on data, which waits")
        if name in WAITING:
            raise CaptureError(f"{func}: waits inside")
        if any(isinstance(x, torch.Generator) for x in leaves):
            raise CaptureError(f"{func}: draws from a generator that no graph has registered")
        if name != "device":  # what a fake tensor asks itself
            self.launches.append(name)
        with self._fake:
            return func(*args, **kwargs)


def _depends_on_data(func, name, args):
    """Whether the shape of the result does; of an index, whether it is a mask."""
    if name in ("index", "index_put", "index_put_"):
        return any(x is not None and x.dtype in (torch.bool, torch.uint8) for x in args[1])
    return torch.Tag.dynamic_output_shape in func.tags


class _Bindings(TorchFunctionMode):
    """The methods that a torch without CUDA cannot bind to fake CUDA tensors, by their ops."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        leaves = tree_leaves((args, kwargs))
        fake = any(isinstance(x, FakeTensor) for x in leaves)
        to_cuda = func is Tensor.cuda or (
            func in (Tensor.to, torch.tensor, torch.as_tensor)
            and any(isinstance(x, torch.device) and x.type == "cuda" for x in leaves)
        )
        if to_cuda and not fake:
            raise CaptureError(f"{func.__name__}: takes a value from the host")
        if fake and func in _OTHERWISE:
            return _OTHERWISE[func](*args, **kwargs)
        return func(*args, **kwargs)


def _get(x, key):
    """``x[key]`` for numbers, slices, None, ... and tensors."""
    keys = list(key) if isinstance(key, tuple) else [key]
    if Ellipsis in [k for k in keys if not isinstance(k, Tensor)]:
        at = next(i for i, k in enumerate(keys) if k is Ellipsis)
        given = sum(k is not None for k in keys) - 1
        keys[at : at + 1] = [slice(None)] * (x.ndim - given)
    dim, tensors = 0, {}
    for k in keys:
        if k is None:
            x, dim = x.unsqueeze(dim), dim + 1
        elif isinstance(k, slice):
            x, dim = aten.slice(x, dim, k.start, k.stop, k.step or 1), dim + 1
        elif isinstance(k, int):
            x = x.select(dim, k)
        elif isinstance(k, Tensor):
            tensors[dim], dim = k, dim + 1
        else:
            raise CaptureError(f"an index {k!r}: takes a value from the host")
    if not tensors:
        return x
    return aten.index(x, [tensors.get(d) for d in range(max(tensors) + 1)])


def _set(x, key, value):
    """``x[key] = value`` for keys that make a view."""
    place = _get(x, key)
    if isinstance(value, Tensor):
        aten.copy_(place, value)
    else:
        place.fill_(value)


_OTHERWISE = {
    Tensor.__getitem__: _get,
    Tensor.__setitem__: _set,
    Tensor.copy_: lambda x, source, non_blocking=False: aten.copy_(x, source, non_blocking),
    Tensor.__invert__: aten.bitwise_not,
    Tensor.contiguous: lambda x: x if x.is_contiguous() else x.clone(
        memory_format=torch.contiguous_format
    ),
    Tensor.item: aten._local_scalar_dense,
    Tensor.nonzero: aten.nonzero,
    torch.nonzero: aten.nonzero,
}  # fmt: skip


class _Swap:
    """Puts fake CUDA tensors in the place of those that something reaches, and back."""

    def __init__(self, fake):
        self._fake = fake
        self._new: dict[int, Tensor] = {}
        self._seen: set[int] = set()
        self._back: list[tuple] = []

    def undo(self):
        for put, value in reversed(self._back):
            put(value)

    def visit(self, x):
        """Everything that an object of the package, a module, a container or a closure holds."""
        if id(x) in self._seen:
            return
        self._seen.add(id(x))
        if isinstance(x, types.FunctionType):
            for cell in x.__closure__ or ():
                self._place(
                    cell.cell_contents, lambda v, cell=cell: setattr(cell, "cell_contents", v)
                )
        elif isinstance(x, types.MethodType):
            self.visit(x.__self__)
        elif isinstance(x, dict):
            for key, value in list(x.items()):
                self.visit(key)
                self._place(value, lambda v, key=key: x.__setitem__(key, v))
        elif isinstance(x, list):
            for i, value in enumerate(x):
                self._place(value, lambda v, i=i: x.__setitem__(i, v))
        elif isinstance(x, tuple):
            for value in x:
                self.visit(value)
        elif isinstance(x, nn.Module) or type(x).__module__.startswith(("futurefill", "tests")):
            for name, value in list(getattr(x, "__dict__", {}).items()):
                if name not in ON_THE_HOST:
                    self._place(value, lambda v, name=name: x.__dict__.__setitem__(name, v))

    def _place(self, value, put):
        """put: writes to the place where the value stands."""
        if isinstance(value, Tensor):
            if id(value) not in self._new:
                with self._fake:
                    new = torch.empty_strided(
                        value.shape, value.stride(), dtype=value.dtype, device=CUDA
                    )
                    if isinstance(value, nn.Parameter):
                        new = nn.Parameter(new, requires_grad=False)
                self._new[id(value)] = new
            self._back.append((put, value))
            put(self._new[id(value)])
        elif isinstance(value, torch.device):
            self._back.append((put, value))
            put(CUDA)
        else:
            self.visit(value)


def _waits(name):
    def refuse(*args, **kwargs):
        raise CaptureError(f"torch.cuda.{name} waits for the device")

    return mock.patch(f"torch.cuda.{name}", refuse)


@contextmanager
def guarded(*roots):
    """Inside, what the roots reach is on a fake CUDA device, under a `CaptureGuard`."""
    fake = FakeTensorMode()
    swap, guard = _Swap(fake), CaptureGuard(fake)
    try:
        for root in roots:
            swap.visit(root)
        with ExitStack() as stack:
            for name in ("synchronize", "Event.synchronize", "Stream.synchronize"):
                stack.enter_context(_waits(name))
            stack.enter_context(guard)
            stack.enter_context(_Bindings())
            yield guard
    finally:
        swap.undo()


def check_capture(call):
    """Run a call once as a capture would; returns the names of the ops that were launched.

    What the call writes to tensors is not written. CaptureError where a capture would fail.
    """
    with torch.no_grad(), guarded(call) as guard:
        call()
    return guard.launches
