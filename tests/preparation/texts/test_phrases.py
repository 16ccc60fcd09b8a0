"""The verb filter and the grouping of phrases."""

from __future__ import annotations

from pathlib import Path

import pytest

from msp_ds.preparation.sources.text_files import read_texts
from msp_ds.preparation.texts.phrases import (
    VERB_TAGS,
    VerbFilter,
    group_phrases,
    normalise,
    noun_phrases,
    without_verbs,
)


@pytest.fixture(scope="module")
def verbs() -> VerbFilter:
    return VerbFilter()


@pytest.mark.parametrize(
    "phrase",
    [
        "man wearing hat",
        "man wearing a red hat",
        "people standing",
        "the clock is green",
        "shade is along the street",
        "car parked on the street",
        "man wore hat",
        "this is a laptop",
        "people walk",
        "painted on wall",
    ],
)
def test_phrases_with_a_verb_are_told(verbs: VerbFilter, phrase: str) -> None:
    assert verbs.has_verb(phrase)


@pytest.mark.parametrize(
    "phrase",
    [
        "an older man in blue shirt",
        "a parked car",
        "the running dog",
        "a lit candle",
        "snow covered hill",
        "a stop sign",
        "teddy bear",
        "the bear",
        "handle of an umbrella",
        "train on the tracks",
        "can of soda",
        "woman's left hand",
        "",
    ],
)
def test_participles_and_verb_forms_that_stand_for_nouns_are_no_verbs(verbs: VerbFilter, phrase: str) -> None:
    assert not verbs.has_verb(phrase)


def test_the_tags_that_count_as_verbs_can_be_chosen() -> None:
    gentle = VerbFilter(VERB_TAGS - {"VBG", "VBN"})
    assert not gentle.has_verb("man wearing a hat")
    assert gentle.has_verb("man is tall")


def test_phrases_are_normalised_and_kept_once(verbs: VerbFilter) -> None:
    assert normalise(" A  Red\tHat. ") == "a red hat"
    assert without_verbs(["Red hat.", "dog runs", "red  HAT", ".", "the tail"], verbs) == ["red hat", "the tail"]


def test_noun_phrases_are_the_longest_runs_with_a_noun(verbs: VerbFilter) -> None:
    caption = "A man riding a small red ball near the wooden fence and very tall."
    assert noun_phrases(caption, verbs) == ["a man", "a small red ball", "the wooden fence"]


def words(phrase: str) -> int:
    return len(phrase.split())


def test_phrases_are_joined_whole_up_to_the_limit() -> None:
    # 8 pieces: [CLS], six between, [SEP]. "a b" + "," + "c d e" makes six; "f" needs a comma and itself.
    assert group_phrases(["a b", "c d e", "f"], max_tokens=8, count_pieces=words) == ["a b, c d e", "f"]
    assert group_phrases(["a b", "c d e", "f"], max_tokens=10, count_pieces=words) == ["a b, c d e, f"]


def test_a_phrase_longer_than_a_text_stands_alone() -> None:
    assert group_phrases(["x", "a b c d e", "y"], max_tokens=6, count_pieces=words) == ["x", "a b c d e", "y"]


def test_no_phrases_make_no_text() -> None:
    assert group_phrases([], max_tokens=8, count_pieces=words) == []


def test_about_two_thirds_of_the_real_phrases_hold_no_verb(verbs: VerbFilter, real_data: Path) -> None:
    file = read_texts(str(real_data / "visual_genome" / "region_descriptions_sample.json"), "phrase")
    phrases = [normalise(phrase) for written in file.by_image.values() for phrase in written]
    kept = sum(not verbs.has_verb(phrase) for phrase in phrases) / len(phrases)
    assert 0.65 < kept < 0.74
