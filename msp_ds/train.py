"""Pre-trains in stages, on whatever is there: one process, or as many as a launcher starts.

    deepspeed msp_ds/train.py --curriculum tps     (the same as `msp-ds train --curriculum tps` on one device)

On the demo world and two CPU cores this takes about four minutes and ends with a checkpoint in runs/tps.
"""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from msp_ds.config import DEFAULT_PRESET, LengthBuckets, RunConfig, StageSchedule, get_preset
from msp_ds.curriculum import STAGES, Stage, curriculum
from msp_ds.data.remote.staging import DEFAULT_LIMIT_GB, local_shards, refuse_rewriting
from msp_ds.data.shards import open_set
from msp_ds.errors import InputError
from msp_ds.terminal import bars, one_line_errors, speak
from msp_ds.training.execution import Execution, choose_execution, read_execution
from msp_ds.training.run_folder import RUN_FILE, model_for, read_run_config, read_run_execution
from msp_ds.training.settings import with_settings

log = logging.getLogger(__name__)

RUNS = Path("runs")
"""Where runs lie by default; `tensorboard --logdir runs` shows them."""
CACHE = Path("~/.cache/msp-ds")
"""Where shards that came from an address are kept by default."""

Curriculum = Annotated[str | None, typer.Option(help="Stages by initial: tps, s, ts, pts ...; t+p+s mixes them. [tps]")]
Shards = Annotated[str | None, typer.Option(help="Folder with one shard set a stage, or its https, s3 or gs address.")]
Cache = Annotated[Path, typer.Option(help="Where shards from an address are kept.")]
CacheLimit = Annotated[float, typer.Option(help="GB that may be kept there.")]
RunDir = Annotated[Path | None, typer.Option(help="Folder of the run. [runs/CURRICULUM, numbered if taken]")]
PresetName = Annotated[str | None, typer.Option(help="paper, small or tiny. [what the shards' recipe suggests]")]
DsConfig = Annotated[Path | None, typer.Option(help="How to execute, a file as in ds_configs/. [by the hardware]")]
Init = Annotated[Path | None, typer.Option(help="Run or checkpoint whose trunk the first stage starts from.")]
Resume = Annotated[bool, typer.Option("--resume", help="Continue the run (the newest one without --run-dir).")]
Seed = Annotated[int | None, typer.Option(help="Seed of weights, order and masks. [9595]")]
Drop = Annotated[list[str] | None, typer.Option(help="Leave a task out of every stage; may be repeated.")]
Setting = Annotated[
    list[str] | None,
    typer.Option("--set", help="moc_target=all, weights.mlm=2, model.NAME=..., optim.NAME=...; repeatable."),
]
Epochs = Annotated[str | None, typer.Option(help="Epochs a stage: 6 for all, or t=4,p=4,s=12. [the preset's]")]
BatchSize = Annotated[int | None, typer.Option(help="Pairs an optimiser step, over all ranks. [the preset's]")]
Rate = Annotated[float | None, typer.Option("--lr", help="Peak learning rate. [the preset's]")]
SaveEvery = Annotated[int, typer.Option(help="Optimiser steps between checkpoints, beside one an epoch.")]
Buckets = Annotated[LengthBuckets | None, typer.Option(help="Texts of like length share batches. [the preset's]")]
MaxSteps = Annotated[int | None, typer.Option(help="End each stage after this many optimiser steps.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


def train(
    curriculum: Curriculum = None,
    shards: Shards = None,
    run_dir: RunDir = None,
    preset: PresetName = None,
    ds_config: DsConfig = None,
    init: Init = None,
    resume: Resume = False,
    seed: Seed = None,
    drop: Drop = None,
    setting: Setting = None,
    epochs: Epochs = None,
    batch_size: BatchSize = None,
    lr: Rate = None,
    length_buckets: Buckets = None,
    save_every: SaveEvery = 500,
    max_steps: MaxSteps = None,
    cache: Cache = CACHE,
    cache_limit: CacheLimit = DEFAULT_LIMIT_GB,
    debug: Debug = False,
    local_rank: Annotated[int, typer.Option("--local_rank", hidden=True)] = 0,
) -> None:
    """Pre-train the stages of a curriculum, each from the checkpoint of the one before."""
    flags = {
        "curriculum": curriculum,
        "preset": preset,
        "shards": shards,
        "init": None if init is None else str(init),
        "seed": seed,
        "max_steps": max_steps,
        "drop": tuple(drop) if drop else None,
        "setting": tuple(setting) if setting else None,
        "epochs": epochs,
        "batch_size": batch_size,
        "lr": lr,
        "length_buckets": length_buckets,
    }
    given = {name: value for name, value in flags.items() if value is not None}
    # One rank a machine speaks for all of its ranks, which meet the same errors.
    with one_line_errors(debug=debug, quiet=os.environ.get("LOCAL_RANK", "0") != "0"):
        keep = Keep(folder=cache, limit_gb=cache_limit)
        start(given, run_dir=run_dir, ds_config=ds_config, resume=resume, save_every=save_every, keep=keep)


@dataclass(frozen=True, kw_only=True)
class Keep:
    """Where shards from an address are kept, and how much of them."""

    folder: Path = CACHE
    limit_gb: float = DEFAULT_LIMIT_GB


def start(
    given: dict[str, Any],
    *,
    run_dir: Path | None = None,
    ds_config: Path | None = None,
    resume: bool = False,
    save_every: int = 500,
    keep: Keep | None = None,
) -> Path:
    """Runs what the flags `given` describe; returns the run's folder. Raises InputError before anything is written."""
    speak(quiet=os.environ.get("RANK", "0") != "0")
    folder = (run_dir or newest_run(RUNS)) if resume else run_dir
    if folder is not None and not resume and (folder / RUN_FILE).exists():
        raise InputError(f"{folder} already holds a run; continue it with --resume, or choose another --run-dir")
    if save_every < 1:
        raise InputError(f"--save-every {save_every} is not positive")
    refuse_rewriting(os.environ)
    saved = resumed_config(folder, given) if resume and folder is not None else None
    with shards_at_hand(given, saved, keep=keep or Keep()) as shards:
        config = saved or dataclasses.replace(
            new_config({**given, "shards": str(shards)}), shards=str(given.get("shards", "shards"))
        )
        how = execution_of(ds_config, resumed=folder if resume else None)
        return _run(config, how, folder=folder, save_every=save_every, shards=shards)


def _run(config: RunConfig, how: tuple[str, Execution], *, folder: Path | None, save_every: int, shards: Path) -> Path:
    """Joins the other ranks and trains. how: name and content of the way to execute."""
    # DeepSpeed takes seconds to import, so it comes after everything that a user can get wrong.
    from msp_ds.training.runtime import start_runtime

    runtime = start_runtime(os.environ)  # names the device to DeepSpeed, which the rooms below import
    from msp_ds.training.interrupt import Interrupted, StopRequest
    from msp_ds.training.run import train as train_run
    from msp_ds.training.stage import Job

    folder = Path(runtime.first_says(str(folder or fresh_folder(RUNS / config.curriculum))))
    log.info(
        "run %s: curriculum %s, preset %s, %s on %s",
        *(folder, config.curriculum, config.preset, how[0], runtime.describe()),
    )
    stop = StopRequest()
    job = Job(
        config=config,
        execution=how[1],
        folder=folder,
        runtime=runtime,
        stop=stop,
        save_every=save_every,
        local_shards=shards,
    )
    try:
        with stop.listen():
            train_run(job)
    except Interrupted as interruption:
        log.warning("%s", interruption)
        raise SystemExit(interruption.exit_code) from None
    except FloatingPointError as error:
        log.error("%s", error)
        raise SystemExit(1) from None
    return folder


@contextmanager
def shards_at_hand(given: dict[str, Any], saved: RunConfig | None, *, keep: Keep) -> Iterator[Path]:
    """The shards of a new or saved run on this machine, fetched first where they are named by an address."""
    address = saved.shards if saved else str(given.get("shards", "shards"))
    spelling = saved.curriculum if saved else given.get("curriculum", "tps")
    stages = curriculum(spelling, drop=saved.drop if saved else given.get("drop", ()))
    names = list(dict.fromkeys(part.name for stage in stages for part in stage.parts))
    with ExitStack() as held:
        with bars() as progress:
            shards = held.enter_context(
                local_shards(address, names, cache=keep.folder, limit_gb=keep.limit_gb, progress=progress)
            )
        yield shards


def new_config(given: dict[str, Any]) -> RunConfig:
    """The configuration that the flags describe; what they leave open comes from the preset and the shards."""
    spelling, shards = given.get("curriculum", "tps"), Path(given.get("shards", "shards"))
    stages = curriculum(spelling, drop=given.get("drop", ()))
    sets = [open_set(shards / part.name / "train") for stage in stages for part in stage.parts]
    name = given.get("preset") or sets[0].index.preset or DEFAULT_PRESET
    preset = get_preset(name)
    config = RunConfig(
        curriculum=spelling,
        preset=name,
        model=model_for(preset.model, sets[0]),
        optim=preset.optim,
        schedule=preset.schedule,
        tasks=preset.tasks,
        length_buckets=preset.length_buckets,
        shards=str(shards),
        vocabulary_sha256=sets[0].index.vocabulary_sha256,
    )
    return with_flags(config, given)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlannedSchedule:
    """What a command line would train, and for how long."""

    stages: tuple[Stage, ...]
    rows: dict[str, StageSchedule]
    """By the name of a part."""
    preset: str
    """Its name, and why it is that where shards cannot tell."""


def planned_schedule(given: dict[str, Any]) -> PlannedSchedule:
    """The stages of `new_config`; of the preset that is named, or of the default one, where shards are missing."""
    spelling, shards = given.get("curriculum", "tps"), Path(given.get("shards", "shards"))
    stages = curriculum(spelling, drop=given.get("drop", ()))
    missing = [part.name for stage in stages for part in stage.parts if not (shards / part.name / "train").is_dir()]
    if not missing:
        config = new_config(given)
        return PlannedSchedule(stages=stages, rows=config.schedule, preset=config.preset)
    name = given.get("preset") or DEFAULT_PRESET
    rows = changed_schedule(get_preset(name).schedule, epochs=given.get("epochs"), batch_size=given.get("batch_size"))
    return PlannedSchedule(stages=stages, rows=rows, preset=f"{name} (no shards for stage {missing[0]} in {shards})")


def with_flags(config: RunConfig, given: dict[str, Any]) -> RunConfig:
    """`config` with what the flags say in place of what it says."""
    plain = {name: value for name, value in given.items() if name in RunConfig.__dataclass_fields__}
    config = with_settings(config, given.get("setting", ()))
    return dataclasses.replace(
        config,
        optim=dataclasses.replace(config.optim, lr=given.get("lr", config.optim.lr)),
        schedule=changed_schedule(config.schedule, epochs=given.get("epochs"), batch_size=given.get("batch_size")),
        **plain,
    )


def resumed_config(folder: Path, given: dict[str, Any]) -> RunConfig:
    """The configuration in a run's folder; a flag that says otherwise is an error, not a change."""
    config = read_run_config(folder)
    for name, value in given.items():
        if with_flags(config, {name: value}) != config:
            flag = "set" if name == "setting" else name.replace("_", "-")
            said = " ".join(value) if isinstance(value, tuple) else value
            raise InputError(
                f"{folder} was not started with --{flag} {said}; leave the flag out to continue it, "
                "or start a new run without --resume"
            )
    return config


def execution_of(ds_config: Path | None, *, resumed: Path | None) -> tuple[str, Execution]:
    """Name and content of how to execute: the file's, else as the run in folder `resumed` did, else by the hardware."""
    if ds_config is not None:
        return str(ds_config), read_execution(ds_config)
    if resumed is not None:
        return "executed as before", read_run_execution(resumed)
    return choose_execution()


def changed_schedule(
    rows: dict[str, StageSchedule], *, epochs: str | None, batch_size: int | None
) -> dict[str, StageSchedule]:
    """The preset's schedule with other epochs (`6`, or `t=4,p=4,s=12`) and another batch size."""
    counts = dict.fromkeys(rows, epochs) if epochs and epochs.isdecimal() else {}
    if epochs and not counts:
        names = {part.initial: part.name for part in STAGES}
        for item in epochs.split(","):
            initial, _, count = item.partition("=")
            if initial not in names or not count.isdecimal():
                raise InputError(f"--epochs {epochs} is not understood; write it 6 for all stages, or t=4,p=4,s=12")
            counts[names[initial]] = count
    changed = {name: dataclasses.replace(row, epochs=int(counts.get(name) or row.epochs)) for name, row in rows.items()}
    if batch_size is None:
        return changed
    return {name: dataclasses.replace(row, batch_size=batch_size) for name, row in changed.items()}


def newest_run(runs: Path) -> Path:
    """The run that was started last."""
    found = sorted(runs.glob(f"*/{RUN_FILE}"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise InputError(f"there is no run in {runs} to resume; start one with: msp-ds train --curriculum tps")
    return found[-1].parent


def fresh_folder(wanted: Path) -> Path:
    """`wanted`, or `wanted-2`, `wanted-3` ... where a run lies there already."""
    folder, number = wanted, 1
    while (folder / RUN_FILE).exists():
        number += 1
        folder = wanted.with_name(f"{wanted.name}-{number}")
    return folder


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
app.command()(train)


def main() -> None:
    """The entry point of `deepspeed msp_ds/train.py`."""
    app()


if __name__ == "__main__":
    main()
