"""Five captions of a scene, each in the style of one writer: 6 to 18 words, true, never complete."""

from collections import Counter
from collections.abc import Callable

from msp_ds.demo_world import vocabulary
from msp_ds.demo_world.language.caption_writer import CaptionWriter, Form, Sentence, with_article
from msp_ds.demo_world.random_stream import RandomStream, stream
from msp_ds.demo_world.relations import GROUND, Relation
from msp_ds.demo_world.scenes import Scene

SHORTEST, LONGEST = 6, 18  # words of a caption

_NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight")
_TRIES = 12


def captions_of(seed: int, scene: Scene) -> tuple[Sentence, ...]:
    """Return five captions, one of each writer."""
    captioner = CaptionWriter(scene, RandomStream(stream(seed, scene.number, "captions")))
    return tuple(_fitting(writer, captioner) for writer in WRITERS)


def _fitting(writer: Callable[[CaptionWriter], Sentence], captioner: CaptionWriter) -> Sentence:
    for _ in range(_TRIES):
        sentence = writer(captioner)
        if SHORTEST <= sentence.text.count(" ") + 1 <= LONGEST:
            return sentence
    row = captioner.salient(1)[0]
    return Sentence(f"a view of {captioner.noun(row)} {captioner.setting()}", (), (row,))


def terse(captioner: CaptionWriter) -> Sentence:
    """`red car parked next to a brown dog on the street`."""
    sentence = _main_clause(captioner, form="bare", details=1, article=captioner.rng.pick(("a", "")))
    return sentence._replace(text=f"{sentence.text} {captioner.setting()}") if captioner.rng.chance(0.5) else sentence


def detailed(captioner: CaptionWriter) -> Sentence:
    """`A small red ball lies on the green grass next to a brown dog.`"""
    row = captioner.salient(1)[0]
    first = captioner.noun(row, details=2)
    if not captioner.stands_on_ground(row) or captioner.rng.chance(0.4):
        return _punctuated(_main_clause(captioner, form="finite", details=2))
    on = Relation(row, "on", GROUND)
    relation = captioner.relation(row)
    text = f"{first} {captioner.link(on, 'finite')} {captioner.ground(details=1)}"
    if relation is None:
        return _punctuated(Sentence(text, (on,), (row,)))
    # After "lies on the grass" a plain "near", or "holding": never a second stance.
    link = captioner.link(relation, "copula").removeprefix("is ")
    text = f"{text} {link} {captioner.noun(relation.target, details=1)}"
    return _punctuated(Sentence(text, (on, relation), (row, relation.target)))


def relational(captioner: CaptionWriter) -> Sentence:
    """`The red car is behind the dog, and the bench is to the left of it.`"""
    sentence = _main_clause(captioner, form="copula", details=1, article="the")
    more = [row for row in range(min(6, len(captioner.scene.things))) if row not in sentence.rows]
    for row in captioner.rng.some(more, 3):
        relation = captioner.relation(row, avoid=sentence.rows[1:])
        if (
            relation
            and relation.target == sentence.rows[0]
            and not any(captioner.alike(row, other) for other in sentence.rows)
        ):
            link = captioner.link(relation, "copula")
            joint = captioner.rng.pick((", and", " while"))
            plain = captioner.scene.things[sentence.rows[0]].category.name
            text = f"{sentence.text}{joint} {captioner.noun(row)} {link} the {plain}"
            return _punctuated(Sentence(text, (*sentence.relations, relation), (*sentence.rows, row)))
    return _punctuated(sentence)


def scenic(captioner: CaptionWriter) -> Sentence:
    """`A street scene with a red car, a bus and a man in blue.`"""
    rows = captioner.salient(2 + captioner.rng.below(3))
    things = _list([captioner.noun(row, details=captioner.rng.pick((0, 1, 1))) for row in rows])
    theme = with_article(captioner.scene.theme.name)
    openings = (f"{theme} scene with {things}", f"{theme} with {things} in it", f"{things} {captioner.setting()}")
    return _punctuated(
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


WRITERS = (terse, detailed, relational, scenic, counting)  # in the order of a scene's captions


def _main_clause(captioner: CaptionWriter, *, form: Form, details: int, article: str = "a") -> Sentence:
    """Return a clause that relates one thing to another, or lists them where they have no relation."""
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
    """Return `two red cars` where all are red, `two cars` where not, `a red car` where there is only one."""
    thing = captioner.scene.things[row]
    count = counts[thing.category.name]
    if count == 1:
        words = captioner.noun(row, article="", details=1)
        return with_article(words) if captioner.rng.chance(0.6) else f"one {words}"
    colours = {other.colour for other in captioner.scene.things if other.category is thing.category}
    same_colour = len(colours) == 1 and thing.category.name not in vocabulary.PEOPLE
    return f"{_NUMBERS[count]} {thing.colour + ' ' if same_colour else ''}{thing.category.plural}"


def _list(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _punctuated(sentence: Sentence) -> Sentence:
    return sentence._replace(text=f"{sentence.text[0].upper()}{sentence.text[1:]}.")
