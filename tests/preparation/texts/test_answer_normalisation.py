"""Answers are normalised as by the official code of VQA, of which the expected results are."""

from __future__ import annotations

import hashlib

import pytest

from msp_ds.preparation.texts.answer_normalisation import CONTRACTIONS, normalise_answer

GOLDEN = {
    "the 2 dogs.": "2 dogs",
    "Two": "2",
    "none": "0",
    "1,000": "1000",
    "a/b": "b",
    "yes, sir": "yes sir",
    "dont": "don't",
    "t-shirt": "t shirt",
    "u.s.a.": "usa",
    "3.5": "3.5",
    "3. 5": "3 5",
    "No.": "no",
    "a": "",
    "Im": "im",
    "red,white": "red white",
    "10:30": "10:30",
    "$5.00": "$5.00",
    "-5": "5",
}
"""From running the official functions."""


@pytest.mark.parametrize(("answer", "expected"), GOLDEN.items())
def test_the_golden_vectors_hold(answer: str, expected: str) -> None:
    assert normalise_answer(answer) == expected


def test_the_contractions_are_the_official_tables() -> None:
    """The digest is of the official 120 entries without the two that map to themselves and the four with capitals,
    which are unreachable since words are lowered first."""
    lines = "\n".join(f"{wrong} {right}" for wrong, right in sorted(CONTRACTIONS.items()))
    assert len(CONTRACTIONS) == 120 - 2 - 4
    assert (
        hashlib.sha256(lines.encode()).hexdigest() == "f2c800b1132e79302dd72686ce8bba16120f1873f98a85561222e89317336e7a"
    )


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("somebody'd", "somebodyd"),  # the wrong way round, as the official table has it
        ("wheres the y'alld've", "where's y'all'd've"),
        ("shed", "shed"),  # she'd is not in the table
        ("1,000 red/white", "1000 redwhite"),  # thousands anywhere: every sign is dropped
        ("red/white or red/ white", "redwhite or red white"),  # loose once: dropped everywhere
        ("twenty.five", "twentyfive"),
        ("." * 40, "." * 8),  # at most 32
        ("", ""),
        ("the An a", ""),
    ],
)
def test_oddities_are_kept(answer: str, expected: str) -> None:
    assert normalise_answer(answer) == expected
