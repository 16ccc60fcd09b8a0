"""Runs of msp_ds/train.py whose ranks note what they do and with which pairs, for tools/check/kill_table.py.

A rank is a fork of this process, which has imported everything: a start costs what it builds and loads, no imports.
RUN.notes/rank-0.jsonl gets a line at each thing that begins or ends, in one write: what was noted before a kill stays.
"""

from __future__ import annotations

import collections
import json
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from tools.bench.common.rank_worlds import free_port

if TYPE_CHECKING:
    from msp_ds.training.batch_loader import StepBatch
    from msp_ds.training.loop import StageLoop

PLACES = ("start-up", "stage change", "step", "validation", "save")
"""Places where a kill may fall; a save is written while training continues."""

Notes = list[dict[str, Any]]
Note = Callable[..., None]


def opened(path: Path) -> Note:
    """Return a function that appends a line to the notes, after a first line for the start of the process."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def note(what: str, **facts: Any) -> None:
        os.write(descriptor, f"{json.dumps({'what': what, 'at': time.monotonic(), **facts})}\n".encode())

    note("start")
    return note


def within(note: Note, what: str, work: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap `work` so that its beginning and end are noted."""

    def noted(*words: Any, **named: Any) -> Any:
        note(f"{what} begins")
        done = work(*words, **named)
        note(f"{what} ends")
        return done

    return noted


def train(run: Path, flags: Sequence[str], facts: Mapping[str, str]) -> None:
    """Run one rank: msp_ds/train.py with these flags, and notes. facts: the environment variables of a launcher."""
    from msp_ds import train as program
    from msp_ds.training import run as stages
    from msp_ds.training.checkpointing.saving import Saver
    from msp_ds.training.loop import StageLoop

    os.environ.update(facts)
    with run.with_suffix(".log").open("ab") as log:
        for stream in (1, 2):
            os.dup2(log.fileno(), stream)
    sys.argv = ["train.py", "--run-dir", str(run), *flags]
    note, step = opened(notes_path(run, int(facts["RANK"]))), StageLoop._step

    def noted_step(loop: StageLoop, step_batch: StepBatch, *rest: Any) -> None:
        keys = [key for batch in step_batch.micro_batches for key in batch.keys.tolist()]
        note("step", stage=loop.metric_logger.name, step=step_batch.step, keys=keys)
        step(loop, step_batch, *rest)

    with ExitStack() as patches:
        patches.enter_context(patch.object(StageLoop, "_step", noted_step))
        for owner, name, what in (
            (StageLoop, "validate", "validation"),
            (Saver, "_write", "save"),
            (stages, "train_stage", "stage"),
        ):
            patches.enter_context(patch.object(owner, name, within(note, what, getattr(owner, name))))
        program.main()


@dataclass
class Launch:
    """The ranks of one start."""

    run: Path
    ranks: list[ForkProcess]
    before: int
    """Notes of the first rank before this start."""

    def noted(self) -> Notes:
        """The notes of the first rank since this start."""
        return notes_of(self.run, 0)[self.before :]

    def kill(self) -> None:
        """SIGKILL to all of them, one right after the other."""
        for rank in self.ranks:
            if rank.pid is not None and rank.exitcode is None:
                os.kill(rank.pid, signal.SIGKILL)
        for rank in self.ranks:
            rank.join()

    def ended(self) -> bool:
        """Whether all ranks have ended. Raises: RuntimeError when one failed."""
        codes = [rank.exitcode for rank in self.ranks]
        if any(codes):
            self.kill()
            raise RuntimeError(f"ranks of {self.run} ended with {codes}; see {self.run.with_suffix('.log')}")
        return None not in codes


def import_all() -> None:
    """Import what ranks need into this process, from which they are forked: it saves seconds at each start."""
    os.environ |= {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}  # DeepSpeed reads it when imported
    import torch._dynamo  # noqa: F401, for torch's optimisers

    import msp_ds.train
    import msp_ds.training.run  # noqa: F401, for DeepSpeed


def launch(run: Path, num_ranks: int, flags: Sequence[str]) -> Launch:
    """Start the ranks of a run, as a launcher would. Call `import_all` before."""
    shared: dict[str, object] = {"WORLD_SIZE": num_ranks, "LOCAL_WORLD_SIZE": num_ranks}
    shared |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    before, ranks = len(notes_of(run, 0)), []
    for rank in range(num_ranks):
        facts = {name: str(value) for name, value in {**shared, "RANK": rank, "LOCAL_RANK": rank}.items()}
        ranks.append(multiprocessing.get_context("fork").Process(target=train, args=(run, list(flags), facts)))
        ranks[-1].start()
    return Launch(run, ranks, before)


def notes_path(run: Path, rank: int) -> Path:
    """The file of a rank's notes."""
    return run.with_suffix(".notes") / f"rank-{rank}.jsonl"


def notes_of(run: Path, rank: int) -> Notes:
    """All notes of a rank; none before its first start."""
    path = notes_path(run, rank)
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def place_of(notes: Notes) -> str:
    """The place of a start at the end of its notes: one of PLACES."""
    words = [note["what"] for note in notes]
    counts = collections.Counter(words)
    for place in ("save", "validation"):
        if counts[f"{place} begins"] > counts[f"{place} ends"]:
            return place
    ends = [at for at, what in enumerate(words) if what == "stage ends"]
    if "step" in words[ends[-1] if ends else 0 :]:
        return "step"
    return "stage change" if ends else "start-up"


def pairs_trained_on(notes: Notes) -> dict[str, list[list[int]]]:
    """Stage -> the keys of each step that counts: a start goes on after its checkpoint and forgets what came later.

    Raises ValueError where a start goes on after a step that nobody has done.
    """
    done: dict[str, list[list[int]]] = {}
    for note in notes:
        if note["what"] == "step":
            steps = done.setdefault(note["stage"], [])
            if note["step"] > len(steps):
                raise ValueError(f"{note['stage']}: step {note['step']} follows on {len(steps)} steps")
            done[note["stage"]] = [*steps[: note["step"]], note["keys"]]
    return done
