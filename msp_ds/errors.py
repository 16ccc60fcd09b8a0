"""Errors that a user can cause. The command line shows them as one line and exits with code 2."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class InputError(ValueError):
    """A file, flag or configuration cannot be used; the message says what is wrong, where, and how to fix it."""


class ShardError(InputError):
    """A shard set is missing, damaged, incomplete or made with another vocabulary."""


class CheckpointError(InputError):
    """A checkpoint is missing, incomplete or of another model."""


@contextmanager
def writing(path: Path, *, fix: str) -> Iterator[None]:
    """Turn an OSError of the block, which writes `path`, into an InputError with the cause and the `fix`."""
    try:
        yield
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error.strerror}); {fix}") from None
