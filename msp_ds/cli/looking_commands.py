"""Commands that show what a model has learned: ask it, search images and texts, look at its answers."""

from pathlib import Path
from typing import Annotated

import typer

from msp_ds.progress import bars
from msp_ds.terminal import Terminal, speak
from msp_ds.training.options import CACHE

Images = Annotated[Path | None, typer.Option(help="Folder of the image files, to show them behind the regions.")]
Detector = Annotated[str | None, typer.Option(help="Name or folder of what finds a picture's regions. [the set's]")]
Device = Annotated[str | None, typer.Option(help="Device of torch: cpu, cuda, mps (untried). [a GPU if there is one]")]
Cache = Annotated[Path, typer.Option(help="Folder that keeps the regions of picture files.")]
SET = Path("shards/sentence/val")


def answer(
    checkpoint: Annotated[Path, typer.Option(help="A run, one of its step-* folders, or a weights folder.")],
    image: Annotated[list[str], typer.Option(help="A picture file, or an image of the set; may be repeated.")],
    question: Annotated[list[str], typer.Option(help="What to ask of it; one for all images, or one for each.")],
    shards: Annotated[Path | None, typer.Option(help="A set of the benchmark. [the run's]")] = None,
    detector: Detector = None,
    top: Annotated[int, typer.Option(min=1, help="How many answers to show.")] = 5,
    device: Device = None,
    cache: Cache = CACHE,
) -> None:
    """Answer questions about photographs. Images of the set can be named too."""
    from msp_ds.library import Model
    from msp_ds.report.pages.explain import answer_tables

    speak(quiet=True)
    with bars("asking the model", is_drawn=False):
        model = Model.load(checkpoint, shards=shards, detector=detector, device=device, cache=cache)
        tables = answer_tables(model, image, question, top=top)
    Terminal().print(*tables, sep="\n")


def search(
    checkpoint: Annotated[Path, typer.Option(help="A run, one of its step-* folders, or a weights folder.")],
    text: Annotated[str | None, typer.Argument(help='What to look for, as "a red bus near a tree".')] = None,
    shards: Annotated[Path, typer.Option(help="The set to search.")] = SET,
    image: Annotated[str | None, typer.Option(help="Or an image or picture file: texts and images like it.")] = None,
    detector: Detector = None,
    top: Annotated[int, typer.Option(min=1, help="How many to show.")] = 10,
    html: Annotated[Path | None, typer.Option(help="Write one page of pictures instead, to open in a browser.")] = None,
    images: Images = None,
    device: Device = None,
    cache: Cache = CACHE,
) -> None:
    """Search a shard set for a text or an image. A text finds images; an image finds its texts and similar images."""
    from msp_ds.errors import InputError
    from msp_ds.library import Model
    from msp_ds.report.pages.page import write_html
    from msp_ds.report.pages.pictures import as_data_address, open_pictures
    from msp_ds.report.pages.search import find_about, find_images, finding_page, finding_shown
    from msp_ds.storage.atomic_files import require_plain_file

    speak(quiet=True)
    if (text is None) == (image is None):
        raise InputError('name what to look for: a text, as msp-ds search "a red bus near a tree", or --image ID')
    if images and not html:
        raise InputError("--images shows the files on a page; name it with --html page.html")
    require_plain_file(html)
    with bars("loading the model", is_drawn=False):
        model = Model.load(checkpoint, shards=shards, detector=detector, device=device, cache=cache)
    finding = find_about(model, image, top=top) if image else find_images(model, str(text), top=top)
    if html:
        files = open_pictures(images, finding.samples)
        pictures = {image_id: as_data_address(one) for image_id, one in files.items()}
        write_html(html, finding_page(finding, pictures=pictures))
    Terminal().print(*([f"{html}: open it in a browser"] if html else finding_shown(finding)), sep="\n")


def explain(
    checkpoint: Annotated[
        list[str], typer.Option(help="A run, or NAME=RUN as t-s=runs/ts; repeat it to set models side by side.")
    ],
    image: Annotated[list[str], typer.Option(help="A picture file, or an image of the set; may be repeated.")],
    question: Annotated[
        list[str] | None, typer.Option(help="What to ask of it; one for all images, or one for each. [captions]")
    ] = None,
    shards: Annotated[
        Path | None, typer.Option(help="The set. [with a question shards/vqa/val or gqa's, else sentence's]")
    ] = None,
    pool: Annotated[Path | None, typer.Option(help="Captions to choose from, one a line. [all of the set]")] = None,
    top: Annotated[int, typer.Option(min=1, help="Answers or captions of each model.")] = 3,
    detector: Detector = None,
    images: Images = None,
    out: Annotated[Path, typer.Option(help="Folder for the page and the pictures.")] = Path("explain"),
    tensorboard: Annotated[Path | None, typer.Option(help="Show the pictures in this TensorBoard folder too.")] = None,
    cache: Cache = CACHE,
) -> None:
    """Compare models: their answers and attended regions. Without a question, they choose captions for the images."""
    from msp_ds.report.pages.explain import examples_of, explanation_lines, named_models, read_pool, set_to_explain
    from msp_ds.report.pages.explain_files import write_explanation

    with bars() as progress:
        speak(quiet=True)
        folder = shards or set_to_explain(checkpoint, image, has_question=bool(question))
        captions = read_pool(pool)
        models = named_models(checkpoint, shards=folder, detector=detector, cache=cache)
        examples = examples_of(
            models, image_ids=image, questions=question or (), pool=captions, top=top, progress=progress
        )
        named = ", ".join(f"{name}: {model.checkpoint}" for name, model in models.items())
        note = f"{named} · {folder}" if folder else named
        written = write_explanation(examples, note=note, out=out, images=images, tensorboard=tensorboard)
    Terminal(soft_wrap=True).print(*explanation_lines(examples), f"written to {written[0]}", sep="\n")
