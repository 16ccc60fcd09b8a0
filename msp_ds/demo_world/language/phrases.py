"""Region phrases like Visual Genome's: mostly without a verb, carelessly typed, some of them twice."""

from typing import NamedTuple

from msp_ds.demo_world import vocabulary
from msp_ds.demo_world.language.caption_writer import CaptionWriter, Form
from msp_ds.demo_world.random_stream import RandomStream, stream
from msp_ds.demo_world.relations import GROUND, Box, Relation
from msp_ds.demo_world.scenes import Scene

FEWEST, MOST = 7, 13  # phrases of an image, before duplicates


class Phrase(NamedTuple):
    """A text about a region of an image."""

    text: str
    box: Box


def phrases_of(seed: int, scene: Scene) -> list[Phrase]:
    """Return the phrases of one image, about a quarter of them with a verb."""
    rng = RandomStream(stream(seed, scene.number, "phrases"))
    captioner = CaptionWriter(scene, rng)
    phrases: list[Phrase] = []
    for _ in range(FEWEST + rng.below(MOST - FEWEST + 1)):
        phrase = _phrase(captioner)
        phrases.append(phrase._replace(text=_typed(rng, phrase.text)))
        if rng.chance(0.08):
            phrases.append(phrase._replace(text=_typed(rng, phrase.text)))
    return phrases


def _phrase(captioner: CaptionWriter) -> Phrase:
    rng = captioner.rng
    row = rng.below(len(captioner.scene.things))
    kind = rng.uniform()
    if kind < 0.10:
        return _of_background(captioner)
    if kind < 0.28 and captioner.scene.things[row].parts:
        return _of_part(captioner, row)
    box = captioner.scene.things[row].box
    if kind < 0.50:
        return Phrase(_of_relation(captioner, row, verbs=False), box)
    if kind < 0.75:
        return Phrase(_of_relation(captioner, row, verbs=True), box)
    return Phrase(_of_thing(captioner, row), box)


def _of_thing(captioner: CaptionWriter, row: int) -> str:
    """`small red ball`, `a green old car`."""
    return captioner.noun(row, article=captioner.rng.pick(("", "", "a", "the")), details=captioner.rng.pick((1, 2, 2)))


def _of_part(captioner: CaptionWriter, row: int) -> Phrase:
    """`the lid of a pot`, `black wheel of the red car`, `red car's wheel`."""
    rng = captioner.rng
    part = rng.pick(captioner.scene.things[row].parts)
    colour = f"{part.colour} " if rng.chance(0.5) else ""
    owner = captioner.noun(row, article=rng.pick(("a", "the")), details=rng.pick((0, 0, 1)))
    article = rng.pick(("", "the "))
    return Phrase(f"{article}{colour}{part.category.name} of {owner}", part.box)


def _of_background(captioner: CaptionWriter) -> Phrase:
    """`blue sky`, `the grass is green`."""
    scene, rng = captioner.scene, captioner.rng
    category, colour = rng.pick(scene.backgrounds)
    upper = vocabulary.BACKGROUNDS[category.name][0] == "upper"
    top, bottom = (0.0, scene.horizon) if upper else (scene.horizon, float(scene.height))
    text = f"the {category.name} is {colour}" if rng.chance(0.2) else f"{colour} {category.name}"
    return Phrase(text, Box(0.0, top, float(scene.width), bottom))


def _of_relation(captioner: CaptionWriter, row: int, *, verbs: bool) -> str:
    """`cup next to a plate`, `man on the grass`; with verbs `man is riding a horse`, `car parked near a tree`."""
    rng = captioner.rng
    relation = captioner.relation(row)
    if relation is None or (captioner.stands_on_ground(row) and rng.chance(0.3)):
        relation = Relation(row, "on", GROUND) if captioner.stands_on_ground(row) else None
    if relation is None or (not verbs and relation.name in ("riding", "holding", "wearing")):
        return _of_thing(captioner, row) if not verbs else _with_copula(captioner, row)
    subject = captioner.noun(row, article=rng.pick(("", "", "a")), details=rng.pick((0, 0, 1)))
    on_ground = relation.target == GROUND
    target = (
        captioner.ground() if on_ground else captioner.noun(relation.target, article=rng.pick(("a", "the")), details=0)
    )
    form: Form = rng.pick(("finite", "copula", "bare")) if verbs else "copula"
    link = captioner.link(relation, form)
    link = link if verbs else link.removeprefix("is ")
    return f"{subject} {link} {target}"


def _with_copula(captioner: CaptionWriter, row: int) -> str:
    """`the ball is red`."""
    thing = captioner.scene.things[row]
    if captioner.is_person(row):
        return f"the {thing.category.name} is wearing a {thing.colour} shirt"
    return f"the {thing.category.name} is {thing.colour}"


def _typed(rng: RandomStream, text: str) -> str:
    """Return the phrase as hurried annotators type it: any case, a full stop or none, extra white space."""
    if rng.chance(0.45):
        text = text[0].upper() + text[1:]
    elif rng.chance(0.05):
        text = text.upper()
    if rng.chance(0.2):
        text += "."
    if rng.chance(0.06):
        text = text.replace(" ", "  ", 1)
    return f"{text} " if rng.chance(0.1) else text
