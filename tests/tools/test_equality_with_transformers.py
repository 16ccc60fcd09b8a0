"""Our states, logits and gradients are transformers', on random weights taken out and on foreign ones brought in."""

from __future__ import annotations

import dataclasses

import pytest
from foreign_weights import MODEL

from msp_ds.config import ModelConfig
from tools.check.equality_with_transformers import GRADIENT_LIMIT, STATE_LIMIT, measure, within_limits

FAMILY = {"LXMERT-S": MODEL}
if "language_layers" in ModelConfig.__dataclass_fields__:
    layers = {"language_layers": 3, "region_layers": 2}
    FAMILY["LXMERT"] = dataclasses.replace(MODEL, visual_cls=False, positions="pieces", **layers)


@pytest.mark.parametrize("model", FAMILY.values(), ids=FAMILY)
def test_states_and_gradients_are_those_of_transformers(model: ModelConfig) -> None:
    for weights, found in measure(model).items():
        assert len(found) == 10
        assert within_limits(found), f"{weights}: {found}"


def test_a_difference_is_noticed() -> None:
    good = {"text states": STATE_LIMIT / 2, "gradients": GRADIENT_LIMIT / 2}
    assert within_limits(good)
    assert not within_limits(good | {"text states": STATE_LIMIT * 2})
    assert not within_limits(good | {"gradients": GRADIENT_LIMIT * 2})
