"""Pre-trains in stages, on whatever is there: one process, or as many as a launcher starts.

    deepspeed msp_ds/train.py --curriculum tps     (the same as `msp-ds train --curriculum tps` on one device)

On the demo world and two CPU cores this takes about four minutes and ends with a checkpoint in runs/tps.
"""

from __future__ import annotations

import dataclasses
import logging
import os
from pathlib import Path
from typing import Annotated, Any

import typer

from msp_ds.config import LengthBuckets, RunConfig
from msp_ds.curriculum import Stage
from msp_ds.data.format.path_patterns import expand_braces
from msp_ds.data.remote.remote_files import is_remote
from msp_ds.data.remote.staging import DEFAULT_LIMIT_GB, refuse_rewriting
from msp_ds.errors import InputError
from msp_ds.presets import PRESETS
from msp_ds.terminal import one_line_errors, run_command, speak
from msp_ds.training.checkpointing.run_folder import RUN_FILE, fresh_folder, newest_run
from msp_ds.training.engine.execution import Execution
from msp_ds.training.guards.limits import Limits
from msp_ds.training.planning import (
    AUTO,
    CACHE,
    cache_of,
    execution_of,
    new_config,
    resumed_config,
    shards_at_hand,
    with_compile,
    with_micro_batch,
)

log = logging.getLogger(__name__)

RUNS = Path("runs")
"""Where runs lie by default; `tensorboard --logdir runs` shows them."""

Curriculum = Annotated[str | None, typer.Option(help="Stages by initial: tps, s, ts, pts ...; t+p+s mixes them. [tps]")]
Shards = Annotated[str | None, typer.Option(help="Folder with one shard set a stage, or its https, s3 or gs address.")]
Cache = Annotated[Path | None, typer.Option(help=f"Where shards from an address are kept. [{CACHE}]")]
CacheLimit = Annotated[float | None, typer.Option(help=f"GB that may be kept there. [{DEFAULT_LIMIT_GB:g}]")]
RunDir = Annotated[Path | None, typer.Option(help="Folder of the run. [runs/CURRICULUM, numbered if taken]")]
PresetName = Annotated[str | None, typer.Option(help=f"{', '.join(PRESETS)}. [what the shards' recipe suggests]")]
DsConfig = Annotated[Path | None, typer.Option(help="How to execute, a file as in ds_configs/. [by the hardware]")]
Init = Annotated[
    Path | None, typer.Option(help="Run, checkpoint or weights folder whose backbone the first stage starts from.")
]
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
Keep = Annotated[int, typer.Option(help="Newest checkpoints of a stage that stay, beside its best.")]
MaxSteps = Annotated[int | None, typer.Option(help="End each stage after this many optimiser steps.")]
MicroBatch = Annotated[
    str | None, typer.Option(help="Pairs a rank takes through a forward pass; auto: what fits. [--ds-config's]")
]
Compile = Annotated[bool, typer.Option("--compile", help="Compile the layers: pays on a GPU. [--ds-config's]")]
StopAfterNan = Annotated[int, typer.Option(help="End when so many steps in a row have a loss that is not finite.")]
Patience = Annotated[float, typer.Option("--watchdog", help="End after so many minutes without a step; 0: never.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


def train(
    curriculum: Curriculum = None,
    shards: Shards = None,
    run_dir: RunDir = None,
    preset: PresetName = None,
    ds_config: DsConfig = None,
    micro_batch: MicroBatch = None,
    compiles: Compile = False,
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
    keep: Keep = 2,
    stop_after_nan: StopAfterNan = 3,
    watchdog: Patience = 30.0,
    max_steps: MaxSteps = None,
    cache: Cache = None,
    cache_limit: CacheLimit = None,
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
        limits = Limits(stop_after_nan=stop_after_nan, watchdog=watchdog)
        habits: dict[str, Any] = {"save_every": save_every, "keep": keep, "limits": limits, "micro_batch": micro_batch}
        habits["compiles"] = compiles
        start(
            given, run_dir=run_dir, ds_config=ds_config, resume=resume, cache=cache, cache_limit=cache_limit, **habits
        )


def start(
    given: dict[str, Any],
    *,
    run_dir: Path | None = None,
    ds_config: Path | None = None,
    micro_batch: str | None = None,
    compiles: bool = False,
    resume: bool = False,
    save_every: int = 500,
    keep: int = 2,
    cache: Path | None = None,
    cache_limit: float | None = None,
    limits: Limits | None = None,
    stages: tuple[Stage, ...] = (),
) -> Path:
    """Runs what the flags `given` describe; returns the run's folder. Raises InputError before anything is written.

    stages: those of the curriculum in `given`, with tasks from outside the package (examples/add_a_task.py).
    """
    speak(quiet=os.environ.get("RANK", "0") != "0")
    folder = (run_dir or newest_run(RUNS)) if resume else run_dir
    if folder is not None and not resume and (folder / RUN_FILE).exists():
        raise InputError(f"{folder} already holds a run; continue it with --resume, or choose another --run-dir")
    for flag, value in (("--save-every", save_every), ("--keep", keep)):
        if value < 1:
            raise InputError(f"{flag} {value} is not positive")
    refuse_rewriting(os.environ)
    folders = expand_braces([str(given.get("shards", "shards"))])
    if len(folders) > 1:
        raise InputError(
            f"--shards {given['shards']} stands for {len(folders)} folders; name the one that holds a set a stage"
        )
    saved = resumed_config(folder, given) if resume and folder is not None else None
    kept = cache_of(cache, cache_limit, resumed=folder if resume else None)
    with shards_at_hand(given, saved, cache=kept) as shards:
        config = saved or dataclasses.replace(
            new_config({**given, "shards": str(shards)}), shards=str(given.get("shards", "shards"))
        )
        how = with_micro_batch(execution_of(ds_config, resumed=folder if resume else None), micro_batch)
        how = with_compile(how, compiles)
        habits = {"save_every": save_every, "keep": keep, "limits": limits or Limits(), "local_shards": shards}
        habits["stages"] = stages
        if is_remote(config.shards):
            habits["cache"] = kept
        return _run(config, how, folder=folder, habits={**habits, "fits_micro_batch": micro_batch == AUTO})


def _run(config: RunConfig, how: tuple[str, Execution], *, folder: Path | None, habits: dict[str, Any]) -> Path:
    """Joins the other ranks and trains. how: its name and content. habits: the other fields of Job."""
    # DeepSpeed takes seconds to import, so it comes after everything that a user can get wrong.
    from msp_ds.training.distributed.runtime import allow_tf32, has_lost_a_rank, lost_rank_message, start_runtime

    runtime = start_runtime(os.environ)  # names the device to DeepSpeed, which the rooms below import
    allow_tf32(how[1].tf32)
    from msp_ds.training.guards.interrupt import Interrupted, StopRequest
    from msp_ds.training.run import train as train_run
    from msp_ds.training.stage import Job

    folder = Path(runtime.broadcast(str(folder or fresh_folder(RUNS / config.curriculum))))
    log.info(
        "run %s: curriculum %s, preset %s, %s on %s",
        *(folder, config.curriculum, config.preset, how[0], runtime.describe()),
    )
    stop = StopRequest()
    job = Job(config=config, execution=how[1], folder=folder, runtime=runtime, stop=stop, **habits)
    try:
        with stop.listen():
            train_run(job)
    except Interrupted as interruption:
        if runtime.is_first:  # all ranks stop at the same step
            log.warning("%s", interruption)
        raise SystemExit(interruption.exit_code) from None
    except FloatingPointError as error:
        if runtime.is_first:  # all ranks stop for it
            log.error("%s", error)
        raise SystemExit(1) from None
    except RuntimeError as error:
        if not has_lost_a_rank(error):
            raise
        log.error(
            "rank %d: another rank has ended or hangs (%s); --resume continues", runtime.rank, lost_rank_message(error)
        )
        raise SystemExit(1) from None
    return folder


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
app.command()(train)


def main() -> None:
    """The entry point of `deepspeed msp_ds/train.py`."""
    run_command(app)


if __name__ == "__main__":
    main()
