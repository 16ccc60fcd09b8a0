"""Commands about data: make a world, write shards, look at them, verify and compare them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from msp_ds.curriculum import BenchmarkName
from msp_ds.preparation.recipe import DEMO_RECIPE
from msp_ds.presets import PRESETS
from msp_ds.progress import bars
from msp_ds.terminal import Terminal, one_line_errors, resumable, speak
from msp_ds.train import Cache, CacheLimit, Debug
from msp_ds.training.engine.execution import find_shipped
from msp_ds.training.planning import cache_of

StageName = Literal["token", "phrase", "sentence"]
Questions = Annotated[
    list[str] | None, typer.Option(help="Questions of VQA, GQA or NLVR2, official or LXMERT's; may be repeated.")
]
Out = Annotated[Path, typer.Option(help="Folder to write into.")]
Captions = Annotated[
    list[str] | None,
    typer.Option(help="Captions of COCO, Karpathy[#split], ViLBERT or LXMERT; may be repeated, or a {a,b} pattern."),
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
SetFolder = Annotated[str, typer.Argument(help="A shard set, as shards/sentence/val, or its https://, s3:// address.")]

ASKED = ("questions", "annotations", "val_questions", "val_annotations", "test_questions", "answers")
"""Flags of `shard` that change a benchmark of the recipe."""
RECIPE_FLAGS = (
    *("regions", "on_error", "captions", "phrases", "exclude", "splits", "image_data", "objects_vocab"),
    *("attributes_vocab", "vocab", "hard_negatives", "holdout", "allow_missing", "extractor", "preset"),
)
"""Flags of `shard` that change the recipe itself."""


def world(
    out: Out = Path("world"),
    images: Annotated[int, typer.Option(help="How many scenes.")] = 2100,
    seed: Annotated[int, typer.Option(help="Same seed, same bytes.")] = 0,
    feature_width: Annotated[int, typer.Option(help="Width of the region features.")] = 2048,
    debug: Debug = False,
) -> None:
    """Write the raw files of a demo world: regions, captions, phrases, label lists and hard negatives."""
    from msp_ds.demo_world import make_world

    with one_line_errors(debug=debug), bars() as progress:
        progress.start("world", images)
        report = make_world(out, images=images, seed=seed, feature_width=feature_width, advance=progress.advance)
    Terminal().print(f"{report.images} images, {report.captions} captions, {report.phrases} phrases in {report.folder}")


def shard(
    context: typer.Context,
    stage: Annotated[StageName | None, typer.Option(help="Which granularity of text.")] = None,
    task: Annotated[BenchmarkName | None, typer.Option(help="Or for which benchmark.")] = None,
    recipe: Annotated[Path | None, typer.Option(help="A TOML file as in shards/. [shards/demo.toml]")] = None,
    out: Out = Path("shards"),
    regions: Annotated[
        list[str] | None,
        typer.Option(help="Region features: .tsv or .npz, a folder of .npz, or a {000..099}.tsv pattern; repeatable."),
    ] = None,
    on_error: Annotated[
        Literal["fail", "skip"] | None, typer.Option(help="A damaged row of them: stop, or leave it out and list it.")
    ] = None,
    captions: Captions = None,
    phrases: Phrases = None,
    questions: Questions = None,
    annotations: Annotated[list[str] | None, typer.Option(help="VQA's official answers, a file for each.")] = None,
    val_questions: Annotated[list[str] | None, typer.Option(help="Questions to validate on. [holdout]")] = None,
    val_annotations: Annotated[list[str] | None, typer.Option(help="VQA's answers to these.")] = None,
    test_questions: Annotated[list[str] | None, typer.Option(help="Questions to predict.")] = None,
    answers: Annotated[str | None, typer.Option(help="Answers to choose from, as label2ans. [built]")] = None,
    exclude: Exclude = None,
    splits: Splits = None,
    image_data: Annotated[str | None, typer.Option(help="Visual Genome image_data.json.")] = None,
    objects_vocab: Annotated[str | None, typer.Option(help="Object labels, one a line.")] = None,
    attributes_vocab: Annotated[str | None, typer.Option(help="Attribute labels, one a line.")] = None,
    vocab: Annotated[str | None, typer.Option(help="vocab.txt, bert-base-uncased or trained.")] = None,
    hard_negatives: Annotated[str | None, typer.Option(help="hard negatives, .npz.")] = None,
    holdout: Annotated[int | None, typer.Option(help="Images set apart for validation.")] = None,
    allow_missing: Annotated[
        bool | None, typer.Option("--allow-missing", help="Leave out texts whose image has no regions.")
    ] = None,
    extractor: Annotated[str | None, typer.Option(help="What computed the features, in your words.")] = None,
    preset: Annotated[str | None, typer.Option(help=f"What to suggest to train: {', '.join(PRESETS)}.")] = None,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Shards written at a time; any number gives the same bytes. [cores, to 4]")
    ] = None,
    debug: Debug = False,
) -> None:
    """Write a stage's or a benchmark's shards from raw files: of the demo's recipe, another's, or the flags'."""
    # What may be repeated and was not given is empty here, everything else None.
    flags = {name: value for name, value in context.params.items() if value not in (None, (), [])}
    asked = {name: tuple(value) if isinstance(value, list) else value for name, value in flags.items() if name in ASKED}
    given = {name: value for name, value in flags.items() if name in RECIPE_FLAGS}
    with one_line_errors(debug=debug), resumable():
        _write_shards(_one_of(stage, task, asked), recipe, given, asked, out=out, jobs=jobs)


def _one_of(stage: str | None, task: str | None, questions: dict[str, Any]) -> Any:
    """The set to write. Raises InputError unless exactly one is named, and questions are those of a benchmark."""
    from msp_ds.errors import InputError

    if (stage is None) == (task is None):
        raise InputError("say what the shards are for, a stage or a benchmark: --stage token or --task vqa")
    if questions and task in (None, "retrieval"):
        raise InputError(f"{stage or task} asks no questions; name its texts with --captions or --phrases FILE")
    return stage or task


def _write_shards(
    stage: Any, path: Path | None, given: dict[str, Any], questions: dict[str, Any], *, out: Path, jobs: int | None
) -> None:
    from msp_ds.preparation.recipe import load_recipe, recipe_with, with_benchmark
    from msp_ds.preparation.writing.overwrite_guard import require_own_sets
    from msp_ds.preparation.writing.shard_building import build_shards
    from msp_ds.preparation.writing.shard_pool import default_jobs
    from msp_ds.report.shard_notes import shard_notes

    speak()
    flags = given or questions
    base = None if flags and path is None else load_recipe(find_shipped(path or DEMO_RECIPE))
    recipe = recipe_with(base, given)
    if questions:
        recipe = with_benchmark(recipe, stage, questions)
    if path is None and not flags:
        fix = f"name its --recipe FILE or flags; the demo's over it: --recipe {DEMO_RECIPE}, or elsewhere: --out DIR"
        require_own_sets(out / stage, recipe, fix=fix)
    with bars() as progress:
        reports = build_shards(recipe, stage=stage, out=out, progress=progress, num_threads=jobs or default_jobs())
    for line in (*(report.describe() for report in reports.values()), *shard_notes(stage, tuple(reports.values()))):
        Terminal(soft_wrap=True).print(line)


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
    count: Annotated[int, typer.Option(help="Hard negatives of an image, where they are computed.")] = 100,
    out: Annotated[Path | None, typer.Option(help="The list as .npz, for shard --hard-negatives.")] = None,
    attach: Annotated[bool, typer.Option("--attach", help="Put the list into the finished set --shards.")] = False,
    debug: Debug = False,
) -> None:
    """List for each image those that look like it, which task ITM_HS swaps in; goes on where it was interrupted."""
    from msp_ds.data.format.path_patterns import expand_braces
    from msp_ds.preparation.hard_negatives.make_hard_negatives import HardNegativesPlan, make_hard_negatives

    with one_line_errors(debug=debug), bars() as progress:
        plan = HardNegativesPlan(
            shards=shards,
            regions=expand_braces(regions or ()),
            imported=imported,
            corpus=corpus,
            count=count,
            out=out,
            attach=attach,
        )
        told = make_hard_negatives(plan, progress=progress)
    Terminal(soft_wrap=True).print(told)


def inspect(
    path: SetFolder,
    html: Annotated[Path | None, typer.Option(help="Write one page of pictures instead, to open in a browser.")] = None,
    cache: Cache = None,
    cache_limit: CacheLimit = None,
    debug: Debug = False,
) -> None:
    """Describe a shard set: counts, lengths, labels, features and three samples."""
    from msp_ds.data.format.shards import open_set
    from msp_ds.preparation.verifying.copies import local_copies
    from msp_ds.preparation.verifying.inspection import SAMPLES_SHOWN, inspect_set
    from msp_ds.report.pages.page import write_html
    from msp_ds.report.pages.shard_page import SAMPLES, set_page
    from msp_ds.report.shard_set import set_tables
    from msp_ds.storage.atomic_files import require_plain_file

    with one_line_errors(debug=debug), bars() as progress:
        require_plain_file(html)
        kept = cache_of(cache, cache_limit)
        with local_copies(
            [path], cache=Path(kept.folder), limit_gb=kept.limit_gb, progress=progress, one_set=True
        ) as folders:
            facts = inspect_set(open_set(folders[0]), samples=SAMPLES if html else SAMPLES_SHOWN)
        if html:
            write_html(html, set_page(facts))
    Terminal().print(*([f"{html}: open it in a browser"] if html else set_tables(facts)), sep="\n")


def verify(
    paths: Annotated[
        list[str], typer.Argument(help="Shard sets, or folders of them, as shards; https://, s3:// and gs:// too.")
    ],
    quick: Annotated[
        bool, typer.Option("--quick", help="Only sizes, index and tables; leave the tars unread.")
    ] = False,
    jobs: Annotated[int | None, typer.Option(min=1, help="Tars read at once. [one a core]")] = None,
    cache: Cache = None,
    cache_limit: CacheLimit = None,
    debug: Debug = False,
) -> None:
    """Read every byte of shard sets, compare it with what was written and name every fault; exit code 1 if any."""
    from msp_ds.data.format.path_patterns import expand_braces
    from msp_ds.preparation.verifying.copies import local_copies
    from msp_ds.preparation.verifying.verification import verify_sets
    from msp_ds.report.verdict import verify_text

    with one_line_errors(debug=debug), bars() as progress:
        show = Terminal(soft_wrap=True)
        kept = cache_of(cache, cache_limit)
        sets = expand_braces(paths)
        with local_copies(sets, cache=Path(kept.folder), limit_gb=kept.limit_gb, progress=progress) as folders:
            in_order = verify_sets(
                folders, quick=quick, jobs=jobs, progress=progress, tell=lambda found: show.print(verify_text(found))
            )
    raise typer.Exit(0 if in_order else 1)


def audit(
    trained_on: Annotated[
        list[str], typer.Option("--train", help="A shard set or a file that names images; may be repeated.")
    ],
    graded_on: Annotated[
        list[str], typer.Option("--eval", help="Likewise; dataset_coco.json#test is Karpathy's test; may be repeated.")
    ],
    image_data: Annotated[
        str | None, typer.Option(help="Visual Genome image_data.json, for its COCO duplicates.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="File for all shared ids, fit for shard --exclude.")] = None,
    debug: Debug = False,
) -> None:
    """Look for images in both training and evaluation data: exit code 1 when there are any, 0 when there are none."""
    from msp_ds.data.format.path_patterns import expand_braces
    from msp_ds.preparation.overlap import audit as compare
    from msp_ds.report.overlap import overlap_report
    from msp_ds.storage.atomic_files import require_plain_file

    with one_line_errors(debug=debug):
        require_plain_file(out)
        with bars("comparing images", is_drawn=False):
            found = compare(expand_braces(trained_on), expand_braces(graded_on), image_data=image_data)
        if out is not None:
            found.write(out)
        Terminal(soft_wrap=True).print(*overlap_report(found), sep="\n")
        found.require_certainty()
    raise typer.Exit(1 if found.overlap else 0)
