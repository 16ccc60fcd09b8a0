"""Five writers, who see the same scene and write each in their own way: 6 to 18 words, true, never complete."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from msp_ds.demo_world import vocabulary
from msp_ds.demo_world.language.telling import CaptionWriter, Form, Sentence, with_article
from msp_ds.demo_world.random_stream import RandomStream, stream
from msp_ds.demo_world.relations import GROUND, Relation
from msp_ds.demo_world.scenes import Scene

SHORTEST, LONGEST = 6, 18
"""Words of a caption."""

_NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight")
_TRIES = 12


def captions_of(seed: int, scene: Scene) -> tuple[Sentence, ...]:
    """Five captions, one from each writer."""
    captioner = CaptionWriter(scene, RandomStream(stream(seed, scene.number, "captions")))
    return tuple(_fitting(writer, captioner) for writer in WRITERS)


def _fitting(writer: Callable[[CaptionWriter], Sentence], captioner: CaptionWriter) -> Sentence:
    """The writer's first try that is neither too short nor too long."""
    for _ in range(_TRIES):
        told = writer(captioner)
        if SHORTEST <= told.text.count(" ") + 1 <= LONGEST:
            return told
    row = captioner.salient(1)[0]
    return Sentence(f"a view of {captioner.noun(row)} {captioner.setting()}", (), (row,))


def terse(captioner: CaptionWriter) -> Sentence:
    """`red car parked next to a brown dog on the street`."""
    told = _main_clause(captioner, form="bare", details=1, article=captioner.rng.pick(("a", "")))
    return told._replace(text=f"{told.text} {captioner.setting()}") if captioner.rng.chance(0.5) else told


def detailed(captioner: CaptionWriter) -> Sentence:
    """`A small red ball lies on the green grass next to a brown dog.`"""
    row = captioner.salient(1)[0]
    first = captioner.noun(row, details=2)
    if not captioner.stands_on_ground(row) or captioner.rng.chance(0.4):
        return _sentence(_main_clause(captioner, form="finite", details=2))
    on = Relation(row, "on", GROUND)
    relation = captioner.relation(row)
    text = f"{first} {captioner.link(on, 'finite')} {captioner.ground(details=1)}"
    if relation is None:
        return _sentence(Sentence(text, (on,), (row,)))
    # After "lies on the grass" a plain "near", or "holding": never a second stance.
    link = captioner.link(relation, "copula").removeprefix("is ")
    text = f"{text} {link} {captioner.noun(relation.target, details=1)}"
    return _sentence(Sentence(text, (on, relation), (row, relation.target)))


def relational(captioner: CaptionWriter) -> Sentence:
    """`The red car is behind the dog, and the bench is to the left of it.`"""
    told = _main_clause(captioner, form="copula", details=1, article="the")
    more = [row for row in range(min(6, len(captioner.scene.things))) if row not in told.rows]
    for row in captioner.rng.some(more, 3):
        relation = captioner.relation(row, avoid=told.rows[1:])
        if relation and relation.target == told.rows[0] and not any(captioner.alike(row, other) for other in told.rows):
            link = captioner.link(relation, "copula")
            joint = captioner.rng.pick((", and", " while"))
            plain = captioner.scene.things[told.rows[0]].category.name
            text = f"{told.text}{joint} {captioner.noun(row)} {link} the {plain}"
            return _sentence(Sentence(text, (*told.relations, relation), (*told.rows, row)))
    return _sentence(told)


def scenic(captioner: CaptionWriter) -> Sentence:
    """`A street scene with a red car, a bus and a man in blue.`"""
    rows = captioner.salient(2 + captioner.rng.below(3))
    things = _list([captioner.noun(row, details=captioner.rng.pick((0, 1, 1))) for row in rows])
    theme = with_article(captioner.scene.theme.name)
    openings = (f"{theme} scene with {things}", f"{theme} with {things} in it", f"{things} {captioner.setting()}")
    return _sentence(
        Sentence(captioner.rng.pick((*openings, f"a photo of {things} {captioner.setting()}")), (), tuple(rows))
    )


def counting(captioner: CaptionWriter) -> Sentence:
    """`There are two brown cows and a man in red on a farm`."""
    counts = Counter(thing.category.name for thing in captioner.scene.things)
    rows = captioner.salient(2 + captioner.rng.below(2))
    rows.sort(key=lambda row: -counts[captioner.scene.things[row].category.name])
    things = _list([_counted(captioner, row, counts) for row in rows])
    several = counts[captioner.scene.things[rows[0]].category.name] > 1
    opening = captioner.rng.pick(("", "", "there are " if several else "there is "))
    text = f"{opening}{things} {captioner.setting()}"
    return Sentence(text[0].upper() + text[1:], (), tuple(rows))


WRITERS = (terse, detailed, relational, scenic, counting)
"""In the order of a scene's captions."""


def _main_clause(captioner: CaptionWriter, *, form: Form, details: int, article: str = "a") -> Sentence:
    """One thing in relation to another; without any relation, both side by side."""
    rows = captioner.salient(3)
    for row in captioner.rng.some(rows, 3):
        relation = captioner.relation(row)
        if relation:
            subject, target = (captioner.noun(r, article=article or "", details=details) for r in relation[::2])
            target = target if article else with_article(target)
            return Sentence(f"{subject} {captioner.link(relation, form)} {target}", (relation,), (row, relation.target))
    things = _list([captioner.noun(row, article=article, details=details) for row in rows])
    return Sentence(f"{things} {captioner.setting()}", (), tuple(rows))


def _counted(captioner: CaptionWriter, row: int, counts: Counter[str]) -> str:
    """`two red cars` where all are red, `two cars` where not, `a red car` where there is but one."""
    thing = captioner.scene.things[row]
    count = counts[thing.category.name]
    if count == 1:
        words = captioner.noun(row, article="", details=1)
        return with_article(words) if captioner.rng.chance(0.6) else f"one {words}"
    colours = {other.colour for other in captioner.scene.things if other.category is thing.category}
    told = len(colours) == 1 and thing.category.name not in vocabulary.PEOPLE
    return f"{_NUMBERS[count]} {thing.colour + ' ' if told else ''}{thing.category.plural}"


def _list(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _sentence(told: Sentence) -> Sentence:
    return told._replace(text=f"{told.text[0].upper()}{told.text[1:]}.")
