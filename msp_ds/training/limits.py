"""When a run gives up."""

from __future__ import annotations

from dataclasses import dataclass

from msp_ds.errors import InputError


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
        if not self.watchdog >= 0:
            raise InputError(f"--watchdog {self.watchdog} is negative; 0 never ends a run")
