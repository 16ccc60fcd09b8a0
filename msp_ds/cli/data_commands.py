"""Commands about data: make demo data, write shards, inspect, verify and compare them, list hard negatives."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from msp_ds.curriculum import BenchmarkName
from msp_ds.preparation.recipe import DEMO_RECIPE
from msp_ds.presets import PRESETS
from msp_ds.progress import bars
from msp_ds.terminal import Terminal, resumable, speak
from msp_ds.training.engine.execution import find_shipped
from msp_ds.training.options import help_of
from msp_ds.training.planning import cache_of

StageName = Literal["token", "phrase", "sentence"]
Cache = Annotated[Path | None, typer.Option(help=help_of("cache"))]
CacheLimit = Annotated[float | None, typer.Option(help=help_of("cache_limit"))]
Questions = Annotated[
    list[str] | None, typer.Option(help="Questions of VQA, GQA or NLVR2, official or LXMERT's; may be repeated.")
]
Out = Annotated[Path, typer.Option(help="Folder to write into.")]
Captions = Annotated[
    list[str] | None,
    typer.Option(
        help="Captions: COCO, Karpathy[#split], ViLBERT, LXMERT, CSV of file,caption; may be repeated, or {a,b}."
    ),
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

BENCHMARK_FLAGS = ("questions", "annotations", "val_questions", "val_annotations", "test_questions", "answers")
"""Flags of `shard` that change a benchmark of the recipe."""
RECIPE_FLAGS = (
    *("regions", "on_error", "captions", "phrases", "exclude", "splits", "image_data", "objects_vocab"),
    *("attributes_vocab", "vocab", "hard_negatives", "holdout", "allow_missing", "extractor", "preset"),
)
"""Flags of `shard` that change the recipe itself."""


def make_demo_data(
    out: Out = Path("world"),
    images: Annotated[int, typer.Option(help="Number of scenes.")] = 2100,
    seed: Annotated[int, typer.Option(help="The same seed writes the same bytes.")] = 0,
    feature_width: Annotated[int, typer.Option(help="Width of the region features.")] = 2048,
) -> None:
    """Write the raw files of the demo world. They are regions, captions, phrases, label lists, hard negatives."""
    from msp_ds.demo_world import make_world

    with bars() as progress:
        progress.start("world", images)
        report = make_world(out, images=images, seed=seed, feature_width=feature_width, advance=progress.advance)
    Terminal().print(f"{report.images} images, {report.captions} captions, {report.phrases} phrases in {report.folder}")


def shard(
    context: typer.Context,
    stage: Annotated[StageName | None, typer.Option(help="Granularity of the text.")] = None,
    task: Annotated[BenchmarkName | None, typer.Option(help="Or the benchmark.")] = None,
    recipe: Annotated[Path | None, typer.Option(help="A TOML file as in shards/. [shards/demo.toml]")] = None,
    out: Out = Path("shards"),
    regions: Annotated[
        list[str] | None,
        typer.Option(
            help="Region features: .tsv or .npz, a folder of .npz, or a {000..099}.tsv pattern; own:FILE for pictures "
            "of your own names; may be repeated."
        ),
    ] = None,
    on_error: Annotated[
        Literal["fail", "skip"] | None,
        typer.Option(help="On a damaged row of them: stop, or leave it out and list it."),
    ] = None,
    captions: Captions = None,
    phrases: Phrases = None,
    questions: Questions = None,
    annotations: Annotated[list[str] | None, typer.Option(help="VQA: the official answers, a file for each.")] = None,
    val_questions: Annotated[list[str] | None, typer.Option(help="Questions to validate on. [holdout]")] = None,
    val_annotations: Annotated[list[str] | None, typer.Option(help="VQA: the answers to these.")] = None,
    test_questions: Annotated[list[str] | None, typer.Option(help="Questions of the test split.")] = None,
    answers: Annotated[
        str | None, typer.Option(help="Answers to choose from, as label2ans. [the frequent ones]")
    ] = None,
    exclude: Exclude = None,
    splits: Splits = None,
    image_data: Annotated[str | None, typer.Option(help="Visual Genome image_data.json.")] = None,
    objects_vocab: Annotated[str | None, typer.Option(help="Object labels, one per line.")] = None,
    attributes_vocab: Annotated[
        str | None, typer.Option(help="Attribute labels, one per line, where there are any.")
    ] = None,
    vocab: Annotated[str | None, typer.Option(help="vocab.txt, bert-base-uncased or trained.")] = None,
    hard_negatives: Annotated[str | None, typer.Option(help="Hard negatives, .npz.")] = None,
    holdout: Annotated[int | None, typer.Option(help="Number of images to hold out for validation.")] = None,
    allow_missing: Annotated[
        bool | None, typer.Option("--allow-missing", help="Leave out texts whose image has no regions.")
    ] = None,
    extractor: Annotated[str | None, typer.Option(help="Name of what computed the features.")] = None,
    preset: Annotated[str | None, typer.Option(help=f"Preset to suggest for training: {', '.join(PRESETS)}.")] = None,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Shards written at a time; any number gives the same bytes. [cores, to 4]")
    ] = None,
) -> None:
    """Write the shards of a stage or a benchmark. A recipe, by default the demo's, or the flags name the raw files."""
    # A repeatable flag that is not on the command line is empty here, any other is None.
    flags = {name: value for name, value in context.params.items() if value not in (None, (), [])}
    recipe_flags = {name: value for name, value in flags.items() if name in RECIPE_FLAGS}
    benchmark_flags = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in flags.items()
        if name in BENCHMARK_FLAGS
    }
    with resumable():
        _write_shards(_one_of(stage, task, benchmark_flags), recipe, recipe_flags, benchmark_flags, out=out, jobs=jobs)


def _one_of(stage: str | None, task: str | None, questions: dict[str, Any]) -> Any:
    """Return the set to write. Raises InputError unless exactly one is named, and questions belong to a benchmark."""
    from msp_ds.errors import InputError

    if (stage is None) == (task is None):
        raise InputError("name the stage or the benchmark that the shards are for: --stage token or --task vqa")
    if questions and task in (None, "retrieval"):
        raise InputError(f"{stage or task} has no questions; name its texts with --captions or --phrases FILE")
    return stage or task


def _write_shards(
    stage: Any,
    path: Path | None,
    recipe_flags: dict[str, Any],
    benchmark_flags: dict[str, Any],
    *,
    out: Path,
    jobs: int | None,
) -> None:
    from msp_ds.preparation.recipe import load_recipe, recipe_with, with_benchmark
    from msp_ds.preparation.writing.overwrite_guard import require_own_sets
    from msp_ds.preparation.writing.shard_building import build_shards
    from msp_ds.preparation.writing.shard_pool import default_jobs
    from msp_ds.report.shard_notes import shard_notes

    speak()
    flags = recipe_flags or benchmark_flags
    base = None if flags and path is None else load_recipe(find_shipped(path or DEMO_RECIPE))
    recipe = recipe_with(base, recipe_flags)
    if benchmark_flags:
        recipe = with_benchmark(recipe, stage, benchmark_flags)
    if path is None and not flags:
        fix = f"name its --recipe FILE or flags; the demo's over it: --recipe {DEMO_RECIPE}, or elsewhere: --out DIR"
        require_own_sets(out / stage, recipe, fix=fix)
    with bars() as progress:
        reports = build_shards(recipe, stage=stage, out=out, progress=progress, num_threads=jobs or default_jobs())
    for line in (*(report.describe() for report in reports.values()), *shard_notes(stage, tuple(reports.values()))):
        Terminal(soft_wrap=True).print(line)


def hard_negatives(
    shards: Annotated[
        Path | None, typer.Option(help="A shard set to compute from; with --attach to write into.")
    ] = None,
    regions: Annotated[
        list[str] | None, typer.Option(help="Region features to compute from, as for shard; may be repeated.")
    ] = None,
    imported: Annotated[
        Path | None, typer.Option("--import", help="A finished list: ViLBERT's hard_negative.pkl, or .npz.")
    ] = None,
    corpus: Annotated[
        Literal["coco", "vg", "f30k"], typer.Option(help="Data set whose images the numbers in the pickle mean.")
    ] = "coco",
    count: Annotated[int, typer.Option(help="Hard negatives to compute for each image.")] = 100,
    out: Annotated[Path | None, typer.Option(help="The list as .npz, for shard --hard-negatives.")] = None,
    attach: Annotated[bool, typer.Option("--attach", help="Put the list into the finished set --shards.")] = False,
) -> None:
    """List the hard negatives of each image, for ITM_HS. The same command continues an interrupted list."""
    from msp_ds.data.format.path_patterns import expand_braces
    from msp_ds.preparation.hard_negatives.make_hard_negatives import HardNegativesPlan, make_hard_negatives

    with bars() as progress:
        plan = HardNegativesPlan(
            shards=shards,
            regions=expand_braces(regions or ()),
            imported=imported,
            corpus=corpus,
            count=count,
            out=out,
            attach=attach,
        )
        report = make_hard_negatives(plan, progress=progress)
    Terminal(soft_wrap=True).print(report)


def inspect(
    path: SetFolder,
    html: Annotated[Path | None, typer.Option(help="Write one page of pictures instead, to open in a browser.")] = None,
    cache: Cache = None,
    cache_limit: CacheLimit = None,
) -> None:
    """Describe a shard set: counts, lengths, three samples."""
    from msp_ds.data.format.shards import open_set
    from msp_ds.preparation.verifying.copies import local_copies
    from msp_ds.preparation.verifying.inspection import SAMPLES_SHOWN, inspect_set
    from msp_ds.report.pages.page import write_html
    from msp_ds.report.pages.shard_page import SAMPLES, set_page
    from msp_ds.report.shard_set import set_tables
    from msp_ds.storage.atomic_files import require_plain_file

    with bars() as progress:
        require_plain_file(html)
        copies = cache_of(cache, cache_limit)
        with local_copies(
            [path], cache=Path(copies.folder), limit_gb=copies.limit_gb, progress=progress, one_set=True
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
        bool, typer.Option("--quick", help="Check sizes, index and tables, and leave the tars unread.")
    ] = False,
    jobs: Annotated[int | None, typer.Option(min=1, help="Tars read at once. [one a core]")] = None,
    cache: Cache = None,
    cache_limit: CacheLimit = None,
) -> None:
    """Check every byte of shard sets and name every fault. The exit code is 1 if there is a fault."""
    from msp_ds.data.format.path_patterns import expand_braces
    from msp_ds.preparation.verifying.copies import local_copies
    from msp_ds.preparation.verifying.verification import verify_sets
    from msp_ds.report.verdict import verify_text

    with bars() as progress:
        show = Terminal(soft_wrap=True)
        copies = cache_of(cache, cache_limit)
        sets = expand_braces(paths)
        with local_copies(sets, cache=Path(copies.folder), limit_gb=copies.limit_gb, progress=progress) as folders:
            in_order = verify_sets(
                folders, quick=quick, jobs=jobs, progress=progress, tell=lambda found: show.print(verify_text(found))
            )
    raise typer.Exit(0 if in_order else 1)


def audit(
    trained_on: Annotated[
        list[str], typer.Option("--train", help="A shard set or a file that names images; may be repeated.")
    ],
    graded_on: Annotated[
        list[str], typer.Option("--eval", help="The same; dataset_coco.json#test is Karpathy's test; may be repeated.")
    ],
    image_data: Annotated[
        str | None, typer.Option(help="Visual Genome image_data.json, for its COCO duplicates.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="File for all shared ids, as shard --exclude reads it.")] = None,
) -> None:
    """Find images in both training and evaluation data. The exit code is 1 if there are any."""
    from msp_ds.data.format.path_patterns import expand_braces
    from msp_ds.preparation.overlap import audit as compare
    from msp_ds.report.overlap import overlap_report
    from msp_ds.storage.atomic_files import require_plain_file

    require_plain_file(out)
    with bars("comparing images", is_drawn=False):
        found = compare(expand_braces(trained_on), expand_braces(graded_on), image_data=image_data)
    if out is not None:
        found.write(out)
    Terminal(soft_wrap=True).print(*overlap_report(found), sep="\n")
    found.require_certainty()
    raise typer.Exit(1 if found.overlap else 0)
