"""The limits at which a run ends by itself."""

from dataclasses import dataclass

from msp_ds.errors import InputError

_MAX_MINUTES = 366 * 24 * 60  # a year; the system's timers do not reach much further


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The limits at which a run ends by itself."""

    stop_after_nan: int = 3
    """Optimiser steps in a row whose loss or gradient is not finite."""
    stall_timeout: float = 30.0
    """Minutes without a step; 0 for no limit."""

    def __post_init__(self) -> None:
        if self.stop_after_nan < 1:
            raise InputError(f"--stop-after-nan {self.stop_after_nan} is not positive")
        if not 0 <= self.stall_timeout <= _MAX_MINUTES:
            raise InputError(
                f"--stall-timeout {self.stall_timeout} is not in 0 to {_MAX_MINUTES} minutes; 0 never ends a run"
            )
