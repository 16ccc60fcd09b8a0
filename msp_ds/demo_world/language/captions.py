"""Five writers, who see the same scene and write each in their own way: 6 to 18 words, true, never complete."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from msp_ds.demo_world import vocabulary
from msp_ds.demo_world.language.telling import Form, Teller, Told, with_article
from msp_ds.demo_world.random_stream import RandomStream, stream
from msp_ds.demo_world.relations import GROUND, Relation
from msp_ds.demo_world.scenes import Scene

SHORTEST, LONGEST = 6, 18
"""Words of a caption."""

_NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight")
_TRIES = 12


def captions_of(seed: int, scene: Scene) -> tuple[Told, ...]:
    """Five captions, one from each writer."""
    teller = Teller(scene, RandomStream(stream(seed, scene.number, "captions")))
    return tuple(_fitting(writer, teller) for writer in WRITERS)


def _fitting(writer: Callable[[Teller], Told], teller: Teller) -> Told:
    """The writer's first try that is neither too short nor too long."""
    for _ in range(_TRIES):
        told = writer(teller)
        if SHORTEST <= told.text.count(" ") + 1 <= LONGEST:
            return told
    row = teller.salient(1)[0]
    return Told(f"a view of {teller.noun(row)} {teller.setting()}", (), (row,))


def terse(teller: Teller) -> Told:
    """`red car parked next to a brown dog on the street`."""
    told = _main_clause(teller, form="bare", details=1, article=teller.rng.pick(("a", "")))
    return told._replace(text=f"{told.text} {teller.setting()}") if teller.rng.chance(0.5) else told


def detailed(teller: Teller) -> Told:
    """`A small red ball lies on the green grass next to a brown dog.`"""
    row = teller.salient(1)[0]
    first = teller.noun(row, details=2)
    if not teller.stands_on_ground(row) or teller.rng.chance(0.4):
        return _sentence(_main_clause(teller, form="finite", details=2))
    on = Relation(row, "on", GROUND)
    relation = teller.relation(row)
    text = f"{first} {teller.link(on, 'finite')} {teller.ground(details=1)}"
    if relation is None:
        return _sentence(Told(text, (on,), (row,)))
    # After "lies on the grass" a plain "near", or "holding": never a second stance.
    link = teller.link(relation, "copula").removeprefix("is ")
    text = f"{text} {link} {teller.noun(relation.target, details=1)}"
    return _sentence(Told(text, (on, relation), (row, relation.target)))


def relational(teller: Teller) -> Told:
    """`The red car is behind the dog, and the bench is to the left of it.`"""
    told = _main_clause(teller, form="copula", details=1, article="the")
    more = [row for row in range(min(6, len(teller.scene.things))) if row not in told.rows]
    for row in teller.rng.some(more, 3):
        relation = teller.relation(row, avoid=told.rows[1:])
        if relation and relation.target == told.rows[0] and not any(teller.alike(row, other) for other in told.rows):
            link = teller.link(relation, "copula")
            joint = teller.rng.pick((", and", " while"))
            plain = teller.scene.things[told.rows[0]].category.name
            text = f"{told.text}{joint} {teller.noun(row)} {link} the {plain}"
            return _sentence(Told(text, (*told.relations, relation), (*told.rows, row)))
    return _sentence(told)


def scenic(teller: Teller) -> Told:
    """`A street scene with a red car, a bus and a man in blue.`"""
    rows = teller.salient(2 + teller.rng.below(3))
    things = _list([teller.noun(row, details=teller.rng.pick((0, 1, 1))) for row in rows])
    theme = with_article(teller.scene.theme.name)
    openings = (f"{theme} scene with {things}", f"{theme} with {things} in it", f"{things} {teller.setting()}")
    return _sentence(Told(teller.rng.pick((*openings, f"a photo of {things} {teller.setting()}")), (), tuple(rows)))


def counting(teller: Teller) -> Told:
    """`There are two brown cows and a man in red on a farm`."""
    counts = Counter(thing.category.name for thing in teller.scene.things)
    rows = teller.salient(2 + teller.rng.below(2))
    rows.sort(key=lambda row: -counts[teller.scene.things[row].category.name])
    things = _list([_counted(teller, row, counts) for row in rows])
    several = counts[teller.scene.things[rows[0]].category.name] > 1
    opening = teller.rng.pick(("", "", "there are " if several else "there is "))
    text = f"{opening}{things} {teller.setting()}"
    return Told(text[0].upper() + text[1:], (), tuple(rows))


WRITERS = (terse, detailed, relational, scenic, counting)
"""In the order of a scene's captions."""


def _main_clause(teller: Teller, *, form: Form, details: int, article: str = "a") -> Told:
    """One thing in relation to another; without any relation, both side by side."""
    rows = teller.salient(3)
    for row in teller.rng.some(rows, 3):
        relation = teller.relation(row)
        if relation:
            subject, target = (teller.noun(r, article=article or "", details=details) for r in relation[::2])
            target = target if article else with_article(target)
            return Told(f"{subject} {teller.link(relation, form)} {target}", (relation,), (row, relation.target))
    things = _list([teller.noun(row, article=article, details=details) for row in rows])
    return Told(f"{things} {teller.setting()}", (), tuple(rows))


def _counted(teller: Teller, row: int, counts: Counter[str]) -> str:
    """`two red cars` where all are red, `two cars` where not, `a red car` where there is but one."""
    thing = teller.scene.things[row]
    count = counts[thing.category.name]
    if count == 1:
        words = teller.noun(row, article="", details=1)
        return with_article(words) if teller.rng.chance(0.6) else f"one {words}"
    colours = {other.colour for other in teller.scene.things if other.category is thing.category}
    told = len(colours) == 1 and thing.category.name not in vocabulary.PEOPLE
    return f"{_NUMBERS[count]} {thing.colour + ' ' if told else ''}{thing.category.plural}"


def _list(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _sentence(told: Told) -> Told:
    return told._replace(text=f"{told.text[0].upper()}{told.text[1:]}.")
