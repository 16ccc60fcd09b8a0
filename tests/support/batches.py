"""Batches copied, joined and compared."""

from __future__ import annotations

import dataclasses
from collections import ChainMap
from typing import Any

import torch
from torch import Tensor

from msp_ds.records import Batch


def tensors_of(value: Any) -> dict[str, Tensor]:
    """Every tensor of a batch by its name, those of its marks too."""
    parts = {item.name: getattr(value, item.name) for item in dataclasses.fields(value)}
    inner = [tensors_of(part) for part in parts.values() if dataclasses.is_dataclass(part)]
    return {name: part for name, part in parts.items() if isinstance(part, Tensor)} | dict(ChainMap(*inner))


def copied(batch: Batch) -> Batch:
    """The same batch in memory of its own."""
    tensors = {item.name: getattr(batch, item.name) for item in dataclasses.fields(batch) if item.name != "corruption"}
    return dataclasses.replace(batch, **{name: tensor.clone() for name, tensor in tensors.items()})


def joined(batches: list[Batch]) -> Batch:
    """Batches one after the other as one."""

    def together(values: list[Any]) -> dict[str, Any]:
        return {
            item.name: torch.cat([getattr(value, item.name) for value in values])
            for item in dataclasses.fields(values[0])
            if item.name != "corruption"
        }

    corruption = together([batch.corruption for batch in batches])
    return dataclasses.replace(
        batches[0], **together(batches), corruption=dataclasses.replace(batches[0].corruption, **corruption)
    )


def assert_equal(one: Batch, other: Batch) -> None:
    theirs = tensors_of(other)
    for name, tensor in tensors_of(one).items():
        assert torch.equal(tensor, theirs[name]), name
