"""NLVR2's accuracy and consistency as the official script computes them.

A statement is written about a set of images and shown with several pairs of them; it is consistent when the prediction
is right for every pair.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from msp_ds.downstream.predictions import require_predictions
from msp_ds.downstream.score import Score
from msp_ds.errors import InputError
from msp_ds.preparation.sources.questions import Question


@dataclass(frozen=True, kw_only=True)
class Nlvr2Grades:
    """Both grades, in percent."""

    accuracy: Score  # the script calls it precision
    consistency: Score  # over the sentences, each with all its pairs

    def scores(self) -> dict[str, Score]:
        """Return both by name."""
        return {"accuracy": self.accuracy, "consistency": self.consistency}


def sentence_of(identifier: str) -> str:
    """Return the statement of an identifier without its pair: `dev-850--1` for `dev-850-2-1`."""
    split, image_set, _, sentence = identifier.split("-")
    return f"{split}-{image_set}--{sentence}"


def grade_nlvr2(statements: Sequence[Question], predictions: Mapping[str, str]) -> Nlvr2Grades:
    """Grade predictions "True" and "False" by identifier; upper and lower case are equal.

    Predictions for other statements are ignored, as by the script: the balanced subset is graded from the same file.

    Raises InputError when predictions or labels are missing.
    """
    require_predictions(predictions, [statement.question_id for statement in statements], extras_allowed=True)
    right = [predictions[one.question_id].lower() == _label(one).lower() for one in statements]
    consistent: dict[str, bool] = {}
    for statement, is_right in zip(statements, right, strict=True):
        sentence = sentence_of(statement.question_id)
        consistent[sentence] = consistent.get(sentence, True) and is_right
    return Nlvr2Grades(
        accuracy=Score(values=tuple(map(float, right))),
        consistency=Score(values=tuple(map(float, consistent.values()))),
    )


def _label(statement: Question) -> str:
    if len(statement.answers) != 1:
        raise InputError(f"statement {statement.question_id} has no label; name a split that has labels")
    return statement.answers[0]
