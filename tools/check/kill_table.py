"""Kills runs at random moments, resumes them, and compares what they end with to the last bit.

    python tools/check/kill_table.py --folder kills --kills 20

makes a demo world of 80 images and, for one rank, two ranks with ZeRO 0 and two ranks with ZeRO 2, trains a run of
all three stages that nothing disturbs, then runs whose ranks are killed with SIGKILL and resumed, until there were
that many kills and the last run is through. Exit code 1 if weights, moments, reports or pairs differ anywhere.
60 kills took 22 minutes on two cores that were shared with others.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import random
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))


from msp_ds.terminal import Table, Terminal, run_tool
from msp_ds.training.checkpointing.checkpoint import OPTIMIZER, WEIGHTS
from msp_ds.training.checkpointing.run_folder import RUN_FILE, STAGE_FILE, stage_checkpoint
from msp_ds.training.monitoring.metrics_file import METRICS_FILE, read_metrics
from tools.check.noted_training import PLACES, Launch, Notes, import_all, launch, notes_of, pairs_trained_on, place_of
from tools.command_line import at_least, number_table, tool_parser

START_UP_RATIO = 0.15
"""Ratio of kills before the first step of a start; without a bound most would fall there, where little can be lost."""
STAGE_CHANGE_RATIO = 0.15
"""Ratio of kills between the last step of a stage and the first of the next: short, but much happens there."""
SPAN_RATIO = 0.3
"""Longest life of a start after its first step, as a ratio of a run's, so that there are enough kills."""
SAVES = ["--save-every", "4"]
TIMED = ("time", "speed/", "memory/")
"""Beginnings of the metric names that may differ."""


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """The ranks, ZeRO stage and flags of a run."""

    title: str
    ranks: int
    zero_stage: int
    flags: tuple[str, ...] = ()


CONFIGURATIONS = (
    Configuration(title="1 rank, fp32", ranks=1, zero_stage=0),
    Configuration(title="2 ranks, ZeRO 0", ranks=2, zero_stage=0),
    Configuration(title="2 ranks, ZeRO 2", ranks=2, zero_stage=2),
)


@dataclass(frozen=True, kw_only=True)
class Life:
    """The duration of an undisturbed run and of its parts, in seconds."""

    start_up: float
    """Until the first step."""
    stage_change: float
    """From the end of a stage to the first step of the next."""
    training: float
    """From the first step to the end of the last stage."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """The result of one configuration."""

    title: str
    places: list[str]
    """Where each kill fell: one of PLACES."""
    runs: int
    different: list[str]
    """Names of what differed, with the run."""


def begin(run: Path, how: Configuration) -> Launch:
    """Start a run, or resume it where it has a run file."""
    return launch(run, how.ranks, ["--resume", *SAVES] if (run / RUN_FILE).is_file() else how.flags)


def alive(started: Launch, *, for_seconds: float = float("inf"), or_until: str = "") -> Iterator[bool]:
    """Yield until a start ends, the time is over, or `or_until` is noted."""
    deadline = time.monotonic() + for_seconds
    while not started.ended() and time.monotonic() < deadline:
        if or_until and any(note["what"] == or_until for note in started.noted()):
            return
        yield True
        time.sleep(0.02 if or_until else 0.005)


def next_at(notes: Notes, what: str, after: float) -> float:
    """The time of the next note of `what` after `after`, 0 without one."""
    return next((one["at"] for one in notes if one["what"] == what and one["at"] > after), 0.0)


def undisturbed(run: Path, how: Configuration) -> Life:
    """Train the rest of a run without a kill."""
    began, started = time.monotonic(), begin(run, how)
    for _ in alive(started, or_until="step"):
        pass
    first = time.monotonic()
    for _ in alive(started):
        pass
    notes = started.noted()
    ends = [one["at"] for one in notes if one["what"] == "stage ends"]
    change = max((max(0.0, next_at(notes, "step", end) - end) for end in ends), default=0.0)
    return Life(start_up=first - began, stage_change=change, training=time.monotonic() - first)


def killed(started: Launch, life: Life, rng: random.Random) -> str:
    """Kill a start after a random time and return its place, "" where it had ended before."""
    awaited, span = rng.choices(
        [("start", life.start_up), ("stage ends", life.stage_change), ("step", SPAN_RATIO * life.training)],
        [START_UP_RATIO, STAGE_CHANGE_RATIO, 1 - START_UP_RATIO - STAGE_CHANGE_RATIO],
    )[0]
    left = rng.uniform(0, span)
    for _ in alive(started, or_until=awaited):
        pass
    for _ in alive(started, for_seconds=left):
        pass
    if started.ended():
        return ""
    started.kill()
    return place_of(started.noted())


def digest(run: Path, ranks: int) -> dict[str, str]:
    """Hashes of all that must be equal: weights, moments, validation and reports of each stage, pairs of each rank."""
    found: dict[str, bytes] = {}
    for stage in sorted(run.glob("[0-9]*-*")):
        last = stage_checkpoint(stage)
        found |= {f"{stage.name} {name}": (last / name).read_bytes() for name in (WEIGHTS, OPTIMIZER)}
        found[f"{stage.name} {STAGE_FILE}"] = (stage / STAGE_FILE).read_bytes()
        rows = [
            {name: value for name, value in row.items() if not name.startswith(TIMED)}
            for row in read_metrics(stage / METRICS_FILE)
        ]
        found[f"{stage.name} {METRICS_FILE}"] = json.dumps(rows).encode()
    for rank in range(ranks):
        found[f"pairs of rank {rank}"] = json.dumps(pairs_trained_on(notes_of(run, rank))).encode()
    return {name: hashlib.sha256(value).hexdigest() for name, value in found.items()}


def provoke(folder: Path, how: Configuration, *, kills: int, seed: int, show: Terminal) -> Row:
    """The row of a configuration. Raises RuntimeError where a resumed run fails."""
    life = undisturbed(folder / "whole", how)
    show.print(f"{how.title}: first step after {life.start_up:.1f} s, end {life.training:.0f} s later")
    whole, rng = digest(folder / "whole", how.ranks), random.Random(f"{how.title} {seed}")
    places: list[str] = []
    different: list[str] = []
    runs = 0
    while len(places) < kills:
        runs += 1
        run = folder / f"killed-{runs}"
        while len(places) < kills and (place := killed(begin(run, how), life, rng)):
            places.append(place)
            show.print(f"{how.title}: kill {len(places)}, of run {runs}: {place}")
        undisturbed(run, how)
        found = digest(run, how.ranks)
        names = sorted(whole.keys() | found.keys())
        different += [f"run {runs}, {name}" for name in names if whole.get(name) != found.get(name)]
    return Row(title=how.title, places=places, runs=runs, different=different)


def prepared(folder: Path, shards: Path, *, steps: int) -> Iterator[tuple[Path, Configuration]]:
    """Each configuration with its folder and its flags."""
    for number, how in enumerate(CONFIGURATIONS, start=1):
        place = folder / str(number)
        place.mkdir()
        way = place / "way.json"
        way.write_text(json.dumps({"precision": "fp32", "zero_stage": how.zero_stage, "bucket_elements": 1_000_000}))
        flags = ["--curriculum", "tps", "--preset", "tiny", "--batch-size", "16", "--epochs", str(steps), *SAVES]
        flags += ["--max-steps", str(steps), "--shards", str(shards), "--ds-config", str(way)]
        yield place, dataclasses.replace(how, flags=tuple(flags))


def table(rows: list[Row]) -> Table:
    """A row a configuration."""
    cells = []
    for row in rows:
        counts = [str(row.places.count(place)) for place in PLACES]
        cells.append([row.title, str(len(row.places)), *counts, str(row.runs), "no" if row.different else "yes"])
    title = "Runs killed with SIGKILL and resumed, compared with one that was not"
    return number_table(title, ("configuration", "kills", *PLACES, "runs", "equal"), cells)


def main() -> None:
    """Read the flags, measure and print the table."""
    parser = tool_parser(__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--shards", type=Path, help="All three stages. [those of a new demo world of 80 images]")
    parser.add_argument("--kills", type=at_least(1), default=20, help="Of each configuration.")
    parser.add_argument("--steps", type=at_least(1), default=60, help="Optimiser steps of each stage.")
    parser.add_argument("--seed", type=int, default=0, help="Of the moments.")
    flags = parser.parse_args()
    sys.path.append(str(Path(__file__).resolve().parents[2] / "tests" / "support"))
    from small_world import write_shards

    flags.folder.mkdir(parents=True, exist_ok=True)
    shards = flags.shards or write_shards(flags.folder)
    import_all()
    show, rows = Terminal(stderr=True), []
    for place, how in prepared(flags.folder, shards, steps=flags.steps):
        rows.append(provoke(place, how, kills=flags.kills, seed=flags.seed, show=show))
        Terminal().print(table(rows))
    for row in rows:
        for line in row.different:
            show.print(f"different: {row.title}, {line}")
    sys.exit(any(row.different for row in rows))


if __name__ == "__main__":
    run_tool(main)
