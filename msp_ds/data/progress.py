"""How work on data tells of its progress to whoever shows it."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Who shows how far the work is."""

    def start(self, label: str, total: int | None) -> None:
        """A new piece of work begins, of `total` bytes or images; None when that is not known."""

    def advance(self, amount: int) -> None:
        """So much more of it is done; called from several threads."""


class NoProgress:
    """Shows nothing."""

    def start(self, label: str, total: int | None) -> None:
        """Nothing."""

    def advance(self, amount: int) -> None:
        """Nothing."""
