"""Tokens reach the host by copies that are waited for one by one."""

from __future__ import annotations

import torch

from futurefill_kernels.decoding.results import Results


class Event:
    """Copies of a device that is late: they happen when somebody waits for them."""

    def __init__(self, queue):
        self.queue = queue

    def record(self):
        self.queue.append(self)

    def synchronize(self):
        while self in self.queue:
            work = self.queue.pop(0)
            if callable(work):
                work()


def test_two_copies_are_under_way(monkeypatch):
    queue = []
    empty, copy_ = torch.empty, torch.Tensor.copy_

    def pinned(*shape, pin_memory, **options):
        assert pin_memory
        return empty(*shape, **options).fill_(-1)

    def late(target, source, non_blocking):
        assert non_blocking
        value = source.clone()  # the stream runs in order
        queue.append(lambda: copy_(target, value))

    monkeypatch.setattr(torch, "empty", pinned)
    monkeypatch.setattr(torch.Tensor, "copy_", late)
    monkeypatch.setattr(torch.cuda, "Event", lambda: Event(queue))
    stored = torch.arange(12).view(6, 2)
    results = Results(stored, cuda=True)
    results.send(0)
    for index in range(1, 6):
        results.send(index)
        assert results.receive(index - 1).tolist() == stored[index - 1].tolist()
        assert len(queue) == 2  # the newer copy and its event
    assert results.receive(5).tolist() == [10, 11]
    assert not queue


def test_on_the_host_nothing_is_copied():
    stored = torch.arange(12).view(6, 2)
    results = Results(stored, cuda=False)
    results.send(3)
    assert results.receive(3).ctypes.data == stored[3].data_ptr()
