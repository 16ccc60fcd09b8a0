"""Grades are computed in fp32 on every machine; bf16 is used on request."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch

from msp_ds.cli.grading_commands import EvaluationOptions
from msp_ds.evaluation import precision
from msp_ds.evaluation.precision import multiplies_bf16, warn_if_slow
from msp_ds.evaluation.retrieval_evaluation import RetrievalPlan

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("chosen", "native", "warnings"), [("fp32", False, 0), ("fp32", True, 0), ("bf16", True, 0), ("bf16", False, 1)]
)
def test_bf16_is_granted_everywhere_with_a_warning_where_it_is_slow(
    chosen: precision.Precision,
    native: bool,
    warnings: int,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(precision, "multiplies_bf16", lambda device: native)
    with caplog.at_level(logging.WARNING):
        warn_if_slow(chosen, CPU)
    assert len(caplog.records) == warnings


def test_grades_are_in_fp32_unless_bf16_is_requested() -> None:
    assert RetrievalPlan().precision == "fp32"
    assert EvaluationOptions(checkpoint=Path("run")).precision is None  # RetrievalPlan's


@pytest.mark.parametrize(("capability", "native"), [((7, 5), False), ((8, 0), True), ((9, 0), True)])
def test_gpus_multiply_bf16_from_ampere_on(
    capability: tuple[int, int], native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert multiplies_bf16(torch.device("cuda", 0)) is native


def test_a_torch_that_cannot_tell_of_amx_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.cpu, "_is_amx_tile_supported", raising=False)
    assert not multiplies_bf16(CPU)
