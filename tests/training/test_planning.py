"""The flags of fine-tuning say where it starts and on how much."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from msp_ds.errors import InputError
from msp_ds.training.planning import fine_tuning_flags

ALONE: dict[str, Any] = {"init": Path("runs/tps"), "from_scratch": False, "few_shot": None, "subset": None}


def flags(**changes: Any) -> dict[str, Any]:
    return fine_tuning_flags("vqa", **{**ALONE, **changes}, shards="shards")


def test_a_few_shots_are_that_many_pairs() -> None:
    assert flags() == {"curriculum": "vqa", "init": "runs/tps"}
    assert flags(few_shot=64) == {"curriculum": "vqa", "init": "runs/tps", "max_pairs": 64}
    assert flags(init=None, from_scratch=True) == {"curriculum": "vqa"}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"init": None}, "--init RUN, or --from-scratch"),
        ({"from_scratch": True}, "--init RUN, or --from-scratch"),
        ({"few_shot": 64, "subset": 0.1}, "give one of the two"),
        ({"few_shot": 0}, "--few-shot 0 leaves no question to train on"),
        ({"subset": 0.0}, "--subset 0.0 is no share"),
        ({"subset": 1.5}, "--subset 1.5 is no share"),
    ],
)
def test_flags_that_say_too_little_or_too_much_are_refused(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=told):
        flags(**changes)
