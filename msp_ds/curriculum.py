"""The stages of the paper, each a granularity of text with its tasks (paper section 3, figure 1), and benchmarks."""

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
    """A granularity of text with its tasks; it trains on the shard set of the same name."""

    initial: str
    name: str
    tasks: tuple[Task, ...]


@dataclass(frozen=True, kw_only=True)
class Stage:
    """What is trained from one checkpoint to the next: one granularity, or several mixed (Table 4's T + P + S)."""

    parts: tuple[Granularity, ...]

    @property
    def name(self) -> str:
        """The name, such as `token` or `token+phrase+sentence`."""
        return "+".join(part.name for part in self.parts)

    @property
    def tasks(self) -> tuple[Task, ...]:
        """The tasks of all parts, without repetitions."""
        return tuple({task.name: task for part in self.parts for task in part.tasks}.values())

    def schedule(self, rows: dict[str, StageSchedule]) -> StageSchedule:
        """Return the stage's schedule; a mix has the most epochs and the largest batch of its parts.

        Raises:
            InputError: `rows` lacks a part.
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
"""The stages of the paper in its order: t, p, s."""

BenchmarkName = Literal["vqa", "gqa", "nlvr2", "retrieval"]
"""A key of BENCHMARKS, as a command line spells it."""
BENCHMARKS: dict[str, Granularity] = {
    task.name: Granularity(initial="", name=task.name, tasks=(task,)) for task in (VQA, GQA, NLVR2, RETRIEVAL)
}
"""Benchmarks for fine-tuning, each a stage of one task that the same loop trains."""


def curriculum(spelling: str, *, drop: Sequence[str] = ()) -> tuple[Stage, ...]:
    """Return the stages of a curriculum, without the tasks in `drop`.

    `spelling` names stages by their initials: `tps` trains three in this order, `t+p+s` all three together. The name of
    a benchmark is a curriculum too.

    Raises:
        InputError: A letter is unknown or repeated, a task is unknown, or a stage is left without a task.
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
