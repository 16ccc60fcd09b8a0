"""Commands that train, or show what would be trained."""

import dataclasses
import os
import sys
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from msp_ds.preparation.recipe import DEMO_RECIPE
from msp_ds.presets import PRESETS, get_preset
from msp_ds.progress import bars
from msp_ds.terminal import Terminal, one_line_errors, speak
from msp_ds.train import RUNS, start
from msp_ds.training.checkpointing.run_folder import fresh_folder
from msp_ds.training.engine.execution import Execution, find_shipped, read_execution
from msp_ds.training.memory.cards import CARDS, changed_card, find_card
from msp_ds.training.options import RunOptions
from msp_ds.training.planning import fine_tuning_options


def demo(
    recipe: Annotated[Path, typer.Option(help="Recipe of the demo data and their shards.")] = DEMO_RECIPE,
    shards: Annotated[Path, typer.Option(help="Folder to write the shards into.")] = Path("shards"),
) -> None:
    """Show the whole method on demo data, in minutes.

    Make the data, write shards, train t, p and s, grade zero-shot retrieval.
    """
    from msp_ds.report.demo import run_demo
    from msp_ds.training.distributed.local_ranks import default_num_ranks, on_ranks

    def on_all_cores(options: RunOptions) -> Path:
        folder = fresh_folder(RUNS / options.curriculum_name)
        on_ranks(partial(_start_rank, dataclasses.replace(options, run_dir=folder)), default_num_ranks())
        return folder

    speak()
    run_demo(find_shipped(recipe), shards=shards, train=on_all_cores, show=Terminal())


def _start_rank(options: RunOptions) -> None:
    with one_line_errors(debug="--debug" in sys.argv, quiet=os.environ.get("LOCAL_RANK", "0") != "0"):
        start(options)


def stages(options: RunOptions) -> None:
    """Show what a command line would train. Nothing is trained."""
    from msp_ds.report.curriculum import stage_table
    from msp_ds.training.planning import planned_schedule

    planned = planned_schedule(options)
    Terminal().print(stage_table(planned.stages, planned.rows, preset=planned.preset, settings=options.settings))


def replay(
    batch: Annotated[Path, typer.Argument(help="A file in the folder STAGE/not-finite of a run.")],
    shards: Annotated[Path | None, typer.Option(help="Folder of the run's shards, if they were moved.")] = None,
    init: Annotated[Path | None, typer.Option(help="Folder of the run's --init, if it was moved.")] = None,
) -> None:
    """Repeat a training step whose loss was not finite. It is computed in fp32 on the CPU, to show the cause."""
    os.environ.setdefault("DS_ACCELERATOR", "cpu")  # DeepSpeed reads it when imported
    from msp_ds.training.replay import replay as repeat

    speak(quiet=True)
    with bars(f"replaying {batch}", is_drawn=False):
        report = repeat(batch, shards=shards, init=init)
    Terminal(soft_wrap=True).print(report.describe())


def finetune(options: RunOptions) -> None:
    """Fine-tune a pre-trained model on a benchmark. The training loop is that of pre-training."""
    start(fine_tuning_options(options))


def info(
    preset: Annotated[str, typer.Option(help=f"{', '.join(PRESETS)}.")] = "paper",
    fit: Annotated[bool, typer.Option("--fit", help="Predict memory and time on a card instead.")] = False,
    card: Annotated[str, typer.Option(help=f"For --fit: {', '.join(CARDS)}, or 12gb.")] = "titanx",
    batch_size: Annotated[
        int | None, typer.Option(min=1, max=1 << 30, help="For --fit: pairs per batch. [the preset's]")
    ] = None,
    memory_gb: Annotated[float | None, typer.Option(help="For --fit: memory of the card, in GiB. [the card's]")] = None,
    tflops: Annotated[float | None, typer.Option(help="For --fit: the card's peak. [its maker's]")] = None,
    ds_config: Annotated[Path | None, typer.Option(help="For --fit: how to execute. [by the card]")] = None,
) -> None:
    """Print a preset's parameters, or its memory and time. --fit predicts whether it fits a card."""
    from msp_ds.report.fit import fit_table
    from msp_ds.report.model import parameter_table

    if not fit:
        Terminal().print(parameter_table(preset, get_preset(preset).model))
        return
    chosen = changed_card(find_card(card), memory_gib=memory_gb, tflops=tflops)
    execution = Execution(precision=chosen.precision) if ds_config is None else read_execution(ds_config)
    Terminal().print(fit_table(preset, chosen, execution, batch_size=batch_size))


def runs(
    folder: Annotated[Path, typer.Argument(help="Folder of the runs.")] = RUNS,
) -> None:
    """List the runs in a folder with their progress. The table has their state and best validation too."""
    from msp_ds.report.runs import runs_table

    speak()
    with bars(f"reading {folder}", is_drawn=False):
        table = runs_table(folder)
    Terminal().print(table)
