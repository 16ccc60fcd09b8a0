"""The command line: `msp-ds COMMAND --help` explains each command. Flags in, one library call, the result shown."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console

from msp_ds.cli_weights import export, import_weights
from msp_ds.terminal import bars, one_line_errors, resumable, speak
from msp_ds.train import BatchSize, Curriculum, Debug, Drop, Epochs, PresetName, Shards, train
from msp_ds.training.execution import find_shipped

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Multi-stage pre-training of small vision-language models. Start with: msp-ds demo",
)
app.command()(train)
app.command("import")(import_weights)
app.command()(export)

StageName = Literal["token", "phrase", "sentence"]
Out = Annotated[Path, typer.Option(help="Folder to write into.")]
Captions = Annotated[
    list[str] | None, typer.Option(help="Captions of COCO, Karpathy[#split], ViLBERT or LXMERT; may be repeated.")
]
Phrases = Annotated[
    list[str] | None,
    typer.Option(help="Visual Genome region descriptions, LXMERT JSON, or from-captions; may be repeated."),
]
Exclude = Annotated[
    list[str] | None,
    typer.Option(help="Leave out these images: a FILE, minival, karpathy-val or karpathy-test; may be repeated."),
]
Splits = Annotated[
    list[str] | None,
    typer.Option(help="A FILE that defines a split named in --exclude: dataset_coco.json, mscoco_minival.json."),
]
SetFolder = Annotated[Path, typer.Argument(help="A shard set, as shards/sentence/val.")]

DEMO_RECIPE = Path("shards/demo.toml")


@app.command()
def demo(
    recipe: Annotated[Path, typer.Option(help="What world to make, and how.")] = DEMO_RECIPE,
    shards: Annotated[Path, typer.Option(help="Folder to write the shards into.")] = Path("shards"),
    debug: Debug = False,
) -> None:
    """Watch the whole method work: make a world, write its shards, train t, p and s, retrieve zero-shot."""
    from msp_ds.report.demo import run_demo
    from msp_ds.train import start

    with one_line_errors(debug=debug):
        speak()
        run_demo(find_shipped(recipe), shards=shards, train=start, show=Console())


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
def shard(
    stage: Annotated[StageName, typer.Option(help="Which granularity of text.")],
    recipe: Annotated[Path | None, typer.Option(help="A TOML file as in shards/. [shards/demo.toml]")] = None,
    out: Out = Path("shards"),
    regions: Annotated[
        list[str] | None, typer.Option(help="Region features: .tsv or .npz, or a folder of .npz; may be repeated.")
    ] = None,
    on_error: Annotated[
        Literal["fail", "skip"] | None, typer.Option(help="A damaged row of them: stop, or leave it out and list it.")
    ] = None,
    captions: Captions = None,
    phrases: Phrases = None,
    exclude: Exclude = None,
    splits: Splits = None,
    image_data: Annotated[str | None, typer.Option(help="Visual Genome image_data.json.")] = None,
    objects_vocab: Annotated[str | None, typer.Option(help="Object labels, one a line.")] = None,
    attributes_vocab: Annotated[str | None, typer.Option(help="Attribute labels, one a line.")] = None,
    vocab: Annotated[str | None, typer.Option(help="vocab.txt, bert-base-uncased or trained.")] = None,
    hard_negatives: Annotated[str | None, typer.Option(help="Look-alike images, .npz.")] = None,
    holdout: Annotated[int | None, typer.Option(help="Images set apart for validation.")] = None,
    allow_missing: Annotated[
        bool | None, typer.Option("--allow-missing", help="Leave out texts whose image has no regions.")
    ] = None,
    extractor: Annotated[str | None, typer.Option(help="What computed the features, in your words.")] = None,
    preset: Annotated[str | None, typer.Option(help="What to suggest to train: paper, small or tiny.")] = None,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Shards written at a time; any number gives the same bytes. [cores, to 4]")
    ] = None,
    debug: Debug = False,
) -> None:
    """Write a stage's shards from raw files: the demo recipe's, another recipe's, or those that the flags name."""
    flags = {
        "regions": regions,
        "on_error": on_error,
        "captions": captions,
        "phrases": phrases,
        "exclude": exclude,
        "splits": splits,
        "image_data": image_data,
        "objects_vocab": objects_vocab,
        "attributes_vocab": attributes_vocab,
        "vocab": vocab,
        "hard_negatives": hard_negatives,
        "holdout": holdout,
        "allow_missing": allow_missing,
        "extractor": extractor,
        "preset": preset,
    }
    given = {name: value for name, value in flags.items() if value is not None}
    with one_line_errors(debug=debug), resumable():
        _write_shards(stage, recipe, given, out=out, jobs=jobs)


def _write_shards(stage: StageName, path: Path | None, given: dict[str, Any], *, out: Path, jobs: int | None) -> None:
    from msp_ds.data.overwriting import require_own_sets
    from msp_ds.data.recipe import load_recipe, recipe_with
    from msp_ds.data.writing.shard_building import build_shards
    from msp_ds.data.writing.shard_pool import default_jobs
    from msp_ds.report.shard_notes import shard_notes

    speak()
    base = None if given and path is None else load_recipe(find_shipped(path or DEMO_RECIPE))
    recipe = recipe_with(base, given)
    if path is None and not given:
        mend = f"name its --recipe FILE or flags; the demo's over it: --recipe {DEMO_RECIPE}, or elsewhere: --out DIR"
        require_own_sets(out / stage, recipe, mend=mend)
    with bars() as progress:
        reports = build_shards(recipe, stage=stage, out=out, progress=progress, num_threads=jobs or default_jobs())
    for line in (*(report.describe() for report in reports.values()), *shard_notes(stage, tuple(reports.values()))):
        Console(soft_wrap=True).print(line, highlight=False)


@app.command()
def negatives(
    shards: Annotated[
        Path | None, typer.Option(help="A shard set to compute from; with --attach to write into.")
    ] = None,
    regions: Annotated[
        list[str] | None, typer.Option(help="Region features to compute from, as for shard; may be repeated.")
    ] = None,
    imported: Annotated[
        Path | None, typer.Option("--import", help="A list to take over: ViLBERT's hard_negative.pkl, or .npz.")
    ] = None,
    corpus: Annotated[
        Literal["coco", "vg", "f30k"], typer.Option(help="Whose images the numbers in the pickle are.")
    ] = "coco",
    count: Annotated[int, typer.Option(help="Look-alikes of an image, where they are computed.")] = 100,
    out: Annotated[Path | None, typer.Option(help="The list as .npz, for shard --hard-negatives.")] = None,
    attach: Annotated[bool, typer.Option("--attach", help="Put the list into the finished set --shards.")] = False,
    debug: Debug = False,
) -> None:
    """List for each image those that look like it, which task ITM_HS swaps in; goes on where it was interrupted."""
    from msp_ds.data.look_alikes.negatives import NegativesPlan, make_negatives

    with one_line_errors(debug=debug), bars() as progress:
        plan = NegativesPlan(
            shards=shards,
            regions=tuple(regions or ()),
            imported=imported,
            corpus=corpus,
            count=count,
            out=out,
            attach=attach,
        )
        told = make_negatives(plan, progress=progress)
    Console(soft_wrap=True).print(told, highlight=False, markup=False)


@app.command()
def inspect(
    path: SetFolder,
    html: Annotated[Path | None, typer.Option(help="Write one page of pictures instead, to open in a browser.")] = None,
    debug: Debug = False,
) -> None:
    """Describe a shard set: counts, lengths, labels, features and three samples."""
    from msp_ds.data.checking.inspection import SAMPLES_SHOWN, inspect_set
    from msp_ds.data.shards import open_set
    from msp_ds.report.shard_page import SAMPLES, write_page
    from msp_ds.report.shard_set import set_tables

    with one_line_errors(debug=debug):
        facts = inspect_set(open_set(path), samples=SAMPLES if html else SAMPLES_SHOWN)
        if html:
            write_page(html, facts)
    Console().print(*([f"{html}: open it in a browser"] if html else set_tables(facts)), sep="\n")


@app.command()
def verify(
    paths: Annotated[list[Path], typer.Argument(help="Shard sets, or folders of them, as shards.")],
    quick: Annotated[
        bool, typer.Option("--quick", help="Only sizes, index and tables; leave the tars unread.")
    ] = False,
    jobs: Annotated[int | None, typer.Option(min=1, help="Tars read at once. [one a core]")] = None,
    debug: Debug = False,
) -> None:
    """Read every byte of shard sets, compare it with what was written and name every fault; exit code 1 if any."""
    from msp_ds.data.checking.verification import verify_sets
    from msp_ds.report.verdict import verdict_text

    with one_line_errors(debug=debug), bars() as progress:
        show = Console(soft_wrap=True)
        in_order = verify_sets(
            paths, quick=quick, jobs=jobs, progress=progress, tell=lambda verdict: show.print(verdict_text(verdict))
        )
    raise typer.Exit(0 if in_order else 1)


@app.command()
def audit(
    trained_on: Annotated[
        list[str], typer.Option("--train", help="A shard set or a file that names images; may be repeated.")
    ],
    graded_on: Annotated[
        list[str], typer.Option("--eval", help="Likewise; dataset_coco.json#test is Karpathy's test; may be repeated.")
    ],
    image_data: Annotated[str | None, typer.Option(help="Visual Genome image_data.json, for its COCO twins.")] = None,
    out: Annotated[Path | None, typer.Option(help="File for all shared ids, fit for shard --exclude.")] = None,
    debug: Debug = False,
) -> None:
    """Look for images in both training and evaluation data: exit code 1 when there are any, 0 when there are none."""
    from msp_ds.data.overlap import audit as compare
    from msp_ds.report.overlap import overlap_report

    with one_line_errors(debug=debug):
        found = compare(trained_on, graded_on, image_data=image_data)
        if out is not None:
            found.write(out)
        Console(soft_wrap=True).print(*overlap_report(found), highlight=False, sep="\n")
        found.require_certainty()
    raise typer.Exit(1 if found.overlap else 0)


@app.command()
def stages(
    curriculum: Curriculum = None,
    shards: Shards = None,
    preset: PresetName = None,
    epochs: Epochs = None,
    batch_size: BatchSize = None,
    drop: Drop = None,
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
    }
    with one_line_errors(debug=debug):
        planned = planned_schedule({name: value for name, value in flags.items() if value is not None})
        Console().print(stage_table(planned.stages, planned.rows, preset=planned.preset))


@app.command()
def info(preset: Annotated[str, typer.Option(help="paper, small or tiny.")] = "paper", debug: Debug = False) -> None:
    """Print a preset's parameters by part, and counted the paper's way."""
    from msp_ds.config import get_preset
    from msp_ds.report.model import parameter_table

    with one_line_errors(debug=debug):
        Console().print(parameter_table(preset, get_preset(preset).model))


@app.command()
def evaluate(
    checkpoint: Annotated[Path, typer.Option(help="A run, one of its step-* folders, or a weights folder.")],
    task: Annotated[Literal["zero-shot-retrieval"], typer.Option(help="What to grade it on.")] = "zero-shot-retrieval",
    shards: Annotated[Path, typer.Option(help="A held-out set.")] = Path("shards/sentence/val"),
    images: Annotated[int | None, typer.Option(help="Only the first so many images.")] = None,
    captions_per_image: Annotated[int | None, typer.Option(help="Only so many of each image's captions.")] = None,
    preset: Annotated[str | None, typer.Option(help="Refuse a checkpoint of another preset than this.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for scores and grades. [the run's]")] = None,
    debug: Debug = False,
) -> None:
    """Grade a checkpoint: rank images for captions and captions for images, zero-shot."""
    from msp_ds.data.shards import open_set
    from msp_ds.report.retrieval import evaluate_retrieval, retrieval_table
    from msp_ds.training.inference import load_trained
    from msp_ds.training.run_folder import results_folder

    with one_line_errors(debug=debug):
        held_out = open_set(shards)
        model = load_trained(checkpoint, shards=held_out, needed_heads=("match",), preset=preset)
        folder = out or results_folder(model.checkpoint)
        report = evaluate_retrieval(
            model, held_out, num_images=images, captions_per_image=captions_per_image, out=folder
        )
    Console().print(retrieval_table(report))
    Console(soft_wrap=True).print(f"written to {report.path}, the scores beside it", highlight=False, markup=False)


def main() -> None:
    """The entry point of `msp-ds`."""
    app()
