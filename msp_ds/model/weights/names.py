"""Tables of tensor names and the translation of names by them."""

from collections.abc import Iterable
from dataclasses import dataclass

NUMBER = "{k}"
"""Stands for the number of a layer in a table, the same on both sides."""


@dataclass(frozen=True)
class NameTable:
    """Pairs of (our name, foreign name), of a module, whose weight and bias keep their endings, or of one tensor.

    Our names are unique; a foreign name occurs once for each of our names that it can have.
    """

    pairs: tuple[tuple[str, str], ...]

    def to_theirs(self, name: str) -> str | None:
        """Return the foreign name of our tensor; None without one."""
        return next(iter(_translated(name, self.pairs)), None)

    def to_ours(self, name: str) -> tuple[str, ...]:
        """Return our possible names of a foreign tensor; empty without one."""
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
"""Prefixes of every name by torch's DataParallel, LXMERT's fine-tuning code, Lightning and torch.compile."""
BARE = ("embeddings.", "encoder.", "pooler.", "pooler_f.", "word_embeddings.")
"""Prefixes of names in a file that holds the backbone alone."""
ENDINGS = ((".gamma", ".weight"), (".beta", ".bias"))
"""Names of LayerNorm parameters in files converted from TensorFlow."""


def normalised_name(name: str) -> str:
    """Return a foreign name as the tables spell it (`bert.…`, `cls.…`), without wrappers and old spellings."""
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
    """Return the pairs (`ours.{k}.block`, `theirs.{k}.block`) of numbered layers, one for each pair of blocks."""
    return tuple((f"{ours}.{NUMBER}.{block}", f"{theirs}.{NUMBER}.{other}") for block, other in blocks)
