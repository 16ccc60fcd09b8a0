"""GQA's grades written again from their description, question by question."""

from __future__ import annotations

from typing import Any

Json = dict[str, Any]


def mean(values: list[float]) -> float:
    return sum(values) / len(values) * 100


def num_steps(question: Json) -> int:
    steps = 0
    for operation in question["semantic"]:
        words = operation["operation"] + ": " + operation["argument"]
        if "exist" not in words and "query: name" not in words and "choose name" not in words:
            steps += 1
    return steps


def is_allowed(answer: str, choices: list[str], question: Json) -> float:
    return float(answer in (["color", "material", "shape"] if "Common" in question["types"]["detailed"] else choices))


def consistency(questions: dict[str, Json], prediction_of: dict[str, str]) -> float:
    shares = []
    for question_id, question in questions.items():
        others = [one for one in question["entailed"] if one != question_id]
        if question["isBalanced"] and prediction_of[question_id] == question["answer"] and others:
            right = 0.0
            for other in others:
                right += prediction_of[other] == questions[other]["answer"]
            shares.append(right / len(others))
    return mean(shares)


def chi_square(questions: dict[str, Json], prediction_of: dict[str, str]) -> float:
    weighted, total = 0.0, 0
    groups = dict.fromkeys(one["groups"]["global"] for one in questions.values() if one["isBalanced"])
    for group in groups:
        if group is None:
            continue
        members = [
            question_id
            for question_id, one in questions.items()
            if one["isBalanced"] and one["groups"]["global"] == group
        ]
        right = [questions[member]["answer"] for member in members]
        predicted = [prediction_of[member] for member in members]
        distance = 0.0
        for answer in dict.fromkeys(right):
            expected = right.count(answer)
            distance += (predicted.count(answer) - expected) ** 2 / expected
        weighted += distance * len(members)
        total += len(members)
    return weighted / total / 100


def grades(questions: dict[str, Json], choices: dict[str, Json], predictions: list[Json]) -> dict[str, float]:
    """All by the names of GqaGrades.scores(), and `distribution`."""
    prediction_of = {row["questionId"]: row["prediction"] for row in predictions}
    lists: dict[str, list[float]] = {}
    for question_id, question in questions.items():
        if question["isBalanced"]:
            answer = prediction_of[question_id]
            right = float(answer == question["answer"])
            kinds = question["types"]
            for name, value in {
                "accuracy": right,
                "open" if kinds["structural"] == "query" else "binary": right,
                "validity": is_allowed(answer, choices[question_id]["valid"], question),
                "plausibility": is_allowed(answer, choices[question_id]["plausible"], question),
                f"structure/{kinds['structural']}": right,
                f"semantics/{kinds['semantic']}": right,
                f"steps/{num_steps(question)}": right,
                f"words/{len(question['question'].split())}": right,
            }.items():
                lists.setdefault(name, []).append(value)
    return {
        **{name: mean(values) for name, values in lists.items()},
        "consistency": consistency(questions, prediction_of),
        "distribution": chi_square(questions, prediction_of),
    }
