"""The options of fine-tuning name its start and how much it trains on."""

from __future__ import annotations

from typing import Any

import pytest

from msp_ds.errors import InputError
from msp_ds.training.options import RunOptions
from msp_ds.training.planning import fine_tuning_options


def options(**changes: Any) -> RunOptions:
    return RunOptions(**{"task": "vqa", "init": "runs/tps", **changes})


def test_a_few_shots_are_that_many_pairs() -> None:
    assert fine_tuning_options(options()) == options(curriculum="vqa")
    assert fine_tuning_options(options(max_pairs=64)) == options(curriculum="vqa", max_pairs=64)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": None}, "name the benchmark to fine-tune for: --task vqa, gqa, nlvr2, retrieval"),
        ({"task": None, "curriculum": "tps"}, "name the benchmark"),
        ({"init": None}, "--init RUN, or --from-scratch"),
        ({"from_scratch": True}, "--init RUN, or --from-scratch"),
        ({"max_pairs": 64, "subset": 0.1}, "name one of the two"),
        ({"max_pairs": 0}, "--few-shot 0 leaves no question to train on"),
        ({"subset": 0.0}, "--subset 0.0 is not a fraction"),
        ({"subset": 1.5}, "--subset 1.5 is not a fraction"),
    ],
)
def test_options_that_name_too_little_or_too_much_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        fine_tuning_options(options(**changes))
