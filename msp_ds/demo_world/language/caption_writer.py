"""Noun phrases and clauses that are true of a scene, the building blocks of captions, phrases and questions."""

from collections.abc import Collection
from typing import Literal, NamedTuple

from msp_ds.demo_world import vocabulary
from msp_ds.demo_world.random_stream import RandomStream
from msp_ds.demo_world.relations import GROUND, SIDEWAYS, Relation, spatial_relations
from msp_ds.demo_world.scenes import Scene, Thing

Form = Literal["finite", "bare", "copula"]

_PREPOSITIONS = {
    "left of": ("to the left of", "left of"),
    "right of": ("to the right of", "right of"),
    "above": ("above", "over"),
    "below": ("below", "under"),
    "next to": ("next to", "beside", "near"),
    "in front of": ("in front of",),
    "behind": ("behind",),
    "on": ("on", "on top of"),
}
_VERBS = {"riding": ("rides", "is riding"), "holding": ("holds", "is holding"), "wearing": ("wears", "is wearing")}
_PARTICIPLES = {
    "stands": "standing",
    "lies": "lying",
    "sits": "sitting",
    "hangs": "hanging",
    "flies": "flying",
    "floats": "floating",
    "is parked": "parked",
}


class Sentence(NamedTuple):
    """A sentence with the claims it makes about the scene."""

    text: str
    relations: tuple[Relation, ...]
    rows: tuple[int, ...]  # rows of Scene.things that it mentions


def with_article(noun: str) -> str:
    """`an apple`, `a red apple`."""
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


class CaptionWriter:
    """Writes noun phrases and clauses about one scene."""

    def __init__(self, scene: Scene, rng: RandomStream) -> None:
        self.scene = scene
        self.rng = rng
        self._spatial: dict[tuple[int, int], tuple[str, ...]] = {}
        self._arranged = {
            (relation.subject, relation.target) for relation in scene.relations if relation.target != GROUND
        }

    def name(self, row: int) -> str:
        """Return a name of the category, in six of ten cases the first."""
        names = self.scene.things[row].category.names
        return names[0] if len(names) == 1 or self.rng.chance(0.6) else self.rng.pick(names[1:])

    def noun(self, row: int, *, article: str = "a", details: int = 1) -> str:
        """Return `a small red ball`: the thing with up to `details` adjectives. article: `a`, `the` or empty."""
        thing = self.scene.things[row]
        words = (
            self._person_phrase(thing, row, details) if self.is_person(row) else self._thing_phrase(thing, row, details)
        )
        return with_article(words) if article == "a" else f"{article} {words}".strip()

    def _person_phrase(self, thing: Thing, row: int, details: int) -> str:
        """Return a noun phrase for a person, whose colour is that of the clothes."""
        clothes = details > 1 or (details == 1 and self.rng.chance(0.7))
        age = thing.state if details > 1 or (details == 1 and not clothes) else ""
        wear = self.rng.pick((f" in a {thing.colour} shirt", f" in {thing.colour}", f" wearing {thing.colour}"))
        return f"{age} {self.name(row)}".strip() + (wear if clothes else "")

    def _thing_phrase(self, thing: Thing, row: int, details: int) -> str:
        """Return the noun with adjectives in English order: size, quality, colour, material."""
        colour = thing.colour if details > 1 or (details == 1 and self.rng.chance(0.8)) else ""
        others = [word for word in (thing.size, thing.state) if word]
        other = self.rng.pick(others) if others and (details > 1 or (details == 1 and not colour)) else ""
        order = (colour, other) if other in vocabulary.MATERIALS else (other, colour)
        return " ".join(word for word in (*order, self.name(row)) if word)

    def is_person(self, row: int) -> bool:
        """Whether the thing is a man, a woman, a boy or a girl."""
        return self.scene.things[row].category.name in vocabulary.PEOPLE

    def alike(self, a: int, b: int) -> bool:
        """Whether the two are of one category, so that a name does not distinguish them."""
        one, other = self.scene.things[a], self.scene.things[b]
        return one.category is other.category

    def salient(self, n: int) -> list[int]:
        """Return up to n of the six largest things, of different categories, the largest first."""
        rows = self.rng.some(range(min(6, len(self.scene.things))), n + 2)
        kept: list[int] = []
        for row in rows:
            if len(kept) < n and not any(self.alike(row, other) for other in kept):
                kept.append(row)
        return sorted(kept)

    def ground(self, *, details: int = 0) -> str:
        """Return `the grass` or, with details, `the green grass`."""
        category, colour = self.scene.backgrounds[0]
        return f"the {colour} {category.name}" if details else f"the {category.name}"

    def setting(self) -> str:
        """Return a phrase such as `in a kitchen`."""
        return self.rng.pick(self.scene.theme.settings)

    def arranged(self, row: int) -> Relation | None:
        """Return the arranged relation of the thing to another one, if it has one."""
        return next((r for r in self.scene.relations if r.subject == row and r.target != GROUND), None)

    def stands_on_ground(self, row: int) -> bool:
        """Whether the thing rests on the ground itself."""
        return Relation(row, "on", GROUND) in self.scene.relations

    def relation(self, row: int, *, avoid: Collection[int] = ()) -> Relation | None:
        """Return a true relation of the thing to another one that is not in `avoid`, arranged or spatial, if any."""
        arranged = self.arranged(row)
        if arranged and arranged.target not in avoid and not self.alike(*arranged[::2]) and self.rng.chance(0.85):
            return arranged
        targets = [other for other in range(min(6, len(self.scene.things))) if other != row and other not in avoid]
        found = [
            Relation(row, name, target)
            for target in self.rng.some(targets, 4)
            if not self.alike(row, target)
            for name in self.between(row, target)
        ]
        informative = [relation for relation in found if relation.name not in SIDEWAYS]
        if informative and self.rng.chance(0.7):
            return self.rng.pick(informative)
        return self.rng.pick(found) if found else None

    def between(self, row: int, target: int) -> tuple[str, ...]:
        """Return the spatial relations of two things; none where an arranged relation connects them."""
        if (row, target) in self._arranged or (target, row) in self._arranged:
            return ()
        return self.spatial(row, target)

    def spatial(self, row: int, target: int) -> tuple[str, ...]:
        """Return the spatial relations of two things by their boxes alone."""
        if (row, target) not in self._spatial:
            a, b = self.scene.things[row].box, self.scene.things[target].box
            grounded = self.stands_on_ground(row) and self.stands_on_ground(target)
            size = self.scene.height, self.scene.width
            self._spatial[row, target] = spatial_relations(a, b, size=size, grounded=grounded)
        return self._spatial[row, target]

    def link(self, relation: Relation, form: Form) -> str:
        """Return the words between subject and target: `rides`, `is to the left of`, `standing next to`, `near`."""
        if relation.name in _VERBS:
            finite, copula = _VERBS[relation.name]
            return {"finite": finite, "bare": relation.name, "copula": copula}[form]
        words = self._preposition(relation)
        if form == "copula":
            return f"is {words}"
        stance = self.stance(relation)
        if form == "finite":
            return f"{stance} {words}"
        return f"{_PARTICIPLES[stance]} {words}" if stance in _PARTICIPLES and self.rng.chance(0.4) else words

    def _preposition(self, relation: Relation) -> str:
        words = _PREPOSITIONS[relation.name]
        high = relation.subject if relation.name == "above" else relation.target
        if relation.name in ("above", "below") and self.scene.things[high].category.place not in ("sky", "wall"):
            return words[0]  # a chair is not over a book that lies before it
        on_a_seat_or_ground = relation.name == "on" and (relation.target == GROUND or self.is_person(relation.subject))
        return words[0] if on_a_seat_or_ground else self.rng.pick(words)

    def stance(self, relation: Relation) -> str:
        """Return `stands`, `lies`, `sits` ..., or `is` for a thing that rides, or is held, worn or ridden."""
        arranged = self.arranged(relation.subject)
        if arranged and arranged.name == "on" and self.is_person(relation.subject):
            return "sits"
        hands = ("holding", "wearing", "riding")
        in_hand = any(r.target == relation.subject and r.name in hands for r in self.scene.relations)
        if in_hand or (arranged and arranged.name == "riding"):
            return "is"
        return self.scene.things[relation.subject].category.stance
