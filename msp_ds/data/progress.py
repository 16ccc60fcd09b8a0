"""The protocol by which long work reports its progress; `msp_ds.progress.Bars` shows it on a terminal."""

from typing import Protocol


class Progress(Protocol):
    """Receives the progress of long work."""

    def start(self, label: str, total: int | None) -> None:
        """Begin a new piece of work of `total` bytes or images; None when the total is not known."""

    def advance(self, amount: int) -> None:
        """Count `amount` more as done, or fewer where it is negative; called from several threads."""


class NoProgress:
    """Shows nothing."""

    def start(self, label: str, total: int | None) -> None:
        """Do nothing."""

    def advance(self, amount: int) -> None:
        """Do nothing."""
