"""Scenes: things with boxes, colours and states, and the relations arranged between them."""

from dataclasses import dataclass
from typing import NamedTuple

from msp_ds.demo_world import vocabulary
from msp_ds.demo_world.layout import Placed, SceneLayout
from msp_ds.demo_world.random_stream import RandomStream, stream
from msp_ds.demo_world.relations import GROUND, Box, Relation
from msp_ds.demo_world.vocabulary import Category, Theme

SIZES = ((480, 640), (640, 480), (427, 640), (425, 640), (500, 375), (333, 500), (640, 427), (612, 612))
"""Heights and widths in pixels that are frequent in COCO."""

_SMALL, _LARGE = 0.012, 0.12


class ThingPart(NamedTuple):
    """A part of a thing."""

    category: Category
    box: Box
    colour: str


@dataclass(frozen=True, kw_only=True)
class Thing:
    """One object of a scene."""

    category: Category
    box: Box  # pixels, inside the image
    colour: str
    state: str  # material or quality; empty for none
    size: str  # `small`, `large` or empty, by the fraction of the image that the box covers
    parts: tuple[ThingPart, ...]


@dataclass(frozen=True, kw_only=True)
class Scene:
    """The ground truth of one image."""

    number: int
    height: int  # pixels
    width: int
    theme: Theme
    horizon: float  # top of the ground, in pixels from the top of the image
    backgrounds: tuple[tuple[Category, str], ...]
    """Categories behind the things, with their colours; the first is the ground."""
    things: tuple[Thing, ...]  # the largest first
    relations: tuple[Relation, ...]  # the arranged relations: riding, holding, wearing, on (a thing, or GROUND)


def draw_scene(seed: int, number: int) -> Scene:
    """Return scene `number` of the world `seed`, a pure function of the two."""
    rng = RandomStream(stream(seed, number, "scene"))
    theme = rng.pick(vocabulary.THEMES)
    height, width = rng.pick(SIZES)
    layout = SceneLayout(rng, height=height, width=width)
    for category in _draw_categories(rng, theme):
        layout.add(category)
    things, relations = _by_size(rng, layout)
    return Scene(
        number=number,
        height=height,
        width=width,
        theme=theme,
        horizon=layout.horizon,
        backgrounds=_backgrounds(rng, theme),
        things=things,
        relations=relations,
    )


def _draw_categories(rng: RandomStream, theme: Theme) -> list[Category]:
    """Return four to eight categories: those that carry others first, people before things they might hold."""
    names = [theme.objects[rng.rank(len(theme.objects))] for _ in range(4 + rng.below(5))]
    if rng.chance(0.15):
        names[-1] = rng.pick(vocabulary.THINGS).name  # a guest from another theme
    for name in sorted(set(names)):
        while names.count(name) > 4:
            names.remove(name)
    return sorted((vocabulary.BY_NAME[name] for name in names), key=_rank_of_placing)


def _rank_of_placing(category: Category) -> int:
    if category.name in vocabulary.CARRIERS:
        return 0
    if category.name in vocabulary.PEOPLE:
        return 2
    return 1 if category.name in vocabulary.RIDEABLE | vocabulary.SEATS else 3


def _by_size(rng: RandomStream, layout: SceneLayout) -> tuple[tuple[Thing, ...], tuple[Relation, ...]]:
    """Return the things with colours, the largest first, and the relations between their new rows."""
    order = sorted(range(len(layout.placed)), key=lambda row: -layout.placed[row].box.area)
    new_row = {old: new for new, old in enumerate(order)}
    new_row[GROUND] = GROUND
    things = tuple(_painted(rng, layout.placed[old], layout.area) for old in order)
    relations = [Relation(new_row[r.subject], r.name, new_row[r.target]) for r in layout.relations]
    return things, tuple(sorted(relations))


def _painted(rng: RandomStream, placed: Placed, area: float) -> Thing:
    category = placed.category
    area_ratio = placed.box.area / area
    colour = category.palette[rng.rank(len(category.palette))]
    return Thing(
        category=category,
        box=placed.box,
        colour=colour,
        state=rng.pick(category.states) if category.states and rng.chance(0.6) else "",
        size="small" if area_ratio < _SMALL else "large" if area_ratio > _LARGE else "",
        parts=tuple(_part(rng, name, placed.box, colour) for name in category.parts),
    )


def _part(rng: RandomStream, name: str, owner: Box, colour: str) -> ThingPart:
    (x0, y0, x1, y1), palette = vocabulary.PARTS[name]
    box = Box(
        owner.x0 + x0 * owner.width,
        owner.y0 + y0 * owner.height,
        owner.x0 + x1 * owner.width,
        owner.y0 + y1 * owner.height,
    )
    return ThingPart(vocabulary.BY_NAME[name], box, rng.pick(palette) if palette else colour)


def _backgrounds(rng: RandomStream, theme: Theme) -> tuple[tuple[Category, str], ...]:
    chosen = [theme.ground, *rng.some([name for name in theme.backgrounds if name != theme.ground], 2 + rng.below(2))]
    return tuple((vocabulary.BY_NAME[name], rng.pick(vocabulary.BACKGROUNDS[name][1])) for name in chosen)
