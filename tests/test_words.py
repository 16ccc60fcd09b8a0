"""The code speaks the field's words: a private word is refused, with the term to write instead."""

from __future__ import annotations

import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("msp_ds", "tools", "examples", "tests")
SOURCES = [path for one in FOLDERS for path in sorted((ROOT / one).rglob("*.py")) if path != Path(__file__).resolve()]

ANYWHERE = {
    r"pos(?:e|es|ed|ing)": "corrupt, corrupted, corruption",
    r"strays?": "random region",
    r"look[-_ ]?alikes?": "hard negative",
    r"tall(?:y|ies)": "MeanMetric, metric",
    r"lexicons?": "VocabularyTables, tables",
    r"mend(?:s|ed|ing)?": "fix, repair",
    r"foretold": "predicted",
    r"bent": "activated",
    r"anew": "again",
    r"twins?": "cross-dataset duplicate",
    r"tellers?": "CaptionWriter",
    r"thinned": "apply_dropout",
    r"dice": "rng",
    r"trunks?": "backbone",
    r"no JSON": "not valid JSON",
}
"""Private word -> the field's term; banned in names, strings and comments."""
AS_A_NAME = {
    "Part": "Granularity",
    "Rows": "FlatPositions",
    "Places": "TargetPositions",
    "take": "gather",
    "put_back": "scatter",
    "Load": "Workload",
    "share": "ratio, probability",
    "Care": "Guards",
    "Pace": "Throughput",
    "Board": "MetricLogger",
    "window": "run_summary",
    "Feed": "BatchLoader",
    "Portion": "StepBatch",
    "Story": "BatchInfo",
    "soon": "deferred_bool",
    "room": "budget, padded_count",
    "rooms": "budgets, padded_counts",
    "told": "message",
    "said": "message, text",
    "habits": "typed options",
    "given": "typed options",
    "Learner": "PretrainingModel",
    "Marks": "CorruptionInfo",
    "asked": "targets, requested",
    "asks": "targets",
}
"""Ordinary words that say nothing as a name -> the field's term."""
FROZEN = {'"stray region"', '"trunk {seed}"', '"twin"', '"trunk."', '"look_alikes.npz"', '"trunk.a"'}
"""Strings that feed random numbers (another spelling would change masks, initial weights or the demo world), and names
by which files of an earlier version are known."""
_WORDS = {re.compile(rf"(?<![a-z])(?:{word})(?![a-z])", re.I): term for word, term in ANYWHERE.items()}


def private_words(source: str) -> Iterator[str]:
    """Yield each private word of a Python source with its line and the term to write."""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.string in FROZEN:
            continue
        if token.type == tokenize.NAME and token.string in AS_A_NAME:
            yield f"line {token.start[0]}: {token.string}; write {AS_A_NAME[token.string]}"
        if token.type in (tokenize.NAME, tokenize.STRING, tokenize.COMMENT):
            text = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", token.string)
            for word, term in _WORDS.items():
                if found := word.search(text):
                    yield f"line {token.start[0]}: {found[0]}; write {term}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_private_word_is_in_the_code(path: Path) -> None:
    assert list(private_words(path.read_text(encoding="utf-8"))) == []


def test_a_private_word_is_found_in_names_texts_and_comments() -> None:
    source = 'posed_batch = Feed()  # a stray\nname = "the tally"\nfrozen = "stray region"\npurpose = compose(dicey)\n'
    assert list(private_words(source)) == [
        "line 1: posed; write corrupt, corrupted, corruption",
        "line 1: Feed; write BatchLoader",
        "line 1: stray; write random region",
        "line 2: tally; write MeanMetric, metric",
    ]
