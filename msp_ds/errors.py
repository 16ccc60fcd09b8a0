"""The errors that a user can cause. The command line shows them as one line and exits with 2."""


class InputError(ValueError):
    """A file, flag or configuration that cannot be used; its text says what, where and how to fix it."""


class ShardError(InputError):
    """A shard set that is missing, damaged, incomplete or made with another vocabulary."""


class CheckpointError(InputError):
    """A checkpoint that is missing, half-written or of another model."""
