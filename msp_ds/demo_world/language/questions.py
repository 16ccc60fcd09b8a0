"""Questions about a scene and statements about two scenes, with the true answers by boxes and colours."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

from msp_ds.demo_world import vocabulary
from msp_ds.demo_world.language.caption_writer import CaptionWriter, with_article
from msp_ds.demo_world.random_stream import RandomStream, stream
from msp_ds.demo_world.scenes import Scene

ANNOTATORS = 10
CAREFUL = 0.88  # probability that an annotator gives the true answer
STATEMENTS = 10  # statements with a scene as their left image, at most

Structure = Literal["query", "verify", "choose"]
Answer = Literal["yes/no", "number", "other"]

_QUESTION_RELATIONS = ("left of", "right of", "in front of", "behind", "above", "below")
_OPPOSITE = {"left of": "right of", "in front of": "behind", "above": "below"}
_OPPOSITE |= {other: one for one, other in _OPPOSITE.items()}
_WORDING = {"left of": "to the left of", "right of": "to the right of"}
_NUM_LARGEST = 6  # questions are about so many of the largest things


class AnsweredQuestion(NamedTuple):
    """A question and its true answer."""

    text: str
    answer: str
    opening: str  # VQA's question type: its first words
    kind: Answer
    confused: tuple[str, ...]  # wrong answers of careless annotators
    structure: Structure
    semantic: Literal["attr", "obj", "rel"]
    group: str  # GQA's kind of answer; empty for yes and no
    about: str  # the category that the question is about


class Statement(NamedTuple):
    """A statement about two scenes, and whether it is true."""

    text: str
    left: int  # number of the scene
    right: int
    true: bool


def questions_of(seed: int, scene: Scene) -> list[AnsweredQuestion]:
    """Return up to seven questions about one image, each text once."""
    writer = _QuestionWriter(scene, RandomStream(stream(seed, scene.number, "questions")))
    found = [question for make in _QUESTION_MAKERS if (question := make(writer)) is not None]
    return list({question.text: question for question in found}.values())


def annotated(seed: int, scene: Scene, nth: int, question: AnsweredQuestion) -> list[str]:
    """Return the answers of ten annotators to an image's `nth` question, most of them true."""
    rng = RandomStream(stream(seed, scene.number * 16 + nth, "answers"))
    return [question.answer if rng.chance(CAREFUL) else rng.pick(question.confused) for _ in range(ANNOTATORS)]


class _QuestionWriter:
    """Draws the material of questions about one scene."""

    def __init__(self, scene: Scene, rng: RandomStream) -> None:
        self.scene = scene
        self.rng = rng
        self.captioner = CaptionWriter(scene, rng)
        self.counts = Counter(thing.category.name for thing in scene.things)
        largest = range(min(_NUM_LARGEST, len(scene.things)))
        self.alone = [row for row in largest if self.counts[self.name(row)] == 1]
        """Rows of large things that are the only ones of their category: `the car` is unambiguous."""

    def name(self, row: int) -> str:
        return self.scene.things[row].category.name

    def coloured(self) -> int | None:
        """Return the row of an unambiguous thing that is not a person, whose colour would be that of the clothes."""
        rows = [row for row in self.alone if not self.captioner.is_person(row)]
        return self.rng.pick(rows) if rows else None

    def absent(self) -> str:
        """Return a category of the theme that is absent from the scene."""
        names = [name for name in self.scene.theme.objects if not self.counts[name]]
        return self.rng.pick(names or [c.name for c in vocabulary.THINGS if not self.counts[c.name]])

    def true_relation(self) -> tuple[int, str, int] | None:
        """Return row, relation and target of two unambiguous things."""
        for row in self.rng.some(self.alone, len(self.alone)):
            for target in self.rng.some([other for other in self.alone if other != row], 3):
                names = [name for name in self.captioner.between(row, target) if name in _QUESTION_RELATIONS]
                if names:
                    return row, self.rng.pick(names), target
        return None


def _what_colour(writer: _QuestionWriter) -> AnsweredQuestion | None:
    if (row := writer.coloured()) is None:
        return None
    thing = writer.scene.things[row]
    others = tuple(colour for colour in thing.category.palette if colour != thing.colour) or ("brown",)
    text = f"What color is the {thing.category.name}?"
    return AnsweredQuestion(
        text, thing.colour, "what color is the", "other", others, "query", "attr", "color", writer.name(row)
    )


def _which_colour(writer: _QuestionWriter) -> AnsweredQuestion | None:
    if (row := writer.coloured()) is None:
        return None
    thing = writer.scene.things[row]
    other = writer.rng.pick([colour for colour in vocabulary.COLOURS if colour != thing.colour])
    one, two = writer.rng.some((thing.colour, other), 2)
    text = f"Is the {thing.category.name} {one} or {two}?"
    return AnsweredQuestion(
        text, thing.colour, "is the", "other", (other,), "choose", "attr", "color", writer.name(row)
    )


def _is_it_so_coloured(writer: _QuestionWriter) -> AnsweredQuestion | None:
    if (row := writer.coloured()) is None:
        return None
    thing = writer.scene.things[row]
    yes = writer.rng.chance(0.5)
    others = [colour for colour in thing.category.palette if colour != thing.colour] or ["purple"]
    colour = thing.colour if yes else writer.rng.pick(others)
    return _yes_no(f"Is the {thing.category.name} {colour}?", yes, "is the", "attr", writer.name(row))


def _how_many(writer: _QuestionWriter) -> AnsweredQuestion | None:
    several = [name for name, count in writer.counts.items() if count > 1]
    names = several if several and writer.rng.chance(0.6) else list(writer.counts)
    name = writer.absent() if writer.rng.chance(0.12) else writer.rng.pick(names)
    count = writer.counts[name]
    confused = tuple(str(number) for number in (count - 1, count + 1) if number >= 0)
    text = f"How many {vocabulary.BY_NAME[name].plural} are there?"
    return AnsweredQuestion(text, str(count), "how many", "number", confused, "query", "obj", "number", name)


def _is_there(writer: _QuestionWriter) -> AnsweredQuestion | None:
    yes = writer.rng.chance(0.5)
    name = writer.rng.pick(list(writer.counts)) if yes else writer.absent()
    return _yes_no(f"Is there {with_article(name)} in the picture?", yes, "is there a", "obj", name)


def _is_it_there(writer: _QuestionWriter) -> AnsweredQuestion | None:
    if (found := writer.true_relation()) is None:
        return None
    row, relation, target = found
    yes = writer.rng.chance(0.5)
    stated = relation if yes else _OPPOSITE[relation]
    text = f"Is the {writer.name(row)} {_WORDING.get(stated, stated)} the {writer.name(target)}?"
    return _yes_no(text, yes, "is the", "rel", writer.name(row))


def _what_is_there(writer: _QuestionWriter) -> AnsweredQuestion | None:
    """Ask `What is behind the bus?` where exactly one thing is."""
    if (found := writer.true_relation()) is None:
        return None
    _, relation, target = found
    others = [row for row in range(len(writer.scene.things)) if row != target]
    names = {writer.name(row) for row in others if relation in writer.captioner.spatial(row, target)}
    if len(names) != 1:
        return None
    answer = names.pop()
    confused = tuple(name for name in writer.counts if name != answer)
    text = f"What is {_WORDING.get(relation, relation)} the {writer.name(target)}?"
    return AnsweredQuestion(text, answer, "what is", "other", confused, "query", "rel", "object", answer)


def _yes_no(
    text: str, yes: bool, opening: str, semantic: Literal["attr", "obj", "rel"], about: str
) -> AnsweredQuestion:
    answer, other = ("yes", "no") if yes else ("no", "yes")
    return AnsweredQuestion(text, answer, opening, "yes/no", (other,), "verify", semantic, "", about)


_QUESTION_MAKERS: tuple[Callable[[_QuestionWriter], AnsweredQuestion | None], ...] = (
    *(_what_colour, _which_colour, _is_it_so_coloured, _how_many, _is_there, _is_it_there, _what_is_there),
)


def statements_of(seed: int, scene: Scene, others: Sequence[Scene]) -> list[Statement]:
    """Return statements about `scene` on the left and one of `others` on the right; half of them are true."""
    rng = RandomStream(stream(seed, scene.number, "statements"))
    found = []
    for _ in range(STATEMENTS if others else 0):
        right = rng.pick(others)
        wanted, make = rng.chance(0.5), rng.pick(_STATEMENT_MAKERS)
        truth_of = dict(make(rng, scene, right) for _ in range(_TRIES))
        # If all tries had one truth value, the kind of statement would give the answer away.
        if len(set(truth_of.values())) == 2:
            text = next(text for text, true in truth_of.items() if true == wanted)
            found.append(Statement(text, scene.number, right.number, wanted))
    return found


_TRIES = 12


def _names(*scenes: Scene) -> list[str]:
    return [thing.category.name for scene in scenes for thing in scene.things]


def _in_both(rng: RandomStream, left: Scene, right: Scene) -> tuple[str, bool]:
    name = rng.pick(_names(left, right))
    return f"There is {with_article(name)} in both images.", name in _names(left) and name in _names(right)


def _in_one(rng: RandomStream, left: Scene, right: Scene) -> tuple[str, bool]:
    name = rng.pick(_names(left, right))
    return f"Only one image has {with_article(name)}.", (name in _names(left)) != (name in _names(right))


def _on_a_side(rng: RandomStream, left: Scene, right: Scene) -> tuple[str, bool]:
    name, side = rng.pick(_names(left, right)), rng.below(2)
    return f"The {('left', 'right')[side]} image has {with_article(name)}.", name in _names((left, right)[side])


def _coloured_on_a_side(rng: RandomStream, left: Scene, right: Scene) -> tuple[str, bool]:
    side = rng.below(2)
    things = [
        thing for scene in (left, right) for thing in scene.things if thing.category.name not in vocabulary.PEOPLE
    ]
    thing = rng.pick(things or list(left.things))
    words = thing.colour, thing.category.name
    found = any((other.colour, other.category.name) == words for other in (left, right)[side].things)
    return f"There is {with_article(' '.join(words))} in the {('left', 'right')[side]} image.", found


def _more_of(rng: RandomStream, left: Scene, right: Scene) -> tuple[str, bool]:
    name, side = rng.pick(_names(left, right)), rng.below(2)
    counts = [_names(scene).count(name) for scene in (left, right)]
    words = ("left", "right")[side], vocabulary.BY_NAME[name].plural, ("right", "left")[side]
    return "The {} image has more {} than the {} image.".format(*words), counts[side] > counts[1 - side]


_STATEMENT_MAKERS = (_in_both, _in_one, _on_a_side, _coloured_on_a_side, _more_of)
