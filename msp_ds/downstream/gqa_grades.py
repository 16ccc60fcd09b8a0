"""GQA's grades as the official script gives them. Answers must equal the one right answer to the letter.

Only balanced questions count. Validity and plausibility need the choices file, consistency the predictions for all
questions, unbalanced ones too; where they are not at hand these grades are None, where the script prints 0.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from msp_ds.downstream.gqa_distribution import GroupedAnswer, distribution
from msp_ds.downstream.predictions import require_predictions
from msp_ds.downstream.score import Score, scores_by
from msp_ds.errors import InputError
from msp_ds.preparation.sources.gqa import GqaChoices, GqaQuestion
from msp_ds.preparation.sources.questions import shown_ids

_COMMON_CHOICES = frozenset({"color", "material", "shape"})
"""What a question for something in common may be answered, whatever its choices say."""
_OPEN = "query"


@dataclass(frozen=True, kw_only=True)
class GqaGrades:
    """All grades, in percent but for the distribution."""

    accuracy: Score
    binary: Score
    """Of questions whose structure is not `query`; of nothing for LXMERT's files, which do not say, likewise open."""
    open: Score
    validity: Score | None
    """Share of answers of the right kind; None without the choices file, likewise plausibility."""
    plausibility: Score | None
    consistency: Score | None
    """Of each rightly answered question with entailed ones, the share of those that are right; None where the
    predictions for unbalanced questions are not at hand."""
    distribution: float
    """Chi-square between right and given answers within a group of questions, / 100: lower is better. nan without
    groups."""
    by_type: dict[str, dict[str, Score]]
    """The accuracy by `structure`, `semantics`, number of `steps` and number of `words` of the question."""
    outcomes: tuple[GroupedAnswer, ...] = field(repr=False)  # of the questions with a group

    def scores(self) -> dict[str, Score]:
        """The means by name: `accuracy`, `binary`, ..., `structure/query`, `semantics/rel`, `steps/2`, `words/9`."""
        optional = {name: getattr(self, name) for name in ("validity", "plausibility", "consistency")}
        return {
            "accuracy": self.accuracy,
            **({"binary": self.binary, "open": self.open} if self.binary.num + self.open.num else {}),
            **{name: score for name, score in optional.items() if score is not None},
            **{f"{kind}/{name}": score for kind, scores in self.by_type.items() for name, score in scores.items()},
        }


def grade_gqa(
    questions: Iterable[GqaQuestion],
    predictions: Mapping[str, str],
    *,
    choices: Iterable[GqaChoices] | None = None,
    with_consistency: bool = False,
) -> GqaGrades:
    """Grade answers by question id. Both iterables are walked once; of what does not count only the verdict is kept.

    Predictions of other questions are let pass, as by the script: one file may answer several splits.

    Raises: InputError when predictions are missing, or choices, or entailed questions, or the questions' answers.
    """
    balanced: list[GqaQuestion] = []
    all_ids: list[str] = []
    is_right: dict[str, bool] = {}
    for question in questions:
        if question.is_balanced or with_consistency:
            all_ids.append(question.question_id)
            is_right[question.question_id] = predictions.get(question.question_id) == _right_answer(question)
        if question.is_balanced:
            balanced.append(question)
    require_predictions(predictions, all_ids, extras_allowed=True)
    if not balanced:
        raise InputError("none of the questions is balanced; GQA grades balanced questions only")
    right = [float(is_right[question.question_id]) for question in balanced]
    kinds = ["open" if question.structural == _OPEN else "binary" * bool(question.structural) for question in balanced]
    by_kind = scores_by(kinds, right)
    outcomes = tuple(
        GroupedAnswer(question.global_group, question.answers[0], predictions[question.question_id])
        for question in balanced
        if question.global_group
    )
    validity, plausibility = _judged(balanced, predictions, choices)
    return GqaGrades(
        accuracy=Score(values=tuple(right)),
        binary=by_kind.get("binary", Score(values=())),
        open=by_kind.get("open", Score(values=())),
        validity=validity,
        plausibility=plausibility,
        consistency=_consistency(balanced, is_right) if with_consistency else None,
        distribution=distribution(outcomes),
        by_type={
            "structure": scores_by([question.structural for question in balanced], right),
            "semantics": scores_by([question.semantic for question in balanced], right),
            "steps": _in_order(scores_by([str(one.num_steps) * bool(one.structural) for one in balanced], right)),
            "words": _in_order(scores_by([str(len(question.text.split())) for question in balanced], right)),
        },
        outcomes=outcomes,
    )


def _right_answer(question: GqaQuestion) -> str:
    if len(question.answers) != 1:
        raise InputError(f"question {question.question_id} has no answer; name a split that has answers")
    return question.answers[0]


def _in_order(scores: dict[str, Score]) -> dict[str, Score]:
    return {name: scores[name] for name in sorted(scores, key=int)}


def _judged(
    balanced: Sequence[GqaQuestion], predictions: Mapping[str, str], choices: Iterable[GqaChoices] | None
) -> tuple[Score | None, Score | None]:
    """Validity and plausibility."""
    if choices is None:
        return None, None
    verdicts = {
        choice.question_id: (answer in choice.valid, answer in choice.plausible)
        for choice in choices
        if (answer := predictions.get(choice.question_id)) is not None
    }
    for question in balanced:
        if "Common" in question.detailed:
            is_one = predictions[question.question_id] in _COMMON_CHOICES
            verdicts[question.question_id] = (is_one, is_one)
    _require_known(verdicts, [question.question_id for question in balanced], "the choices file does not list")
    found = np.array([verdicts[question.question_id] for question in balanced], dtype=np.float64)
    return Score(values=tuple(found[:, 0].tolist())), Score(values=tuple(found[:, 1].tolist()))


def _consistency(balanced: Sequence[GqaQuestion], is_right: Mapping[str, bool]) -> Score:
    shares = []
    entailing: dict[str, list[str]] = defaultdict(list)
    for question in balanced:
        if is_right[question.question_id]:
            entailing[question.question_id] = [one for one in question.entailed if one != question.question_id]
    entailed = dict.fromkeys(one for some in entailing.values() for one in some)
    _require_known(is_right, list(entailed), "consistency needs all questions; the file of questions does not hold")
    for some in entailing.values():
        if some:
            shares.append(sum(float(is_right[one]) for one in some) / len(some))
    return Score(values=tuple(shares), is_paired=False)


def _require_known(known: Collection[str], wanted: Sequence[str], what: str) -> None:
    if missing := [question_id for question_id in wanted if question_id not in known]:
        raise InputError(f"{what} {len(missing)} of {len(wanted)} questions: {shown_ids(missing)}")
