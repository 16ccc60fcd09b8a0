"""NLVR2's grades written again from their description."""

from __future__ import annotations

from typing import Any


def grades(statements: list[dict[str, Any]], predictions: list[tuple[str, str]]) -> tuple[float, float]:
    """(precision, consistency), shares from 0 to 1."""
    prediction_of = dict(predictions)
    num_right = 0
    verdicts: dict[tuple[str, str, str], list[bool]] = {}
    for statement in statements:
        split, image_set, _, sentence = statement["identifier"].split("-")
        is_right = prediction_of[statement["identifier"]] == statement["label"]
        num_right += is_right
        verdicts.setdefault((split, image_set, sentence), []).append(is_right)
    return num_right / len(statements), sum(map(all, verdicts.values())) / len(verdicts)
