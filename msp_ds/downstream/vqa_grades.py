"""VQA v2's accuracy as the official code gives it, and LXMERT's look-up score under a name of its own.

An answer is compared with ten people's. It earns, averaged over the ten, a third for each of the *other nine* who say
the same, at most 1: 0, .3, .6, .9, 1 for none, one, two, three, more. Both sides are normalised only where the people
disagree: for ten times `two`, `Two` is wrong.
"""

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field, replace

from msp_ds.downstream.predictions import require_predictions
from msp_ds.downstream.score import Score, scores_by
from msp_ds.errors import InputError
from msp_ds.preparation.sources.vqa import VqaQuestion
from msp_ds.preparation.texts.answer_normalisation import normalise_answer
from msp_ds.preparation.texts.answer_vocabulary import scores_of

_ENOUGH = 3  # others who say the same, for the whole point
FULL_SCORE_ANSWERS = _ENOUGH + 1  # answers that a question needs, so that any prediction can earn the whole point


@dataclass(frozen=True, kw_only=True)
class VqaGrades:
    """The official accuracy, in percent, overall and by type."""

    accuracy: Score  # of nothing, where the file knows no people's answers
    by_type: dict[str, dict[str, Score]] = field(default_factory=dict)
    """The accuracy by `answer_type` and by `question_type`."""
    lookup: Score | None = None
    """LXMERT's local score: what the answer is worth as a training target. Not the official accuracy: it takes raw
    strings, knows no unanimity rule, and only the vocabulary's answers earn anything."""

    def official(self) -> dict[str, float | dict[str, float]]:
        """The official results file: rounded to two decimals, exact halves away from zero."""
        by_type = {"perQuestionType": self.by_type["question_type"], "perAnswerType": self.by_type["answer_type"]}
        return {
            "overall": self.accuracy.rounded,
            **{name: {kind: score.rounded for kind, score in scores.items()} for name, scores in by_type.items()},
        }

    def scores(self) -> dict[str, Score]:
        """All by name: `accuracy`, `lookup`, `answer_type/number`, `question_type/what color is the`."""
        return {
            **({"accuracy": self.accuracy} if self.accuracy.num else {}),
            **({} if self.lookup is None else {"lookup": self.lookup}),
            **{f"{kind}/{name}": score for kind, scores in self.by_type.items() for name, score in scores.items()},
        }


def grade_vqa(
    questions: Sequence[VqaQuestion], predictions: Mapping[str, str], *, vocabulary: Container[str] | None = None
) -> VqaGrades:
    """Grade answers by question id. LXMERT's files know no people's answers: of those there is only the look-up score.

    vocabulary: to which the look-up score is limited; without one, it is given for LXMERT's files only.

    Raises: InputError when predictions are missing or unknown, or when the questions have no answers.
    """
    require_predictions(predictions, [question.question_id for question in questions])
    lookup = None
    if vocabulary is not None or any(question.scores is not None for question in questions):
        lookup = _graded(questions, predictions, lambda answer, question: lookup_score(answer, question, vocabulary))
    if lookup is not None and not any(question.answers for question in questions):
        return VqaGrades(accuracy=Score(values=()), lookup=lookup)
    graded = _graded(questions, predictions, lambda answer, question: vqa_accuracy(answer, question.answers))
    accuracy = replace(graded, rounds_as_vqa=True)
    return VqaGrades(
        accuracy=accuracy,
        by_type={
            kind: scores_by([getattr(question, kind) for question in questions], accuracy.values, rounds_as_vqa=True)
            for kind in ("answer_type", "question_type")
        },
        lookup=lookup,
    )


def _graded(
    questions: Sequence[VqaQuestion], predictions: Mapping[str, str], earned: Callable[[str, VqaQuestion], float]
) -> Score:
    return Score(values=tuple(earned(predictions[question.question_id], question) for question in questions))


def vqa_accuracy(prediction: str, answers: Sequence[str]) -> float:
    """What an answer earns against the people's, from 0 to 1.

    Raises: InputError when there are no people's answers.
    """
    if not answers:
        raise InputError("a question has no answers to grade by; name the annotations of a split that has them")
    predicted, *people = (_on_one_line(text) for text in (prediction, *answers))
    if len(set(people)) > 1:
        predicted, *people = (normalise_answer(text) for text in (predicted, *people))
    same = [person == predicted for person in people]
    # Sums of thirds in the people's order, as the official code takes them.
    earned = [min(1, float(sum(same) - is_same) / _ENOUGH) for is_same in same]
    return float(sum(earned)) / len(earned)


def _on_one_line(text: str) -> str:
    return text.replace("\n", " ").replace("\t", " ").strip()


def lookup_score(prediction: str, question: VqaQuestion, vocabulary: Container[str] | None = None) -> float:
    """What an answer is worth as a training target, from 0 to 1: LXMERT's local score.

    Raises: InputError as scores_of.
    """
    if vocabulary is not None and prediction not in vocabulary:
        return 0.0
    return scores_of(question).get(prediction, 0.0)
