"""The detector of the world: 36 noisy detections a scene, as a bottom-up-attention detector would give them."""

from dataclasses import dataclass

import numpy as np

from msp_ds.demo_world import vocabulary
from msp_ds.demo_world.random_stream import RandomStream, stream
from msp_ds.demo_world.relations import Box
from msp_ds.demo_world.scenes import Scene, Thing
from msp_ds.demo_world.vocabulary import ATTRIBUTES, COLOURS, Category

NUM_BOXES = 36  # as in LXMERT's features

_NOTHING = -1
_CONFUSED = 0.05  # fraction of the detections of things whose label is another one of the group
_SIMILAR = ("orange", "red", "tan", "blue", "gray", "blue", "red", "tan", "gray", "gray", "white", "brown")
_NEXT_COLOUR = dict(zip(COLOURS, _SIMILAR, strict=True))
_COLOUR_NUMBER = {colour: number for number, colour in enumerate(COLOURS)}
_ATTRIBUTE_NUMBER = {attribute: number for number, attribute in enumerate(ATTRIBUTES)}


@dataclass(frozen=True)
class Entity:
    """Something that can be detected, with its true properties."""

    category: int  # line number in the objects vocabulary
    colour: int  # line number in the attributes vocabulary; colours come first
    state: int  # line number in the attributes vocabulary; -1 where there is none
    size: int  # -1 small, 0, 1 large
    owner: int  # category of the thing that this is a part of; -1 where it is no part
    thing: int  # row of Scene.things that it is or belongs to; -1 for backgrounds


@dataclass(frozen=True, kw_only=True)
class Detections:
    """36 detections, those with the highest scores first."""

    boxes: np.ndarray
    """float32 [36, 4], x0 y0 x1 y1 in pixels."""
    object_ids: np.ndarray
    """int64 [36], the predicted labels, some of them wrong."""
    object_scores: np.ndarray
    """float32 [36]."""
    attribute_ids: np.ndarray
    """int64 [36]."""
    attribute_scores: np.ndarray
    """float32 [36]."""
    entity_rows: np.ndarray
    """int64 [36], the row of `entities` that each box shows."""
    entities: tuple[Entity, ...]


@dataclass(frozen=True)
class _Detection:
    score: float
    box: Box
    object_id: int
    attribute_id: int
    attribute_score: float
    entity: int


def detect(seed: int, scene: Scene) -> Detections:
    """Return the detections of a scene, a pure function of the seed and the scene's number."""
    return _Detector(RandomStream(stream(seed, scene.number, "detections")), scene).run()


class _Detector:
    """Collects the detections of one scene."""

    def __init__(self, rng: RandomStream, scene: Scene) -> None:
        self._rng, self._scene = rng, scene
        self._entities: list[Entity] = []
        self._found: list[_Detection] = []

    def run(self) -> Detections:
        for row, thing in enumerate(self._scene.things):
            self._detect_thing(row, thing)
        self._detect_backgrounds()
        chosen = sorted(self._found, key=lambda detection: -detection.score)[:NUM_BOXES]
        return Detections(
            boxes=np.array([detection.box for detection in chosen], dtype="<f4"),
            object_ids=np.array([detection.object_id for detection in chosen], dtype="<i8"),
            object_scores=np.array([detection.score for detection in chosen], dtype="<f4"),
            attribute_ids=np.array([detection.attribute_id for detection in chosen], dtype="<i8"),
            attribute_scores=np.array([detection.attribute_score for detection in chosen], dtype="<f4"),
            entity_rows=np.array([detection.entity for detection in chosen], dtype=np.int64),
            entities=tuple(self._entities),
        )

    def _detect_thing(self, row: int, thing: Thing) -> None:
        """Add one confident detection and up to three more, then some of the thing's parts."""
        rng = self._rng
        colour, state = _COLOUR_NUMBER[thing.colour], _ATTRIBUTE_NUMBER.get(thing.state, _NOTHING)
        number, size = thing.category.number, {"small": -1, "large": 1}.get(thing.size, 0)
        self._entities.append(Entity(number, colour, state, size, _NOTHING, row))
        confident = rng.uniform(0.62, 0.97) - (0.12 if thing.size == "small" else 0.0)
        for nth in range(1 + rng.below(4)):
            score = confident if nth == 0 else confident * rng.uniform(0.35, 0.85)
            self._detect(thing.category, thing.box, score, jitter=0.04 if nth == 0 else 0.12)
        for part in thing.parts:
            if rng.chance(0.5):
                entity = Entity(part.category.number, _COLOUR_NUMBER[part.colour], _NOTHING, 0, number, row)
                self._entities.append(entity)
                self._detect(part.category, part.box, rng.uniform(0.2, 0.55), jitter=0.08)

    def _detect_backgrounds(self) -> None:
        """Add each background once with a fair score, then more of them until there are 36 boxes."""
        first = len(self._entities)
        for category, colour in self._scene.backgrounds:
            self._entities.append(Entity(category.number, _COLOUR_NUMBER[colour], _NOTHING, 1, _NOTHING, _NOTHING))
        num_backgrounds = len(self._scene.backgrounds)
        for nth in range(max(num_backgrounds, NUM_BOXES - len(self._found))):
            row = nth if nth < num_backgrounds else self._rng.below(num_backgrounds)
            category, _ = self._scene.backgrounds[row]
            score = self._rng.uniform(0.4, 0.8) if nth < num_backgrounds else self._rng.uniform(0.12, 0.4)
            self._detect(category, self._filler(category), score, jitter=0.0, entity=first + row)

    def _filler(self, category: Category) -> Box:
        """Return a box in the half of the image, upper or lower, that the background fills."""
        rng, scene = self._rng, self._scene
        upper = vocabulary.BACKGROUNDS[category.name][0] == "upper"
        top, bottom = (0.0, scene.horizon) if upper else (scene.horizon, float(scene.height))
        x0, y0 = rng.uniform(0.0, 0.6) * scene.width, top + rng.uniform(0.0, 0.5) * (bottom - top)
        x1 = x0 + rng.uniform(0.3, 1.0) * (scene.width - x0)
        return Box(x0, y0, x1, y0 + rng.uniform(0.4, 1.0) * (bottom - y0))

    def _detect(self, category: Category, box: Box, score: float, *, jitter: float, entity: int = _NOTHING) -> None:
        row = len(self._entities) - 1 if entity == _NOTHING else entity
        rng, label = self._rng, category.number
        if category.place not in ("part", "background") and rng.chance(_CONFUSED):
            label = rng.pick(vocabulary.GROUPS[category.group]).number
        attribute = self._attribute(self._entities[row], person=category.name in vocabulary.PEOPLE)
        shifted = box if jitter == 0.0 else self._jittered(box, jitter)
        self._found.append(_Detection(score, shifted, label, attribute, rng.uniform(0.1, 0.7), row))

    def _attribute(self, entity: Entity, *, person: bool) -> int:
        """Return the colour or, mostly for people, the state; sometimes a similar colour or any attribute."""
        draw = self._rng.uniform()
        if entity.state != _NOTHING and draw < (0.7 if person else 0.2):
            return entity.state
        if draw > 0.97:
            return self._rng.below(len(ATTRIBUTES))
        if draw > 0.92:
            return _COLOUR_NUMBER[_NEXT_COLOUR[COLOURS[entity.colour]]]
        return entity.colour

    def _jittered(self, box: Box, jitter: float) -> Box:
        """Return the box with each side moved by up to `jitter` of its size and cut at the image's edges."""
        rng = self._rng
        dx, dy = jitter * box.width, jitter * box.height
        return Box(
            max(box.x0 + rng.uniform(-dx, dx), 0.0),
            max(box.y0 + rng.uniform(-dy, dy), 0.0),
            min(box.x1 + rng.uniform(-dx, dx), float(self._scene.width)),
            min(box.y1 + rng.uniform(-dy, dy), float(self._scene.height)),
        )
