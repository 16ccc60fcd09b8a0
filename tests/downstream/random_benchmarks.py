"""Questions and predictions at random, as the official files hold them: awkward answers, ties, unanimity, gaps."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

Json = dict[str, Any]

AWKWARD = (
    "yes|Yes|no|No.|2|two|Two|the two dogs|2 dogs|t-shirt|t shirt|dont|don't|1,000|1000|yes, sir|yes sir|a||0|"
    "none|red,white|red white|u.s.a.|usa| yes |y\nes|y\tes|somebody'd|somebodyd|Im|im|it is 3.5|3. 5|3 5|a/b|"
    "b|10:30|$5.00|-5|5|what?!|what|well; ok|well ok|The Dog|dog|theyre|they're|oclock|3 o'clock|man (left)|"
    "man left|ten|10|x...y|xy"
)
ANSWERS = AWKWARD.split("|")
VQA_TYPES = {
    "is the": "yes/no",
    "how many": "number",
    "what": "other",
    "what is the": "other",
    "none of the above": "other",
}


def write_json(path: Path, value: Any) -> str:
    """A JSON file, named as a flag would name it."""
    path.write_text(json.dumps(value), encoding="utf-8")
    return str(path)


def vqa(seed: int = 0, *, num: int = 1000) -> tuple[Json, Json, list[Json]]:
    """The official questions, annotations and results; ten people a question, a fifth of the questions unanimous."""
    rng = random.Random(seed)
    questions, annotations, results = [], [], []
    for number in range(num):
        ids = {"question_id": 1000 * (number // 3 + 1) + number % 3, "image_id": number // 3 + 1}
        pool = [rng.choice(ANSWERS) for _ in range(rng.choice([1, 2, 2, 3, 4]))]
        answers_of_people = [rng.choice(pool) for _ in range(10)]
        kind = rng.choice(list(VQA_TYPES))
        questions.append({**ids, "question": f"{kind} it?"})
        annotations.append(
            {
                **ids,
                "question_type": kind,
                "answer_type": VQA_TYPES[kind],
                "multiple_choice_answer": max(answers_of_people, key=answers_of_people.count),
                "answers": [
                    {"answer": answer, "answer_confidence": "yes", "answer_id": place}
                    for place, answer in enumerate(answers_of_people, start=1)
                ],
            }
        )
        answer = rng.choice(pool) if rng.random() < 0.7 else rng.choice(ANSWERS)
        results.append({"question_id": ids["question_id"], "answer": answer})
    rng.shuffle(results)
    return {"info": {}, "questions": questions}, {"info": {}, "annotations": annotations}, results


COLOURS = ["red", "blue", "green", "color", "shape"]
OPERATIONS = [
    ("select", "dog (0)"),
    ("exist", "?"),
    ("query", "name"),
    ("choose name", "x|y"),
    ("relate", "_,on,s (1)"),
    ("verify exist", "it"),
]


def gqa(seed: int = 0, *, num: int = 1000) -> tuple[dict[str, Json], dict[str, Json], list[Json]]:
    """The official questions, choices and predictions; two in five unbalanced, some entailing themselves and others."""
    rng = random.Random(seed)
    ids = [f"{number:08d}" for number in range(num)]
    questions, choices = {}, {}
    for question_id in ids:
        questions[question_id] = {
            "question": " ".join(["word"] * rng.randrange(3, 9)) + "?",
            "imageId": str(rng.randrange(1, 99)),
            "answer": rng.choice(COLOURS),
            "isBalanced": rng.random() < 0.6,
            "groups": {"global": rng.choice([None, "color", "thing", "thing"]), "local": None},
            "entailed": [question_id] * rng.randrange(2) + rng.sample(ids, rng.randrange(4)),
            "types": {
                "structural": rng.choice(["query", "query", "verify", "choose"]),
                "semantic": rng.choice(["attr", "rel", "obj"]),
                "detailed": rng.choice(["relS", "twoCommon", "twoCommon", "chooseAttr"]),
            },
            "semantic": [
                {"operation": operation, "argument": argument, "dependencies": []}
                for operation, argument in rng.sample(OPERATIONS, rng.randrange(1, 5))
            ],
        }
        valid = rng.sample(COLOURS, 3)
        choices[question_id] = {"valid": valid, "plausible": valid[:2]}
    predictions = [
        {
            "questionId": question_id,
            "prediction": questions[question_id]["answer"] if rng.random() < 0.5 else rng.choice([*COLOURS, "grey"]),
        }
        for question_id in ids
    ]
    rng.shuffle(predictions)
    return questions, choices, predictions


def nlvr2(seed: int = 0, *, num: int = 1000) -> tuple[list[Json], list[tuple[str, str]]]:
    """The official statements and (identifier, prediction); up to four pairs a sentence, three quarters right."""
    rng = random.Random(seed)
    statements, predictions = [], []
    for number in rng.sample(range(2 * num), num):
        identifier = f"dev-{number // 8}-{number % 4}-{number // 4 % 2}"
        label = rng.choice(["True", "False"])
        statements.append({"identifier": identifier, "sentence": "There are two.", "label": label})
        wrong = "False" if label == "True" else "True"
        predictions.append((identifier, label if rng.random() < 0.75 else wrong))
    rng.shuffle(predictions)
    return statements, predictions
