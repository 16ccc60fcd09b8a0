"""Batches copied, joined and compared."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from msp_ds.records import Batch


def copied(batch: Batch) -> Batch:
    """The same batch in memory of its own."""
    tensors = {item.name: getattr(batch, item.name) for item in dataclasses.fields(batch) if item.name != "marks"}
    return dataclasses.replace(batch, **{name: tensor.clone() for name, tensor in tensors.items()})


def joined(batches: list[Batch]) -> Batch:
    """Batches one after the other as one."""

    def together(values: list[Any]) -> dict[str, Any]:
        return {
            item.name: torch.cat([getattr(value, item.name) for value in values])
            for item in dataclasses.fields(values[0])
            if item.name != "marks"
        }

    marks = together([batch.marks for batch in batches])
    return dataclasses.replace(batches[0], **together(batches), marks=dataclasses.replace(batches[0].marks, **marks))


def assert_equal(one: Batch, other: Batch) -> None:
    for item in dataclasses.fields(one):
        if item.name == "marks":
            for mark in dataclasses.fields(one.marks):
                assert torch.equal(getattr(one.marks, mark.name), getattr(other.marks, mark.name)), mark.name
        else:
            assert torch.equal(getattr(one, item.name), getattr(other, item.name)), item.name
