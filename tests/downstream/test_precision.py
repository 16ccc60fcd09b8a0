"""auto takes bf16 where the hardware multiplies it; asked for elsewhere it is granted with a warning."""

from __future__ import annotations

import logging

import pytest
import torch

from msp_ds.downstream import precision
from msp_ds.downstream.precision import choose_precision, multiplies_bf16
from msp_ds.errors import InputError

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("choice", "native", "wanted", "warnings"),
    [
        ("auto", False, "fp32", 0),
        ("auto", True, "bf16", 0),
        ("fp32", True, "fp32", 0),
        ("bf16", True, "bf16", 0),
        ("bf16", False, "bf16", 1),
    ],
)
def test_the_choice(
    choice: precision.PrecisionChoice,
    native: bool,
    wanted: str,
    warnings: int,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(precision, "multiplies_bf16", lambda device: native)
    with caplog.at_level(logging.WARNING):
        assert choose_precision(choice, CPU) == wanted
    assert len(caplog.records) == warnings


def test_another_precision_is_refused() -> None:
    with pytest.raises(InputError, match="no precision 'fp16'; choose auto, fp32 or bf16"):
        choose_precision("fp16", CPU)  # type: ignore[arg-type]


@pytest.mark.parametrize(("capability", "native"), [((7, 5), False), ((8, 0), True), ((9, 0), True)])
def test_gpus_multiply_bf16_from_ampere_on(
    capability: tuple[int, int], native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert multiplies_bf16(torch.device("cuda", 0)) is native


def test_a_torch_that_cannot_tell_of_amx_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.cpu, "_is_amx_tile_supported", raising=False)
    assert not multiplies_bf16(CPU)
