"""The command line: `msp-ds COMMAND --help` explains each command. Flags in, one library call, the result shown."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer

import msp_ds
from msp_ds.cli.ablation_commands import ablate
from msp_ds.cli.data_commands import audit, inspect, negatives, shard, verify, world
from msp_ds.cli.grading_commands import evaluate, grade, predict
from msp_ds.cli.looking_commands import explain, search
from msp_ds.cli.training_commands import demo, finetune, info, replay, runs, stages
from msp_ds.cli.weights_commands import export, import_weights
from msp_ds.terminal import run_command
from msp_ds.train import train

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Multi-stage pre-training of small vision-language models. Start with: msp-ds demo",
)
COMMANDS: tuple[Callable[..., None], ...] = (
    *(demo, world, shard, inspect, verify, audit, negatives),
    *(stages, train, replay, finetune, evaluate, predict, grade, ablate, search, explain, runs, info),
)
for command in COMMANDS:
    app.command()(command)
app.command("import")(import_weights)
app.command()(export)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"msp-ds {msp_ds.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """Hold the options that stand before a command; the help of `app` speaks for it."""


def main() -> None:
    """The entry point of `msp-ds`."""
    run_command(app)
