"""Batches on their way to a device, the next one while it computes with the one before."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import torch
from torch import Tensor

Batch = tuple[Tensor, Tensor]
Item = TypeVar("Item")
Sent = TypeVar("Sent")
Received = TypeVar("Received")
# Of a device's free memory, the share that images may take for good.
_RESIDENT_SHARE = 0.25


def sent_ahead(batches: Iterable[Batch], device: torch.device) -> Iterator[Batch]:
    """Yield batches on a device; on the CPU, and where they are there already, as they come."""
    return put_together_ahead(batches, device, lambda batch: batch)


def put_together_ahead(
    items: Iterable[Item], device: torch.device, put_together: Callable[[Item], Batch]
) -> Iterator[Batch]:
    """Yield what ``put_together`` makes of each item, on a device.

    What it computes on a CUDA device runs on the stream that copies the rest there. For other
    devices batches come as they are made.
    """
    if device.type != "cuda":
        return map(put_together, items)
    stream = torch.cuda.Stream(device)

    def send(item: Item) -> tuple[Batch, torch.cuda.Event]:
        # The next batch is copied beside the kernels of this one, which only pinned memory allows.
        with torch.cuda.stream(stream):
            images, labels = (
                tensor if tensor.is_cuda else tensor.pin_memory().to(device, non_blocking=True)
                for tensor in put_together(item)
            )
            return (images, labels), stream.record_event()

    def receive(sent: tuple[Batch, torch.cuda.Event]) -> Batch:
        batch, copied = sent
        current = torch.cuda.current_stream(device)
        current.wait_event(copied)
        for tensor in batch:
            tensor.record_stream(current)
        return batch

    return one_ahead(items, send, receive)


def one_ahead(
    items: Iterable[Item], send: Callable[[Item], Sent], receive: Callable[[Sent], Received]
) -> Iterator[Received]:
    """Yield ``receive(send(item))`` of each item, the next one sent before an item is received.

    What ``items`` raises comes after the items before it, as if none were sent ahead.
    """
    waiting: list[Sent] = []
    try:
        for item in items:
            waiting.append(send(item))
            if len(waiting) > 1:
                yield receive(waiting.pop(0))
    except Exception:
        yield from map(receive, waiting)
        raise
    yield from map(receive, waiting)


def has_room(device: torch.device, size: int) -> bool:
    """Whether ``size`` bytes of images may stay on a device for good."""
    if device.type != "cuda":
        return True
    free, _ = torch.cuda.mem_get_info(device)
    return size <= _RESIDENT_SHARE * free
