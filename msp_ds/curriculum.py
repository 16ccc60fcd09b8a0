"""The stages of the paper: which granularity, which tasks (paper section 3, figure 1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from msp_ds.config import StageSchedule
from msp_ds.downstream.nlvr2 import NLVR2
from msp_ds.downstream.retrieval import RETRIEVAL
from msp_ds.downstream.vqa import GQA, VQA
from msp_ds.errors import InputError
from msp_ds.tasks import TASKS
from msp_ds.tasks.task import Task


@dataclass(frozen=True, kw_only=True)
class Granularity:
    """One granularity of text with its tasks; the shards of the same name feed it."""

    initial: str
    name: str
    tasks: tuple[Task, ...]


@dataclass(frozen=True, kw_only=True)
class Stage:
    """What is trained between two checkpoints: one part, or several mixed (Table 4's T + P + S)."""

    parts: tuple[Granularity, ...]

    @property
    def name(self) -> str:
        """`token`, or `token+phrase+sentence`."""
        return "+".join(part.name for part in self.parts)

    @property
    def tasks(self) -> tuple[Task, ...]:
        """The tasks of all parts, each once."""
        return tuple({task.name: task for part in self.parts for task in part.tasks}.values())

    def schedule(self, rows: dict[str, StageSchedule]) -> StageSchedule:
        """The stage's row; a mix takes the longest and the widest of its parts' rows.

        Raises: InputError where a part has none.
        """
        missing = [part.name for part in self.parts if part.name not in rows]
        if missing:
            raise InputError(f"the schedule has no row for {missing[0]}; it has {', '.join(rows) or 'none'}")
        chosen = [rows[part.name] for part in self.parts]
        return StageSchedule(epochs=max(row.epochs for row in chosen), batch_size=max(row.batch_size for row in chosen))


def _part(name: str, *tasks: str) -> Granularity:
    return Granularity(initial=name[0], name=name, tasks=tuple(TASKS[task] for task in tasks))


STAGES: tuple[Granularity, ...] = (
    _part("token", "mlm", "mrfr", "moc", "ifrs"),
    _part("phrase", "mlm", "mrfr", "moc", "titp"),
    _part("sentence", "mlm", "mrfr", "moc", "tits", "itm_hs"),
)
"""The curriculum of the paper, in its order: t, p, s."""

BenchmarkName = Literal["vqa", "gqa", "nlvr2", "retrieval"]
"""A key of BENCHMARKS, as a command line spells it."""
BENCHMARKS: dict[str, Granularity] = {
    task.name: Granularity(initial="", name=task.name, tasks=(task,)) for task in (VQA, GQA, NLVR2, RETRIEVAL)
}
"""What a pre-trained model is fine-tuned on: a stage of one task, trained by the same loop."""


def curriculum(spelling: str, *, drop: Sequence[str] = ()) -> tuple[Stage, ...]:
    """The stages that `spelling` names by initial: `tps` in that order, `t+p+s` together, less the tasks in `drop`.

    The name of a benchmark is a curriculum of its own.

    Raises InputError for an unknown or repeated letter, an unknown task, and a stage that is left without a task.
    """
    unknown = [name for name in drop if name not in TASKS]
    if unknown:
        raise InputError(f"no task is called {unknown[0]!r}; tasks are {', '.join(TASKS)}")
    if spelling in BENCHMARKS:
        return (Stage(parts=(_without(BENCHMARKS[spelling], drop),)),)
    letters = [letter.strip() for letter in spelling.split("+")] if "+" in spelling else list(spelling)
    known = {part.initial: part for part in STAGES}
    if not letters or any(letter not in known for letter in letters) or len(set(letters)) < len(letters):
        raise InputError(
            f"curriculum {spelling!r} is not understood: name each stage once by its initial "
            f"({', '.join(f'{initial} {part.name}' for initial, part in known.items())}), as in tps, s or t+p+s"
        )
    trained = {task.name for letter in letters for task in known[letter].tasks}
    idle = [name for name in drop if name not in trained]
    if idle:
        raise InputError(f"--drop {idle[0]}: no stage of {spelling} trains it; leave the flag out")
    parts = [_without(known[letter], drop) for letter in letters]
    if "+" in spelling:
        return (Stage(parts=tuple(parts)),)
    return tuple(Stage(parts=(part,)) for part in parts)


def _without(part: Granularity, drop: Sequence[str]) -> Granularity:
    tasks = tuple(task for task in part.tasks if task.name not in drop)
    if not tasks:
        raise InputError(f"--drop leaves no task for stage {part.name}")
    return Granularity(initial=part.initial, name=part.name, tasks=tasks)
