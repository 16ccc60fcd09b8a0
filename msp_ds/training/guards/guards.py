"""The guards of a stage: of its losses, its progress and its shards."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from msp_ds.data.format.shards import ShardSet
from msp_ds.errors import ShardError
from msp_ds.training.distributed.runtime import Runtime
from msp_ds.training.guards.finite import FiniteGuard
from msp_ds.training.guards.limits import Limits
from msp_ds.training.guards.shard_watch import ShardWatch
from msp_ds.training.guards.watchdog import Watchdog


@dataclass(frozen=True, kw_only=True)
class Guards:
    """The three guards of one stage."""

    finite: FiniteGuard
    watchdog: Watchdog
    shards: ShardWatch

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Run the watchdog inside the block, and name changed shards in a ShardError that they cause."""
        try:
            with self.watchdog.watching():
                yield
        except ShardError as error:
            fault = self.shards.fault()
            if fault and fault not in str(error):
                raise ShardError(f"{fault}, then --resume ({error})") from None
            raise


def build_guards(
    limits: Limits, folder: Path, sets: Sequence[ShardSet], *, stage: str, precision: str, runtime: Runtime
) -> Guards:
    """The guards of the stage in `folder`, which reads `sets`."""
    counts_norms, stop_after = precision != "fp16", limits.stop_after_nan
    finite = FiniteGuard(folder, stage=stage, stop_after=stop_after, counts_norms=counts_norms, runtime=runtime)
    return Guards(finite=finite, watchdog=Watchdog(limits.stall_timeout * 60), shards=ShardWatch(sets))
