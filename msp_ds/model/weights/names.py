"""What a table of names is, and how a tensor finds its other name in it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

NUMBER = "{k}"
"""In a table: the number of a layer, the same on both sides."""


@dataclass(frozen=True)
class NameTable:
    """Pairs of (our name, their name): of a module, whose weight and bias keep their endings, or of one tensor.

    A name of ours stands once, one of theirs as often as models here have different places for it.
    """

    pairs: tuple[tuple[str, str], ...]

    def to_theirs(self, name: str) -> str | None:
        """Their name of our tensor; None where they have no such thing."""
        return next(iter(_translated(name, self.pairs)), None)

    def to_ours(self, name: str) -> tuple[str, ...]:
        """Our names of their tensor; none where we have no such thing."""
        return _translated(name, tuple((theirs, ours) for ours, theirs in self.pairs))


def _translated(name: str, pairs: Iterable[tuple[str, str]]) -> tuple[str, ...]:
    pattern, numbers = numbers_out(name)
    module, _, ending = pattern.rpartition(".")
    found = [other for one, other in pairs if one == pattern]
    found += [f"{other}.{ending}" for one, other in pairs if one == module]
    return tuple(other.replace(NUMBER, numbers[0]) if numbers else other for other in found)


def numbers_out(name: str) -> tuple[str, list[str]]:
    """A name with its numbers replaced by {k}, and the numbers: `layers.3.norm` -> `layers.{k}.norm`, ["3"]."""
    parts = name.split(".")
    numbers = [part for part in parts if part.isdecimal()]
    return ".".join(NUMBER if part.isdecimal() else part for part in parts), numbers


WRAPPERS = ("module.", "lxrt_encoder.model.", "model.", "_orig_mod.")
"""What torch's DataParallel, LXMERT's code for fine-tuning, Lightning and torch.compile put before every name."""
BARE = ("embeddings.", "encoder.", "pooler.", "pooler_f.", "word_embeddings.")
"""How names begin in a file that holds the backbone alone."""
ENDINGS = ((".gamma", ".weight"), (".beta", ".bias"))
"""LayerNorms of files that were once TensorFlow's."""


def normalised_name(name: str) -> str:
    """A foreign name as the tables spell it, whatever wrapper or age of code wrote it: `bert.…`, `cls.…`."""
    while wrapper := next((wrapper for wrapper in WRAPPERS if name.startswith(wrapper)), None):
        name = name[len(wrapper) :]
    if name.startswith("lxmert."):
        name = f"bert.{name.removeprefix('lxmert.')}"
    if name.startswith(BARE):
        name = f"bert.{name}"
    for old, new in ENDINGS:
        if name.endswith(old):
            name = name[: -len(old)] + new
    return name


def layers(ours: str, theirs: str, blocks: Iterable[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    """The pairs of numbered layers: (`ours.{k}.block`, `theirs.{k}.block`) for each pair of blocks."""
    return tuple((f"{ours}.{NUMBER}.{block}", f"{theirs}.{NUMBER}.{other}") for block, other in blocks)
