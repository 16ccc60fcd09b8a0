"""A CPU that stands in for one GPU, as late and as strict as the real one: what is queued there is done when awaited.

Copies without blocking arrive, and read their source, only when their stream gets to them; memory is pinned as torch
does it. What CUDA leaves undefined, or what would make the host wait, is an AssertionError.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from threading import get_ident
from typing import Any

import pytest
import torch
from torch import Tensor

DEVICE = torch.device("cuda", 0)


class OnGpu(Tensor):
    """A tensor that says that it lies on the GPU."""

    device = DEVICE


@dataclass
class Event:
    """A place in the queue of a stream."""

    stream: Stream
    place: int

    def synchronize(self) -> None:
        """The host waits."""
        self.stream.work_off(self.place)


class Stream:
    """Work in its order, which begins only when somebody waits for it."""

    def __init__(self, device: object = None) -> None:
        self.queue: list[Callable[[], object]] = []
        self.done = 0

    def work_off(self, end: int) -> None:
        while self.done < end:
            self.done += 1
            self.queue[self.done - 1]()

    def record_event(self) -> Event:
        return Event(self, len(self.queue))

    def wait_event(self, event: Event) -> None:
        self.queue.append(event.synchronize)

    def synchronize(self) -> None:
        self.work_off(len(self.queue))


def pinned(tensor: Tensor) -> Tensor:
    """What `Tensor.pin_memory` does, on a CPU: memory of the same strides, filled by a copy."""
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype).copy_(tensor)


@dataclass
class FakeGpu:
    """What was asked of the GPU."""

    streams: dict[int, Stream] = field(default_factory=dict)
    """The current one of each thread."""
    used_by: dict[int, Stream] = field(default_factory=dict)
    """By the id of a tensor, the stream that its memory was kept for."""
    devices: list[object] = field(default_factory=list)
    """That threads chose."""
    pinned: dict[int, Tensor] = field(default_factory=dict)
    """By the address of its memory; held, so that no address comes twice."""

    @property
    def stream(self) -> Stream:
        """This thread's."""
        return self.streams.setdefault(get_ident(), Stream())

    def pin(self, tensor: Tensor) -> Tensor:
        if self.is_pinned(tensor) or not tensor.numel():
            return tensor
        return self.hold(pinned(tensor))

    def is_pinned(self, tensor: Tensor) -> bool:
        return tensor.untyped_storage().data_ptr() in self.pinned

    def hold(self, tensor: Tensor) -> Tensor:
        self.pinned[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    def copy_later(self, target: Tensor, source: Tensor) -> Tensor:
        """Nothing right stands in `target` before the stream has got there."""
        copy = torch.Tensor.copy_
        copy(target, ~source if source.dtype == torch.bool else source + 1)
        self.stream.queue.append(lambda: copy(target, source))
        return target


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> FakeGpu:
    """The stand-in takes the place of torch's functions for CUDA."""
    this, empty, to, copy = FakeGpu(), torch.empty, torch.Tensor.to, torch.Tensor.copy_

    def new_empty(*size: Any, pin_memory: bool = False, **how: Any) -> Tensor:
        return this.hold(empty(*size, **how)) if pin_memory else empty(*size, **how)

    def moved(tensor: Tensor, *where: Any, non_blocking: bool = False, **how: Any) -> Tensor:
        if not (where and where[0] == DEVICE):
            assert not non_blocking, "the host may read the copy before it has come"
            return to(tensor, *where, **how)
        if tensor.device == DEVICE:
            return tensor
        assert non_blocking, "the host waits for the copy"
        assert this.is_pinned(tensor) or not tensor.numel(), "the host waits for a copy from memory that is not pinned"
        return this.copy_later(torch.empty_like(tensor), tensor)

    def copied(target: Tensor, source: Tensor, non_blocking: bool = False) -> Tensor:
        return this.copy_later(target, source.as_subclass(Tensor)) if non_blocking else copy(target, source)

    monkeypatch.setattr(torch, "empty", new_empty)
    monkeypatch.setattr(torch.Tensor, "to", moved)
    monkeypatch.setattr(torch.Tensor, "copy_", copied)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: this.pin(tensor))
    monkeypatch.setattr(
        torch.Tensor, "record_stream", lambda tensor, stream: this.used_by.__setitem__(id(tensor), stream)
    )
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: this.stream)
    monkeypatch.setattr(torch.cuda, "set_stream", lambda stream: this.streams.__setitem__(get_ident(), stream))
    monkeypatch.setattr(torch.cuda, "set_device", this.devices.append)
    return this
