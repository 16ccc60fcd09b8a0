"""The files of `msp-ds explain`: a page, a picture for each example, and the pictures in TensorBoard."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from torch.utils.tensorboard import SummaryWriter

from msp_ds.errors import InputError
from msp_ds.report.pages.explain import Example, View, named_regions, opacities, top_regions
from msp_ds.report.pages.explain_picture import draw_example
from msp_ds.report.pages.page import render, write_html
from msp_ds.report.pages.pictures import as_data_address, open_pictures
from msp_ds.report.pages.svg import boxes_to_scale
from msp_ds.storage.atomic_files import write_atomically

PAGE_NAME = "explain.html"


def write_explanation(
    examples: Sequence[Example], *, note: str, out: Path, images: Path | None, tensorboard: Path | None
) -> list[Path]:
    """Write files into `out` and return them: the page, then a PNG for each example.

    images: folder of the image files. tensorboard: a folder for TensorBoard, which gets the same pictures. Raises:
    InputError when something cannot be read or written.
    """
    files = open_pictures(images, [example.sample for example in examples])
    page = out / PAGE_NAME
    names = [view.name for view in examples[0].views]
    title = f"{', '.join(names)} side by side" if len(names) > 1 else f"What {names[0]} predicts"
    pictures = {image_id: as_data_address(picture) for image_id, picture in files.items()}
    write_html(page, explain_page(examples, title=title, note=note, pictures=pictures))
    written = [page]
    for number, example in enumerate(examples, start=1):
        image_id = example.sample["image_id"]
        drawing = draw_example(example, files.get(image_id))
        title = f"{number}-{Path(image_id).stem}"
        written.append(out / f"explain-{title}.png")
        try:
            picture = io.BytesIO()
            drawing.save(picture, format="PNG")
            write_atomically(written[-1], picture.getvalue())
            if tensorboard is not None:
                with SummaryWriter(str(tensorboard)) as writer:
                    writer.add_image(f"explain/{title}", np.asarray(drawing), 0, dataformats="HWC")
        except OSError as error:
            raise InputError(
                f"{error.filename or out} cannot be written ({error.strerror}); name another folder"
            ) from None
    return written


def explain_page(examples: Sequence[Example], *, title: str, note: str, pictures: Mapping[str, str]) -> str:
    """Return the page. pictures: data: addresses of the image files that exist, by image id."""

    def drawing(sample: dict[str, Any], view: View) -> Markup:
        rows = [opacities(weights).tolist() for weights in (view.overall, *view.attention.weights)]
        styles = [
            "".join(f";--s{k}:{value:.3f}" for k, value in enumerate(of_box)) for of_box in zip(*rows, strict=True)
        ]
        named = named_regions(sample, view.overall)
        return boxes_to_scale(sample, picture=pictures.get(sample["image_id"], ""), styles=styles, named=named)

    num_words = max(len(view.attention.words) for example in examples for view in example.views)
    return render(
        "explain.html",
        examples=examples,
        title=title,
        note=note,
        num_choices=num_words + 1,
        drawing=drawing,
        top_regions=top_regions,
    )
