"""The command line: `msp-ds COMMAND --help` explains each command. Flags in, one library call, the result shown."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from msp_ds.terminal import bars, one_line_errors, speak
from msp_ds.train import Curriculum, Debug, Drop, PresetName, train

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Multi-stage pre-training of small vision-language models. Start with: msp-ds demo",
)
app.command()(train)

StageName = Literal["token", "phrase", "sentence"]
Out = Annotated[Path, typer.Option(help="Folder to write into.")]
Files = Annotated[list[str] | None, typer.Option(help="May be repeated.")]
File = Annotated[Path | None, typer.Option()]


@app.command()
def demo(
    out: Out = Path("."),
    images: Annotated[int, typer.Option(help="Images in the world, the held-out 300 included.")] = 2100,
    seed: Annotated[int, typer.Option(help="Seed of the world and the run.")] = 0,
    debug: Debug = False,
) -> None:
    """Watch the whole method work: make a world, write its shards, train t, p and s, retrieve zero-shot."""
    from msp_ds.report.demo import run_demo

    with one_line_errors(debug=debug):
        speak()
        run_demo(out, images=images, seed=seed, show=Console())


@app.command()
def world(
    out: Out = Path("world"),
    images: Annotated[int, typer.Option(help="How many scenes.")] = 2100,
    seed: Annotated[int, typer.Option(help="Same seed, same bytes.")] = 0,
    feature_width: Annotated[int, typer.Option(help="Width of the region features.")] = 2048,
    debug: Debug = False,
) -> None:
    """Write the raw files of a demo world: regions, captions, phrases, label lists and look-alikes."""
    from msp_ds.data.world import make_world

    with one_line_errors(debug=debug), bars() as progress:
        progress.start("world", images)
        report = make_world(out, images=images, seed=seed, feature_width=feature_width, advance=progress.advance)
    Console().print(f"{report.images} images, {report.captions} captions, {report.phrases} phrases in {report.folder}")


@app.command()
def stages(
    curriculum: Curriculum = None, preset: PresetName = None, drop: Drop = None, debug: Debug = False
) -> None:
    """Show what a command line would train, without training."""
    from msp_ds.config import get_preset
    from msp_ds.curriculum import curriculum as read_curriculum
    from msp_ds.report.curriculum import stage_table

    with one_line_errors(debug=debug):
        read = read_curriculum(curriculum or "tps", drop=drop or ())
        Console().print(stage_table(read, get_preset(preset or "paper").schedule))


@app.command()
def info(preset: Annotated[str, typer.Option(help="paper, small or tiny.")] = "paper", debug: Debug = False) -> None:
    """Print a preset's parameters by part, and counted the paper's way."""
    from msp_ds.config import get_preset
    from msp_ds.report.model import parameter_table

    with one_line_errors(debug=debug):
        Console().print(parameter_table(preset, get_preset(preset).model))


@app.command()
def evaluate(
    checkpoint: Annotated[Path, typer.Option(help="A run, or one of its step-* folders.")],
    task: Annotated[Literal["zero-shot-retrieval"], typer.Option()] = "zero-shot-retrieval",
    shards: Annotated[Path, typer.Option(help="A held-out set.")] = Path("shards/sentence/val"),
    images: Annotated[int | None, typer.Option(help="Only the first so many images.")] = None,
    captions_per_image: Annotated[int | None, typer.Option(help="Only so many of each image's captions.")] = None,
    preset: PresetName = None,
    out: Annotated[Path | None, typer.Option(help="Folder for scores and grades. [the run's]")] = None,
    debug: Debug = False,
) -> None:
    """Grade a checkpoint: rank images for captions and captions for images, zero-shot."""
    from msp_ds.data.shards import open_set
    from msp_ds.report.retrieval import evaluate_retrieval, retrieval_table
    from msp_ds.training.inference import load_trained

    with one_line_errors(debug=debug):
        held_out = open_set(shards)
        model = load_trained(checkpoint, shards=held_out, needed_heads=("match",), preset=preset)
        folder = out or model.checkpoint.parents[2]
        grades = evaluate_retrieval(
            model, held_out, num_images=images, captions_per_image=captions_per_image, out=folder
        )
    Console().print(retrieval_table(grades))


def main() -> None:
    """The entry point of `msp-ds`."""
    app()
