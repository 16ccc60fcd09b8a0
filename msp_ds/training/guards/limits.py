"""When a run gives up."""

from __future__ import annotations

from dataclasses import dataclass

from msp_ds.errors import InputError

_LONGEST_WATCH = 366 * 24 * 60
"""Minutes: a year. The system's timers do not reach much further."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """When a run gives up."""

    stop_after_nan: int = 3
    """Optimiser steps in a row whose loss or gradient is not finite."""
    watchdog: float = 30.0
    """Minutes without a step; 0: never."""

    def __post_init__(self) -> None:
        if self.stop_after_nan < 1:
            raise InputError(f"--stop-after-nan {self.stop_after_nan} is not positive")
        if not 0 <= self.watchdog <= _LONGEST_WATCH:
            raise InputError(f"--watchdog {self.watchdog} is not in 0 to {_LONGEST_WATCH} minutes; 0 never ends a run")
