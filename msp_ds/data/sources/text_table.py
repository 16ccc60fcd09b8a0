"""Texts by image, a third as large as lists of strings: all of an image's texts are one string.

Visual Genome's 5.4 million phrases are short, so that as strings of their own they would mostly be overhead.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

_BETWEEN = "\n"
"""Squeezed texts hold none."""


class TextTable(Mapping[str, list[str]]):
    """Canonical image id -> its texts, in the order in which they were added; a mapping of lists that are copies."""

    def __init__(self) -> None:
        self._joined: dict[str, str] = {}

    def add(self, image_id: str, texts: Iterable[str]) -> None:
        """Append texts, none of them empty or with a line feed, to those of an image."""
        joined = _BETWEEN.join(texts)
        if joined:
            before = self._joined.get(image_id)
            self._joined[image_id] = joined if before is None else f"{before}{_BETWEEN}{joined}"

    def drain(self) -> Iterator[tuple[str, list[str]]]:
        """All images with their texts, each of which leaves the table: for a second table in the memory of one."""
        for image_id in list(self._joined):
            yield image_id, self._joined.pop(image_id).split(_BETWEEN)

    def __getitem__(self, image_id: str) -> list[str]:
        return self._joined[image_id].split(_BETWEEN)

    def __iter__(self) -> Iterator[str]:
        return iter(self._joined)

    def __len__(self) -> int:
        return len(self._joined)
