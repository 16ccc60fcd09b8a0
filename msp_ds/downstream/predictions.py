"""Checks that predictions are complete, naming the question ids; the official scripts abort or guess."""

from collections.abc import Collection, Iterable, Mapping

from msp_ds.errors import InputError
from msp_ds.preparation.sources.questions import shown_ids


def require_predictions(
    predictions: Mapping[str, object], question_ids: Collection[str], *, extras_allowed: bool = False
) -> None:
    """Raise InputError with the ids of questions that lack a prediction and, unless extras are allowed, of others."""
    faults = []
    known = set(question_ids)
    if missing := [question_id for question_id in question_ids if question_id not in predictions]:
        faults.append(f"{len(missing)} of {len(known)} questions have none: {shown_ids(missing)}")
    unknown = [question_id for question_id in predictions if question_id not in known]
    if unknown and not extras_allowed:
        faults.append(f"{len(unknown)} are for unknown questions: {shown_ids(unknown)}")
    if faults:
        raise InputError(f"the predictions cannot be graded: {'; '.join(faults)}; predict the split that is graded")


def collect(pairs: Iterable[tuple[str, str]], *, path: object) -> dict[str, str]:
    """Return predictions by question id; raises InputError for repeated ids and for a file without predictions."""
    found: dict[str, str] = {}
    repeated: dict[str, None] = {}
    for question_id, answer in pairs:
        if question_id in found:
            repeated[question_id] = None
        found[question_id] = answer
    if repeated:
        raise InputError(f"{path} answers {len(repeated)} questions more than once: {shown_ids(list(repeated))}")
    if not found:
        raise InputError(f"{path} holds no prediction")
    return found
