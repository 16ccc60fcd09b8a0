"""Spatial relations of two boxes, x0 y0 x1 y1 in pixels; y grows downwards."""

from typing import NamedTuple


class Box(NamedTuple):
    """A rectangle in pixels."""

    x0: float
    y0: float
    x1: float
    y1: float

    @property
    def width(self) -> float:
        """x1 - x0 in pixels."""
        return self.x1 - self.x0

    @property
    def height(self) -> float:
        """y1 - y0 in pixels."""
        return self.y1 - self.y0

    @property
    def area(self) -> float:
        """Area in square pixels."""
        return self.width * self.height

    @property
    def cx(self) -> float:
        """Horizontal centre."""
        return (self.x0 + self.x1) / 2

    @property
    def cy(self) -> float:
        """Vertical centre."""
        return (self.y0 + self.y1) / 2


class Relation(NamedTuple):
    """`subject` stands in relation `name` to `target`; both are rows of Scene.things, target GROUND is the ground."""

    subject: int
    name: str
    target: int


GROUND = -1

SIDEWAYS = ("left of", "right of")  # relations that most pairs have, so that they say least


def overlap_across(a: Box, b: Box) -> float:
    """Return the common width as a fraction of the narrower box, 0 to 1; negative where they are apart."""
    return (min(a.x1, b.x1) - max(a.x0, b.x0)) / min(a.width, b.width)


def overlap_down(a: Box, b: Box) -> float:
    """Return the common height as a fraction of the lower box, 0 to 1; negative where they are apart."""
    return (min(a.y1, b.y1) - max(a.y0, b.y0)) / min(a.height, b.height)


def spatial_relations(a: Box, b: Box, *, size: tuple[int, int], grounded: bool) -> tuple[str, ...]:
    """Return the names of the relations in which a stands to b, by their boxes, the most informative first.

    size: height and width of the image in pixels. grounded: both stand on the ground, so that what is higher in the
    image is farther away, not above.
    """
    height, width = size
    across, facts = overlap_across(a, b), dict[str, bool]()
    if across < 0.2:
        gap = max(a.x0, b.x0) - min(a.x1, b.x1)
        facts = {
            "next to": overlap_down(a, b) > 0.4 and gap < 0.08 * width,
            "left of": a.x1 < b.cx and a.cx < b.x0,
            "right of": b.x1 < a.cx and b.cx < a.x0,
        }
    elif across > 0.4 and (grounded or overlap_down(a, b) > 0.2):
        step = 0.04 * height  # by which the foot of the nearer one is lower in the image
        facts = {"in front of": a.y1 > b.y1 + step, "behind": b.y1 > a.y1 + step}
    elif across > 0.4:
        facts = {"above": a.y1 < b.cy and a.cy < b.y0, "below": b.y1 < a.cy and b.cy < a.y0}
    return tuple(name for name, true in facts.items() if true)
