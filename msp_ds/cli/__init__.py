"""The command line: `msp-ds COMMAND --help` explains each command. Flags in, one library call, the result shown."""

from collections.abc import Callable
from typing import Annotated

import typer

import msp_ds
from msp_ds.cli.ablation_commands import ablate
from msp_ds.cli.data_commands import audit, hard_negatives, inspect, make_demo_data, shard, verify
from msp_ds.cli.grading_commands import evaluate, predict
from msp_ds.cli.looking_commands import answer, explain, search
from msp_ds.cli.region_commands import regions
from msp_ds.cli.training_commands import demo, finetune, info, replay, runs, stages
from msp_ds.cli.weights_commands import export, import_weights
from msp_ds.terminal import run_command
from msp_ds.train import as_command, train

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Multi-stage pre-training of small vision-language models. Start with: msp-ds demo",
)
COMMANDS: tuple[Callable[..., None], ...] = (
    *(demo, make_demo_data, regions, shard, inspect, verify, audit, hard_negatives),
    *(stages, train, replay, finetune, evaluate, predict, ablate, answer, search, explain, export, runs, info),
)
for command in COMMANDS:
    app.command()(as_command(command))
app.command("import")(as_command(import_weights))


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
    """Accept the options before a command."""


def main() -> None:
    """Run `msp-ds`."""
    run_command(app)
