"""Memory that is used up."""

from __future__ import annotations

from torch.utils._python_dispatch import TorchDispatchMode


class FullMemory(TorchDispatchMode):
    """Of torch's operations that allocate the one with that number cannot; views can be made.

    left: below 0 when it has been asked for.
    """

    def __init__(self, number=0):
        super().__init__()
        self.left = number

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        if any(each.alias_info is None for each in op._schema.returns):
            self.left -= 1
            if self.left == -1:
                raise MemoryError(str(op))
        return op(*args, **(kwargs or {}))
