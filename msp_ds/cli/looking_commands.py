"""Commands that show what a model has learned: search images and texts, look at its answers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from msp_ds.progress import bars
from msp_ds.terminal import Terminal, speak

Images = Annotated[Path | None, typer.Option(help="Folder of the image files, to show them behind the regions.")]
SET = Path("shards/sentence/val")


def search(
    checkpoint: Annotated[Path, typer.Option(help="A run, one of its step-* folders, or a weights folder.")],
    text: Annotated[str | None, typer.Argument(help='What to look for, as "a red bus near a tree".')] = None,
    shards: Annotated[Path, typer.Option(help="The set to search.")] = SET,
    image: Annotated[str | None, typer.Option(help="Or an image: texts that fit it, and images like it.")] = None,
    top: Annotated[int, typer.Option(min=1, help="How many to show.")] = 10,
    html: Annotated[Path | None, typer.Option(help="Write one page of pictures instead, to open in a browser.")] = None,
    images: Images = None,
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
        model = Model.load(checkpoint, shards=shards)
    finding = find_about(model, image, top=top) if image else find_images(model, str(text), top=top)
    if html:
        ids = [sample["image_id"] for sample in finding.samples]
        pictures = {image_id: as_data_address(one) for image_id, one in open_pictures(images, ids).items()}
        write_html(html, finding_page(finding, pictures=pictures))
    Terminal().print(*([f"{html}: open it in a browser"] if html else finding_shown(finding)), sep="\n")


def explain(
    checkpoint: Annotated[
        list[str], typer.Option(help="A run, or NAME=RUN as t-s=runs/ts; repeat it to set models side by side.")
    ],
    image: Annotated[list[str], typer.Option(help="An image of the set, as coco-391895; may be repeated.")],
    question: Annotated[
        list[str] | None, typer.Option(help="What to ask of it; one for all images, or one for each. [captions]")
    ] = None,
    shards: Annotated[
        Path | None, typer.Option(help="The set. [with a question shards/vqa/val or gqa's, else sentence's]")
    ] = None,
    pool: Annotated[Path | None, typer.Option(help="Captions to choose from, one a line. [all of the set]")] = None,
    top: Annotated[int, typer.Option(min=1, help="Answers or captions of each model.")] = 3,
    images: Images = None,
    out: Annotated[Path, typer.Option(help="Folder for the page and the pictures.")] = Path("explain"),
    tensorboard: Annotated[Path | None, typer.Option(help="Show the pictures in this TensorBoard folder too.")] = None,
) -> None:
    """Compare models: their answers and attended regions. Without a question, they choose captions for the images."""
    from msp_ds.report.pages.explain import examples_of, explanation_lines, named_models, read_pool, set_to_explain
    from msp_ds.report.pages.explain_files import write_explanation

    with bars() as progress:
        speak(quiet=True)
        folder = shards or set_to_explain(checkpoint, has_question=bool(question))
        captions = read_pool(pool)
        models = named_models(checkpoint, shards=folder)
        examples = examples_of(
            models, image_ids=image, questions=question or (), pool=captions, top=top, progress=progress
        )
        note = f"{', '.join(f'{name}: {model.checkpoint}' for name, model in models.items())} · {folder}"
        written = write_explanation(examples, note=note, out=out, images=images, tensorboard=tensorboard)
    Terminal(soft_wrap=True).print(*explanation_lines(examples), f"written to {written[0]}", sep="\n")
