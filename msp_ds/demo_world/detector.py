"""The detector of the world: 36 noisy detections a scene, as a bottom-up-attention detector would give them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from msp_ds.demo_world import vocabulary
from msp_ds.demo_world.random_stream import RandomStream, stream
from msp_ds.demo_world.relations import Box
from msp_ds.demo_world.scenes import Scene, Thing
from msp_ds.demo_world.vocabulary import ATTRIBUTES, COLOURS, Category

NUM_BOXES = 36
"""As in LXMERT's features."""

_NOTHING = -1
_CONFUSED = 0.05
"""Share of the detections of things whose label is another one of the group."""
_NEXT_COLOUR = {
    "red": "orange",
    "orange": "red",
    "yellow": "tan",
    "green": "blue",
    "blue": "gray",
    "purple": "blue",
    "pink": "red",
    "brown": "tan",
    "black": "gray",
    "white": "gray",
    "gray": "white",
    "tan": "brown",
}
_COLOUR_NUMBER = {colour: number for number, colour in enumerate(COLOURS)}
_ATTRIBUTE_NUMBER = {attribute: number for number, attribute in enumerate(ATTRIBUTES)}


@dataclass(frozen=True)
class Entity:
    """Something that can be detected, as it truly is."""

    category: int
    """Line number in the objects vocabulary."""
    colour: int
    """Line number in the attributes vocabulary; colours come first."""
    state: int
    """The same; -1 where there is none."""
    size: int
    """-1 small, 0, 1 large."""
    owner: int
    """Category of the thing that this is a part of; -1 where it is no part."""
    thing: int
    """Row of Scene.things that it is or belongs to; -1 for backgrounds."""


@dataclass(frozen=True, kw_only=True)
class Detections:
    """36 detections, the surest first."""

    boxes: np.ndarray
    """float32 [36, 4], x0 y0 x1 y1 in pixels."""
    object_ids: np.ndarray
    """int64 [36], what the detector says: sometimes wrong."""
    object_scores: np.ndarray
    """float32 [36]."""
    attribute_ids: np.ndarray
    """int64 [36]."""
    attribute_scores: np.ndarray
    """float32 [36]."""
    entity_rows: np.ndarray
    """int64 [36], what each box really shows: a row of `entities`."""
    entities: tuple[Entity, ...]


@dataclass(frozen=True)
class _Sighting:
    score: float
    box: Box
    object_id: int
    attribute_id: int
    attribute_score: float
    entity: int


def detect(seed: int, scene: Scene) -> Detections:
    """What the detector makes of the scene; a function of the seed and the scene's number."""
    return _Detector(RandomStream(stream(seed, scene.number, "detections")), scene).look()


class _Detector:
    """One look at one scene."""

    def __init__(self, rng: RandomStream, scene: Scene) -> None:
        self._rng, self._scene = rng, scene
        self._entities: list[Entity] = []
        self._seen: list[_Sighting] = []

    def look(self) -> Detections:
        for row, thing in enumerate(self._scene.things):
            self._see_thing(row, thing)
        self._see_backgrounds()
        chosen = sorted(self._seen, key=lambda sighting: -sighting.score)[:NUM_BOXES]
        return Detections(
            boxes=np.array([sighting.box for sighting in chosen], dtype="<f4"),
            object_ids=np.array([sighting.object_id for sighting in chosen], dtype="<i8"),
            object_scores=np.array([sighting.score for sighting in chosen], dtype="<f4"),
            attribute_ids=np.array([sighting.attribute_id for sighting in chosen], dtype="<i8"),
            attribute_scores=np.array([sighting.attribute_score for sighting in chosen], dtype="<f4"),
            entity_rows=np.array([sighting.entity for sighting in chosen], dtype=np.int64),
            entities=tuple(self._entities),
        )

    def _see_thing(self, row: int, thing: Thing) -> None:
        """One sure detection and up to three more; then some of its parts."""
        rng = self._rng
        colour, state = _COLOUR_NUMBER[thing.colour], _ATTRIBUTE_NUMBER.get(thing.state, _NOTHING)
        number = thing.category.number
        size = {"small": -1, "large": 1}.get(thing.size, 0)
        self._entities.append(Entity(number, colour, state, size, _NOTHING, row))
        sure = rng.uniform(0.62, 0.97) - (0.12 if thing.size == "small" else 0.0)
        for nth in range(1 + rng.below(4)):
            score = sure if nth == 0 else sure * rng.uniform(0.35, 0.85)
            self._see(thing.category, thing.box, score, jitter=0.04 if nth == 0 else 0.12)
        for part in thing.parts:
            if rng.chance(0.5):
                part_colour = _COLOUR_NUMBER[part.colour]
                self._entities.append(Entity(part.category.number, part_colour, _NOTHING, 0, number, row))
                self._see(part.category, part.box, rng.uniform(0.2, 0.55), jitter=0.08)

    def _see_backgrounds(self) -> None:
        """Each background once with a fair score, then again and again until 36 boxes are full."""
        first = len(self._entities)
        for category, colour in self._scene.backgrounds:
            self._entities.append(Entity(category.number, _COLOUR_NUMBER[colour], _NOTHING, 1, _NOTHING, _NOTHING))
        num_backgrounds = len(self._scene.backgrounds)
        for nth in range(max(num_backgrounds, NUM_BOXES - len(self._seen))):
            row = nth if nth < num_backgrounds else self._rng.below(num_backgrounds)
            category, _ = self._scene.backgrounds[row]
            score = self._rng.uniform(0.4, 0.8) if nth < num_backgrounds else self._rng.uniform(0.12, 0.4)
            self._see(category, self._filler(category), score, jitter=0.0, entity=first + row)

    def _filler(self, category: Category) -> Box:
        """Some of the upper or of the lower half of the image."""
        rng, scene = self._rng, self._scene
        upper = vocabulary.BACKGROUNDS[category.name][0] == "upper"
        top, bottom = (0.0, scene.horizon) if upper else (scene.horizon, float(scene.height))
        x0, y0 = rng.uniform(0.0, 0.6) * scene.width, top + rng.uniform(0.0, 0.5) * (bottom - top)
        x1 = x0 + rng.uniform(0.3, 1.0) * (scene.width - x0)
        return Box(x0, y0, x1, y0 + rng.uniform(0.4, 1.0) * (bottom - y0))

    def _see(self, category: Category, box: Box, score: float, *, jitter: float, entity: int = _NOTHING) -> None:
        row = len(self._entities) - 1 if entity == _NOTHING else entity
        rng = self._rng
        label = category.number
        if category.place not in ("part", "background") and rng.chance(_CONFUSED):
            label = rng.pick(vocabulary.GROUPS[category.group]).number
        attribute = self._attribute(self._entities[row], person=category.name in vocabulary.PEOPLE)
        seen = box if jitter == 0.0 else self._jittered(box, jitter)
        self._seen.append(_Sighting(score, seen, label, attribute, rng.uniform(0.1, 0.7), row))

    def _attribute(self, entity: Entity, *, person: bool) -> int:
        """The colour or, for people mostly, the state; at times a similar colour or a wild guess."""
        throw = self._rng.uniform()
        if entity.state != _NOTHING and throw < (0.7 if person else 0.2):
            return entity.state
        if throw > 0.97:
            return self._rng.below(len(ATTRIBUTES))
        if throw > 0.92:
            return _COLOUR_NUMBER[_NEXT_COLOUR[COLOURS[entity.colour]]]
        return entity.colour

    def _jittered(self, box: Box, jitter: float) -> Box:
        """The box with each side moved, inside the image and still a box."""
        rng = self._rng
        dx, dy = jitter * box.width, jitter * box.height
        return Box(
            max(box.x0 + rng.uniform(-dx, dx), 0.0),
            max(box.y0 + rng.uniform(-dy, dy), 0.0),
            min(box.x1 + rng.uniform(-dx, dx), float(self._scene.width)),
            min(box.y1 + rng.uniform(-dy, dy), float(self._scene.height)),
        )
