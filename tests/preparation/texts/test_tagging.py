"""Phrases without verbs of many images, whatever the number of processes that look for them."""

from __future__ import annotations

import sys

import pytest

from msp_ds.errors import InputError
from msp_ds.preparation.texts.tagging import IMAGES_AT_ONCE, ImagePhrases, ImageTexts, phrases_of_images

MANY = 3 * IMAGES_AT_ONCE + 1
"""More than are tagged in this process, and than two others are sent at first."""


def test_phrases_are_counted_as_they_are_left_out() -> None:
    images = ImageTexts(["Red hat.", "dog runs", "red  HAT"], ["A man riding a ball."])
    # Three read, one of them a repeat, one of the two others with a verb; two cut from the caption.
    assert list(phrases_of_images([images], jobs=1)) == [ImagePhrases(["red hat", "a man", "a ball"], 3, 2, 1, 2)]


@pytest.mark.parametrize("jobs", [1, 2])
def test_processes_find_what_this_one_finds_in_order(jobs: int) -> None:
    images = [ImageTexts([f"hat {number}", "dog runs", "ärmel\u2028"], ["A ball."]) for number in range(MANY)]
    alone = [image for one in images for image in phrases_of_images([one], jobs=1)] if jobs == 1 else []
    found = list(phrases_of_images(iter(images), jobs=jobs))
    assert [image.phrases[0] for image in found] == [f"hat {number}" for number in range(MANY)]
    assert not alone or found == alone


def test_no_images_have_no_phrases() -> None:
    assert list(phrases_of_images([], jobs=2)) == []


def test_a_process_that_ends_early_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    images = [ImageTexts(["hat"], [])] * MANY
    with pytest.raises(InputError, match=r"tags phrases has ended \(exit code 1\).* fewer --jobs"):
        list(phrases_of_images(images, jobs=1))
