"""The arrangement of a scene: things on the ground, on a table, on a horse, in a hand, on the wall, in the sky."""

from dataclasses import dataclass

from msp_ds.demo_world import vocabulary
from msp_ds.demo_world.random_stream import RandomStream
from msp_ds.demo_world.relations import GROUND, Box, Relation, overlap_across
from msp_ds.demo_world.vocabulary import Category

_TRIES = 5  # candidate boxes of a thing; the one that hides the other things least is used


@dataclass(frozen=True)
class Placed:
    """A category with its box in pixels and its nearness: 1 is nearest, and heights scale with it."""

    category: Category
    box: Box
    nearness: float


class SceneLayout:
    """A scene while it is being arranged."""

    def __init__(self, rng: RandomStream, *, height: int, width: int) -> None:
        self._rng = rng
        self._height, self._width = height, width
        self._busy: set[int] = set()  # rows that ride, hold, are ridden or are held
        self.placed: list[Placed] = []
        self.relations: list[Relation] = []
        self.horizon = height * rng.uniform(0.36, 0.52)

    @property
    def area(self) -> float:
        """Area of the image in square pixels."""
        return float(self._height * self._width)

    def add(self, category: Category) -> None:
        """Place a thing of this category where it would naturally be."""
        if category.name in vocabulary.PEOPLE:
            placed = self._ride(category) or self._sit(category) or self._stand(category)
        elif category.place == "wall":
            placed = self._hang(category, low=0.04, high=0.9 * self.horizon / self._height)
        elif category.place == "sky":
            placed = self._hang(category, low=0.02, high=0.8 * self.horizon / self._height)
        else:
            placed = self._hold(category) or self._rest(category) or self._stand(category)
        self.placed.append(placed)

    def _free(self, names: frozenset[str]) -> int | None:
        rows = [row for row, p in enumerate(self.placed) if p.category.name in names and row not in self._busy]
        return self._rng.pick(rows) if rows else None

    def _bind(self, name: str, target: int) -> None:
        row = len(self.placed)
        self.relations.append(Relation(row, name, target))
        self._busy |= {row, target}

    def _box(self, centre: float, bottom: float, height: float, aspect: float) -> Box:
        """Return a box inside the image from its horizontal centre, its bottom and its height in pixels."""
        height = min(max(height, 10.0), 0.95 * bottom)
        width = min(max(height * aspect, 10.0), 0.9 * self._width)
        centre = min(max(centre, width / 2), self._width - width / 2)
        return Box(centre - width / 2, bottom - height, centre + width / 2, bottom)

    def _height_of(self, category: Category, nearness: float) -> float:
        return category.height * nearness * self._height * self._rng.uniform(0.85, 1.15)

    def _stand(self, category: Category) -> Placed:
        """Place a thing on the ground, where it hides the others least."""
        self.relations.append(Relation(len(self.placed), "on", GROUND))
        tries = [self._somewhere(category) for _ in range(_TRIES)]
        return min(tries, key=lambda placed: self._crowding(placed.box))

    def _somewhere(self, category: Category) -> Placed:
        depth = self._rng.uniform(0.25, 0.97)
        bottom = self.horizon + depth * (self._height - self.horizon)
        nearness = 0.45 + 0.55 * depth
        height = self._height_of(category, nearness)
        box = self._box(self._rng.uniform(0.0, self._width), bottom, height, category.aspect)
        return Placed(category, box, nearness)

    def _crowding(self, box: Box) -> float:
        return sum(max(overlap_across(box, other.box), 0.0) for other in self.placed)

    def _hang(self, category: Category, *, low: float, high: float) -> Placed:
        nearness = self._rng.uniform(0.6, 1.0)
        height = min(self._height_of(category, nearness), 0.9 * high * self._height)
        bottom = self._rng.uniform(low * self._height + height, max(high * self._height, low * self._height + height))
        tries = [
            Placed(category, self._box(self._rng.uniform(0.0, self._width), bottom, height, category.aspect), nearness)
            for _ in range(_TRIES)
        ]
        return min(tries, key=lambda placed: self._crowding(placed.box))

    def _ride(self, category: Category) -> Placed | None:
        mount = self._free(vocabulary.RIDEABLE)
        if mount is None or not self._rng.chance(0.75):
            return None
        self._bind("riding", mount)
        box, nearness = self.placed[mount].box, self.placed[mount].nearness
        bottom = box.y0 + 0.45 * box.height
        height = 0.85 * self._height_of(category, nearness)
        centre = box.cx + self._rng.uniform(-0.1, 0.1) * box.width
        return Placed(category, self._box(centre, bottom, height, category.aspect), nearness)

    def _sit(self, category: Category) -> Placed | None:
        seat = self._free(vocabulary.SEATS)
        if seat is None or not self._rng.chance(0.4):
            return None
        self._bind("on", seat)
        box, nearness = self.placed[seat].box, self.placed[seat].nearness
        bottom = box.y0 + 0.75 * box.height
        height = max(0.7 * self._height_of(category, nearness), 0.7 * box.height)
        centre = box.cx + self._rng.uniform(-0.25, 0.25) * box.width
        return Placed(category, self._box(centre, bottom, height, category.aspect), nearness)

    def _hold(self, category: Category) -> Placed | None:
        name = "wearing" if category.name in vocabulary.WEARABLE else "holding"
        if category.name not in vocabulary.HOLDABLE | vocabulary.WEARABLE or not self._rng.chance(0.65):
            return None
        person = self._free(vocabulary.PEOPLE)
        if person is None:
            return None
        row = len(self.placed)
        self.relations.append(Relation(person, name, row))
        self._busy |= {row, person}
        box, nearness = self.placed[person].box, self.placed[person].nearness
        height = min(self._height_of(category, nearness), 0.5 * box.height)
        side = self._rng.pick((-0.4, 0.4)) if name == "holding" else 0.1
        hand = 0.18 if category.name == "umbrella" else 0.55
        bottom = max(box.y0 + hand * box.height + height / 2, height + 1.0)
        return Placed(category, self._box(box.cx + side * box.width, bottom, height, category.aspect), nearness)

    def _rest(self, category: Category) -> Placed | None:
        """Place a thing on a table or the like, where small things of the ground sometimes lie too."""
        probability = 0.92 if category.place == "surface" else 0.25 if category.height < 0.2 else 0.0
        carriers = [row for row, placed in enumerate(self.placed) if placed.category.name in vocabulary.CARRIERS]
        if not carriers or not self._rng.chance(probability):
            return None
        target = self._rng.pick(carriers)
        self.relations.append(Relation(len(self.placed), "on", target))
        box, nearness = self.placed[target].box, self.placed[target].nearness
        bottom = box.y0 + self._rng.uniform(0.05, 0.35) * box.height
        height = 1.3 * self._height_of(category, nearness)
        centres = [self._rng.uniform(box.x0 + 0.1 * box.width, box.x1 - 0.1 * box.width) for _ in range(_TRIES)]
        boxes = [self._box(centre, bottom, height, category.aspect) for centre in centres]
        return Placed(category, min(boxes, key=self._crowding), nearness)
