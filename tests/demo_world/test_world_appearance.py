"""What the features of a world carry, and what they do not."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from msp_ds.demo_world.appearance import Appearance
from msp_ds.demo_world.detector import Detections, Entity, detect
from msp_ds.demo_world.scenes import Scene
from msp_ds.demo_world.vocabulary import CATEGORIES, COLOURS, GROUPS

SEED, WIDTH = 7, 256


@dataclass(frozen=True)
class Seen:
    """All detections of things in the first 300 scenes, with what they truly show."""

    features: np.ndarray
    labels: np.ndarray
    categories: np.ndarray
    colours: np.ndarray
    images: np.ndarray
    instances: np.ndarray


@pytest.fixture(scope="module")
def detections(scenes: list[Scene]) -> list[Detections]:
    return [detect(SEED, scene) for scene in scenes]


@pytest.fixture(scope="module")
def seen(scenes: list[Scene], detections: list[Detections]) -> Seen:
    appearance = Appearance(SEED, feature_width=WIDTH)
    features = np.concatenate([appearance.features(s, d) for s, d in zip(scenes, detections, strict=True)])
    entities = [(image, row, d.entities[row]) for image, d in enumerate(detections) for row in d.entity_rows]
    things = np.array([_is_thing(entity) for _, _, entity in entities])
    return Seen(
        features=features[things],
        labels=np.concatenate([d.object_ids for d in detections])[things],
        categories=np.array([entity.category for _, _, entity in entities])[things],
        colours=np.array([entity.colour for _, _, entity in entities])[things],
        images=np.array([image for image, _, _ in entities])[things],
        instances=np.array([image * 100 + row for image, row, _ in entities])[things],
    )


def _is_thing(entity: Entity) -> bool:
    return entity.owner == -1 and entity.thing != -1


def _probe(seen: Seen, answers: np.ndarray) -> float:
    """Accuracy of ridge regression on one-hot answers, learnt on 250 scenes and asked about 50 others."""
    known = seen.images < 250
    mean = seen.features[known].mean(0)
    inputs, targets = seen.features[known] - mean, np.eye(int(answers.max()) + 1)[answers[known]]
    gram = inputs.T @ inputs + 0.05 * np.trace(inputs.T @ inputs) / WIDTH * np.eye(WIDTH)
    weights = np.linalg.solve(gram, inputs.T @ (targets - targets.mean(0)))
    guesses = ((seen.features[~known] - mean) @ weights + targets.mean(0)).argmax(1)
    return float((guesses == answers[~known]).mean())


def test_features_look_like_pooled_ones(scenes: list[Scene], detections: list[Detections]) -> None:
    appearance = Appearance(SEED, feature_width=2048)
    pairs = zip(scenes[:20], detections, strict=False)
    features = np.stack([appearance.features(scene, found) for scene, found in pairs])
    assert features.dtype == np.float32
    assert features.min() == 0
    assert 0.4 < features.mean() < 0.8
    assert 0.25 < (features == 0).mean() < 0.4
    assert 10 < np.median(features.max(2)) < 35
    assert features.max() < 100  # far from what float16 holds


def test_a_linear_probe_recovers_category_and_colour(seen: Seen) -> None:
    assert _probe(seen, seen.categories) > 0.9
    assert _probe(seen, seen.colours) > 0.85


def test_no_single_dimension_predicts_category_or_colour(seen: Seen) -> None:
    assert max(_accuracy_from(column, seen.categories) for column in seen.features.T) < 0.2
    assert max(_accuracy_from(column, seen.colours) for column in seen.features.T) < 0.4


def _accuracy_from(column: np.ndarray, answers: np.ndarray) -> float:
    """How often the most frequent answer is right in each of 32 equally filled ranges of one dimension."""
    ranges = np.digitize(column, np.quantile(column, np.linspace(0, 1, 33)[1:-1]))
    right = [np.bincount(answers[ranges == number]).max() for number in np.unique(ranges)]
    return float(sum(right) / len(answers))


def test_one_dimension_does_not_mark_the_things_of_one_category(seen: Seen) -> None:
    for answers in (seen.categories, seen.colours):
        for answer in np.flatnonzero(np.bincount(answers) >= 30):
            positive = answers == answer
            largest = np.argsort(-seen.features, axis=0)[: positive.sum()]
            assert positive[largest].mean(0).max() < 0.75


def test_two_detections_of_one_thing_share_most_of_their_feature(seen: Seen) -> None:
    unit = seen.features / np.linalg.norm(seen.features, axis=1, keepdims=True)
    cosines = unit[:500] @ unit[:500].T
    same = (seen.instances[:500, None] == seen.instances[None, :500]) & ~np.eye(500, dtype=bool)
    assert cosines[same].mean() > 0.75
    assert cosines[~same & ~np.eye(500, dtype=bool)].mean() < 0.5


def test_the_detector_confuses_a_few_within_a_group(seen: Seen) -> None:
    wrong = seen.labels != seen.categories
    assert 0.01 < wrong.mean() < 0.08
    for label, truth in zip(seen.labels[wrong], seen.categories[wrong], strict=True):
        assert CATEGORIES[label] in GROUPS[CATEGORIES[truth].group]


def test_each_thing_is_seen_at_most_four_times_and_most_of_them_at_all(
    scenes: list[Scene], detections: list[Detections]
) -> None:
    times = []
    for scene, found in zip(scenes, detections, strict=True):
        rows = [found.entities[row] for row in found.entity_rows]
        times += [sum(e.thing == row and e.owner == -1 for e in rows) for row in range(len(scene.things))]
    assert max(times) == 4
    assert np.mean(np.array(times) > 0) > 0.99


def test_attributes_are_mostly_the_true_colour_or_state(detections: list[Detections]) -> None:
    right = [
        attribute in (found.entities[row].colour, found.entities[row].state)
        for found in detections
        for attribute, row in zip(found.attribute_ids, found.entity_rows, strict=True)
    ]
    assert 0.85 < np.mean(right) < 0.97


def test_every_scene_has_thirty_six_detections(detections: list[Detections]) -> None:
    assert {len(found.object_ids) for found in detections} == {36}
    assert {found.boxes.shape for found in detections} == {(36, 4)}


def test_colours_come_first_among_the_attributes(detections: list[Detections]) -> None:
    assert max(entity.colour for found in detections for entity in found.entities) == len(COLOURS) - 1
    assert min(entity.state for found in detections for entity in found.entities) == -1
