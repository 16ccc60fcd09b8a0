"""VQA's accuracy written again from its description, sign by sign and person by person."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

from msp_ds.preparation.texts.answer_normalisation import CONTRACTIONS

NUMBERS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]


def is_loose(text: str, sign: str) -> bool:
    places = [place for place, character in enumerate(text) if character == sign]
    return any(" " in text[max(place - 1, 0) : place] + text[place + 1 : place + 2] for place in places)


def has_thousands(text: str) -> bool:
    return any(a.isdigit() and b == "," and c.isdigit() for a, b, c in zip(text, text[1:], text[2:], strict=False))


def without_punctuation(text: str) -> str:
    dropped_everywhere = has_thousands(text)
    kept = []
    for character in text:
        if character not in ';/[]"{}()=+\\_-><@`,?!':
            kept.append(character)
        elif not (dropped_everywhere or is_loose(text, character)):
            kept.append(" ")
    result, dropped = "", 0
    for place, character in enumerate(kept):
        after = kept[place + 1] if place + 1 < len(kept) else ""
        if character == "." and not after.isdigit() and dropped < 32:
            dropped += 1
        else:
            result += character
    return result


def normalised(text: str) -> str:
    words = []
    for word in without_punctuation(text).lower().split():
        if word == "none":
            word = "0"
        if word in NUMBERS:
            word = str(NUMBERS.index(word))
        if word not in ("a", "an", "the"):
            words.append(CONTRACTIONS.get(word, word))
    return " ".join(words)


def question_accuracy(prediction: str, answers: list[str]) -> float:
    def clean(text: str) -> str:
        return text.replace("\n", " ").replace("\t", " ").strip()

    prediction, answers = clean(prediction), [clean(answer) for answer in answers]
    if any(answer != answers[0] for answer in answers):
        prediction, answers = normalised(prediction), [normalised(answer) for answer in answers]
    total = 0.0
    for left_out in range(len(answers)):
        agreeing = 0
        for place, answer in enumerate(answers):
            if place != left_out and answer == prediction:
                agreeing += 1
        total += min(1, agreeing / 3)
    return total / len(answers)


def to_two_decimals(percent: float) -> float:
    """To two decimals, halves upwards, in fractions, which lose nothing."""
    return math.floor(Fraction(percent) * 100 + Fraction(1, 2)) / 100


def accuracy(annotations: list[dict[str, Any]], results: list[dict[str, Any]]) -> dict[str, Any]:
    """The official results: overall, perQuestionType, perAnswerType, to two decimals."""
    prediction_of = {row["question_id"]: row["answer"] for row in results}
    lists: dict[str, dict[str, list[float]]] = {"all": {}, "question_type": {}, "answer_type": {}}
    for entry in annotations:
        earned = question_accuracy(prediction_of[entry["question_id"]], [one["answer"] for one in entry["answers"]])
        for kind, found in lists.items():
            found.setdefault(entry.get(kind, ""), []).append(earned)
    rounded = {
        kind: {name: to_two_decimals(100 * sum(some) / len(some)) for name, some in found.items()}
        for kind, found in lists.items()
    }
    return {
        "overall": rounded["all"][""],
        "perQuestionType": rounded["question_type"],
        "perAnswerType": rounded["answer_type"],
    }
