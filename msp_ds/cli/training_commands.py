"""Commands that train, or show what would be trained."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from msp_ds.curriculum import BenchmarkName
from msp_ds.preparation.recipe import DEMO_RECIPE
from msp_ds.presets import PRESETS, get_preset
from msp_ds.progress import bars
from msp_ds.terminal import Terminal, one_line_errors, speak
from msp_ds.train import (
    RUNS,
    BatchSize,
    Compile,
    Curriculum,
    Debug,
    Drop,
    DsConfig,
    Epochs,
    Keep,
    MaxSteps,
    MicroBatch,
    Patience,
    PresetName,
    Rate,
    Resume,
    RunDir,
    SaveEvery,
    Seed,
    Setting,
    Shards,
    StopAfterNan,
    train,
)
from msp_ds.training.checkpointing.run_folder import fresh_folder
from msp_ds.training.engine.execution import Execution, find_shipped, read_execution
from msp_ds.training.guards.limits import Limits
from msp_ds.training.memory.cards import CARDS, changed_card, find_card


def demo(
    recipe: Annotated[Path, typer.Option(help="What world to make, and how.")] = DEMO_RECIPE,
    shards: Annotated[Path, typer.Option(help="Folder to write the shards into.")] = Path("shards"),
    debug: Debug = False,
) -> None:
    """Watch the whole method work: make a world, write its shards, train t, p and s, retrieve zero-shot."""
    from msp_ds.report.demo import run_demo
    from msp_ds.training.distributed.local_ranks import default_num_ranks, on_ranks

    def on_all_cores(given: dict[str, Any]) -> Path:
        folder = fresh_folder(RUNS / given["curriculum"])
        on_ranks(partial(train, **given, run_dir=folder, debug=debug), default_num_ranks())
        return folder

    with one_line_errors(debug=debug):
        speak()
        run_demo(find_shipped(recipe), shards=shards, train=on_all_cores, show=Terminal())


def stages(
    curriculum: Curriculum = None,
    shards: Shards = None,
    preset: PresetName = None,
    epochs: Epochs = None,
    batch_size: BatchSize = None,
    drop: Drop = None,
    setting: Setting = None,
    debug: Debug = False,
) -> None:
    """Show what a command line would train, without training."""
    from msp_ds.report.curriculum import stage_table
    from msp_ds.training.planning import planned_schedule

    flags = {
        "curriculum": curriculum,
        "shards": None if shards is None else str(shards),
        "preset": preset,
        "epochs": epochs,
        "batch_size": batch_size,
        "drop": tuple(drop) if drop else None,
        "setting": tuple(setting) if setting else None,
    }
    with one_line_errors(debug=debug):
        planned = planned_schedule({name: value for name, value in flags.items() if value is not None})
        Terminal().print(stage_table(planned.stages, planned.rows, preset=planned.preset, settings=setting or ()))


def replay(
    batch: Annotated[Path, typer.Argument(help="A file in the folder STAGE/not-finite of a run.")],
    shards: Annotated[Path | None, typer.Option(help="Where the run's shards lie now, if not where it says.")] = None,
    init: Annotated[Path | None, typer.Option(help="The same of what the run was started from with --init.")] = None,
    debug: Debug = False,
) -> None:
    """Look again, in fp32 on the CPU, at a batch whose loss was not finite when a run trained on it."""
    os.environ.setdefault("DS_ACCELERATOR", "cpu")  # DeepSpeed reads it when imported
    from msp_ds.training.replay import replay as look_again

    with one_line_errors(debug=debug):
        speak(quiet=True)
        with bars(f"replaying {batch}", is_drawn=False):
            seen = look_again(batch, shards=shards, init=init)
        Terminal(soft_wrap=True).print(seen.describe())


def finetune(
    task: Annotated[BenchmarkName, typer.Option(help="The benchmark, whose shards lie in --shards.")],
    init: Annotated[Path | None, typer.Option(help="Run or checkpoint whose backbone it starts from.")] = None,
    from_scratch: Annotated[bool, typer.Option("--from-scratch", help="Start from chance instead.")] = False,
    shards: Shards = None,
    run_dir: RunDir = None,
    preset: PresetName = None,
    ds_config: DsConfig = None,
    micro_batch: MicroBatch = None,
    compiles: Compile = False,
    resume: Resume = False,
    seed: Seed = None,
    setting: Setting = None,
    epochs: Epochs = None,
    batch_size: BatchSize = None,
    lr: Rate = None,
    few_shot: Annotated[int | None, typer.Option(help="Train on so many questions only.")] = None,
    subset: Annotated[float | None, typer.Option(help="Train on this share of the questions.")] = None,
    save_every: SaveEvery = 500,
    keep: Keep = 2,
    stop_after_nan: StopAfterNan = 3,
    watchdog: Patience = 30.0,
    max_steps: MaxSteps = None,
    debug: Debug = False,
) -> None:
    """Fine-tune a pre-trained model on a benchmark, by the same loop as pre-training."""
    from msp_ds.train import start
    from msp_ds.training.planning import fine_tuning_flags

    flags = {
        "preset": preset,
        "shards": shards,
        "seed": seed,
        "setting": tuple(setting) if setting else None,
        "epochs": epochs,
        "batch_size": batch_size,
        "lr": lr,
        "max_steps": max_steps,
    }
    given = {name: value for name, value in flags.items() if value is not None}
    with one_line_errors(debug=debug):
        if resume:
            given |= {"curriculum": task} if init is None else {"curriculum": task, "init": str(init)}
        else:
            given |= fine_tuning_flags(
                task, init=init, from_scratch=from_scratch, few_shot=few_shot, subset=subset, shards=shards or "shards"
            )
        start(
            given,
            run_dir=run_dir,
            ds_config=ds_config,
            micro_batch=micro_batch,
            compiles=compiles,
            resume=resume,
            save_every=save_every,
            keep=keep,
            limits=Limits(stop_after_nan=stop_after_nan, watchdog=watchdog),
        )


def info(
    preset: Annotated[str, typer.Option(help=f"{', '.join(PRESETS)}.")] = "paper",
    fit: Annotated[bool, typer.Option("--fit", help="Predict memory and time on a card instead.")] = False,
    card: Annotated[str, typer.Option(help=f"For --fit: {', '.join(CARDS)}, or 12gb.")] = "titanx",
    batch_size: Annotated[
        int | None, typer.Option(min=1, max=1 << 30, help="For --fit: pairs in a batch. [the preset's]")
    ] = None,
    memory_gb: Annotated[float | None, typer.Option(help="For --fit: memory of the card, in GiB. [the card's]")] = None,
    tflops: Annotated[float | None, typer.Option(help="For --fit: the card's peak. [its maker's]")] = None,
    ds_config: Annotated[Path | None, typer.Option(help="For --fit: how to execute. [by the card]")] = None,
    debug: Debug = False,
) -> None:
    """Print a preset's parameters by part, and counted the paper's way; or whether it fits a card."""
    from msp_ds.report.fit import fit_table
    from msp_ds.report.model import parameter_table

    with one_line_errors(debug=debug):
        if not fit:
            Terminal().print(parameter_table(preset, get_preset(preset).model))
            return
        chosen = changed_card(find_card(card), memory_gib=memory_gb, tflops=tflops)
        execution = Execution(precision=chosen.precision) if ds_config is None else read_execution(ds_config)
        Terminal().print(fit_table(preset, chosen, execution, batch_size=batch_size))


def runs(
    folder: Annotated[Path, typer.Argument(help="Where runs lie.")] = RUNS,
    debug: Debug = False,
) -> None:
    """List the runs in a folder: how far each is, whether it still trains, and its best validation."""
    from msp_ds.report.runs import runs_table

    with one_line_errors(debug=debug):
        speak()
        with bars(f"reading {folder}", is_drawn=False):
            table = runs_table(folder)
        Terminal().print(table)
