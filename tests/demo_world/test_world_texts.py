"""What the captions and phrases of a world say is true of its boxes."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np
import pytest

from msp_ds.demo_world.language.caption_writer import Sentence, with_article
from msp_ds.demo_world.language.captions import captions_of
from msp_ds.demo_world.language.phrases import phrases_of
from msp_ds.demo_world.relations import GROUND, Box, Relation
from msp_ds.demo_world.scenes import Scene
from msp_ds.demo_world.vocabulary import BACKGROUNDS, COLOURS, PEOPLE, THEMES

SEED = 7
VERBS = re.compile(
    r"\b(is|rides|riding|holds|holding|wears|wearing|stands|standing|lies|lying|sits|sitting|hangs|hanging|flies|flying"
    r"|floats|floating|parked)\b",
    re.IGNORECASE,
)


@pytest.fixture(scope="module")
def captions(scenes: list[Scene]) -> list[tuple[Sentence, ...]]:
    return [captions_of(SEED, scene) for scene in scenes]


def _overlap(low: float, high: float, other_low: float, other_high: float) -> float:
    return min(high, other_high) - max(low, other_low)


def _holds(name: str, a: Box, b: Box) -> bool:
    """An independent, plain reading of each relation."""
    across, down = _overlap(a.x0, a.x1, b.x0, b.x1), _overlap(a.y0, a.y1, b.y0, b.y1)
    middle = ((a.x0 + a.x1) / 2, (a.y0 + a.y1) / 2), ((b.x0 + b.x1) / 2, (b.y0 + b.y1) / 2)
    (ax, ay), (bx, by) = middle
    rules = {
        "left of": ax < b.x0 and a.x1 < bx,
        "right of": ax > b.x1 and a.x0 > bx,
        "above": ay < b.y0 and across > 0,
        "below": ay > b.y1 and across > 0,
        "next to": down > 0 and across < 0.2 * min(a.x1 - a.x0, b.x1 - b.x0),
        "in front of": a.y1 > b.y1 and across > 0,
        "behind": a.y1 < b.y1 and across > 0,
        "on": across > 0 and b.y0 <= a.y1 <= b.y1 and ay < by,
        "riding": across > 0 and b.y0 < a.y1 <= b.y1 and ay < by,
        "holding": across > 0 and down > 0,
        "wearing": across > 0 and down > 0,
    }
    return bool(rules[name])


def _bears_out(scene: Scene, relation: Relation) -> bool:
    box = scene.things[relation.subject].box
    if relation.target == GROUND:
        return relation.name == "on" and scene.horizon < box.y1 <= scene.height
    return _holds(relation.name, box, scene.things[relation.target].box)


def test_claimed_relations_hold_for_the_boxes(scenes: list[Scene], captions: list[tuple[Sentence, ...]]) -> None:
    claims = [
        (scene, relation)
        for scene, five in zip(scenes, captions, strict=True)
        for t in five
        for relation in t.relations
    ]
    assert len(claims) > 600
    wrong = [(scene.number, relation) for scene, relation in claims if not _bears_out(scene, relation)]
    assert wrong == []


def test_many_kinds_of_relations_are_claimed(captions: list[tuple[Sentence, ...]]) -> None:
    names = Counter(relation.name for five in captions for t in five for relation in t.relations)
    assert {"left of", "right of", "next to", "in front of", "behind", "on", "riding", "holding"} <= set(names)
    assert names["left of"] + names["right of"] < 0.5 * sum(names.values())


def test_arranged_relations_hold_for_the_boxes(scenes: list[Scene]) -> None:
    assert all(_bears_out(scene, relation) for scene in scenes for relation in scene.relations)


def test_captions_name_what_they_mention(scenes: list[Scene], captions: list[tuple[Sentence, ...]]) -> None:
    for scene, five in zip(scenes, captions, strict=True):
        for t in five:
            for row in t.rows:
                category = scene.things[row].category
                assert any(word in t.text.lower() for word in (*category.names, category.plural)), (t, category.name)


def test_captions_claim_no_colour_that_is_not_there(scenes: list[Scene], captions: list[tuple[Sentence, ...]]) -> None:
    for scene, five in zip(scenes, captions, strict=True):
        for t in five:
            true = {scene.things[row].colour for row in t.rows} | {scene.backgrounds[0][1]}
            assert {word for word in re.findall(r"[a-z]+", t.text.lower()) if word in COLOURS} <= true


def test_captions_have_six_to_eighteen_words(captions: list[tuple[Sentence, ...]]) -> None:
    lengths = [len(t.text.split()) for five in captions for t in five]
    assert min(lengths) >= 6
    assert max(lengths) <= 18


def test_the_five_writers_write_differently(captions: list[tuple[Sentence, ...]]) -> None:
    assert all(len({t.text for t in five}) == 5 for five in captions)
    endings = np.array([[t.text.endswith(".") for t in five] for five in captions]).mean(0)
    assert endings.tolist() == [0, 1, 1, 1, 0]
    counting = np.array(
        [[bool(re.search(r"\b(one|two|three|four)\b", t.text, re.I)) for t in five] for five in captions]
    )
    assert counting.mean(0)[4] > 0.5 > counting.mean(0)[:4].max()
    themes = "|".join(theme.name for theme in THEMES)
    scenic = np.array([[bool(re.search(rf"\b({themes}) (scene )?with", t.text)) for t in five] for five in captions])
    assert scenic.mean(0)[3] > 0.3 > scenic.mean(0)[[0, 1, 2, 4]].max()


def test_counts_are_those_of_the_scene(scenes: list[Scene], captions: list[tuple[Sentence, ...]]) -> None:
    numbers = {"two": 2, "three": 3, "four": 4}
    found = 0
    counted = re.compile(rf"\b(two|three|four) (?:(?:{'|'.join(COLOURS)}) )?([a-z ]+)")
    for scene, five in zip(scenes, captions, strict=True):
        counts = Counter(thing.category.plural for thing in scene.things)
        for number, noun in counted.findall(five[4].text.lower()):
            plural = next(plural for plural in counts if noun.startswith(plural))
            assert counts[plural] == numbers[number]
            found += 1
    assert found > 100


def test_most_captions_fit_hardly_any_other_image(scenes: list[Scene], captions: list[tuple[Sentence, ...]]) -> None:
    has = [Counter((thing.category.name, thing.colour) for thing in scene.things) for scene in scenes]
    fits = []
    for scene, five in zip(scenes, captions, strict=True):
        for t in five:
            things = [scene.things[row] for row in t.rows]
            claims = [(thing.category.name, thing.colour if thing.colour in t.text.lower() else "") for thing in things]
            fits.append(sum(all(_fits(claim, other) for claim in claims) for other in has))
    assert np.median(fits) <= 3  # of 300, its own among them


def _fits(claim: tuple[str, str], has: Counter[tuple[str, str]]) -> bool:
    return claim in has if claim[1] else any(name == claim[0] for name, _ in has)


def test_phrases_come_with_and_without_verbs(scenes: list[Scene]) -> None:
    texts = [phrase.text for scene in scenes for phrase in phrases_of(SEED, scene)]
    ratio = np.mean([bool(VERBS.search(text)) for text in texts])
    assert 0.15 < ratio < 0.4


def test_phrases_are_carelessly_typed_and_sometimes_twice(scenes: list[Scene]) -> None:
    lists = [[phrase.text for phrase in phrases_of(SEED, scene)] for scene in scenes]
    texts = [text for phrases in lists for text in phrases]
    plain = [[" ".join(text.lower().rstrip(". ").split()) for text in phrases] for phrases in lists]
    assert np.mean([len(set(phrases)) < len(phrases) for phrases in plain]) > 0.3
    for careless in (r"^[A-Z][a-z]", r"^[a-z]", r"\.$", r" $", r"  ", r"^[A-Z ]+\.?$"):
        assert sum(bool(re.search(careless, text)) for text in texts) > 10, careless


def test_phrases_mention_parts_and_backgrounds(scenes: list[Scene]) -> None:
    texts = [phrase.text.lower() for scene in scenes for phrase in phrases_of(SEED, scene)]
    assert any(re.search(r"lid of (a|the) .*(pot|pan|bottle)", text) for text in texts)
    assert sum(any(name in text for name in BACKGROUNDS) for text in texts) > 100


def test_scenes_have_four_to_eight_things_inside_the_image_the_largest_first(scenes: list[Scene]) -> None:
    for scene in scenes:
        assert 4 <= len(scene.things) <= 8
        areas = [thing.box.area for thing in scene.things]
        assert areas == sorted(areas, reverse=True)
        for thing in scene.things:
            assert -0.01 <= thing.box.x0 < thing.box.x1 <= scene.width + 0.01
            assert -0.01 <= thing.box.y0 < thing.box.y1 <= scene.height + 0.01


def test_sizes_follow_the_fraction_of_the_image(scenes: list[Scene]) -> None:
    for scene in scenes:
        for thing in scene.things:
            ratio = thing.box.area / (scene.height * scene.width)
            assert thing.size == ("small" if ratio < 0.012 else "large" if ratio > 0.12 else "")


def test_categories_have_a_long_tail_and_themes_keep_to_themselves(scenes: list[Scene]) -> None:
    counts = Counter(thing.category.name for scene in scenes for thing in scene.things)
    ordered = sorted(counts.values(), reverse=True)
    assert sum(ordered[:10]) > 3 * sum(ordered[-20:])
    elephants = [s.theme.name for s in scenes if any(thing.category.name == "elephant" for thing in s.things)]
    assert Counter(elephants)["savanna"] > 0.8 * len(elephants)
    assert sum(counts[name] for name in PEOPLE) > 100


def test_articles_follow_the_sound() -> None:
    assert with_article("orange cat") == "an orange cat"
    assert with_article("red umbrella") == "a red umbrella"
