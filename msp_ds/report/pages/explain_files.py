"""What `msp-ds explain` leaves behind: a page, a picture an example, and the pictures in TensorBoard."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch.utils.tensorboard import SummaryWriter

from msp_ds.errors import InputError
from msp_ds.report.pages.explain import Example
from msp_ds.report.pages.explain_page import explain_page
from msp_ds.report.pages.explain_picture import draw_example
from msp_ds.report.pages.page import write_html
from msp_ds.report.pages.pictures import open_pictures, packed
from msp_ds.storage.atomic_files import write_atomically

PAGE_NAME = "explain.html"


def write_explanation(
    examples: Sequence[Example], *, note: str, out: Path, images: Path | None, tensorboard: Path | None
) -> list[Path]:
    """The files written into `out`: the page, then a PNG for each example.

    images: folder of the image files. tensorboard: a folder for TensorBoard, which gets the same pictures. Raises:
    InputError when something cannot be read or written.
    """
    files = open_pictures(images, [example.sample["image_id"] for example in examples])
    page = out / PAGE_NAME
    names = [view.name for view in examples[0].views]
    title = f"{', '.join(names)} side by side" if len(names) > 1 else f"What {names[0]} makes of it"
    packs = {image_id: packed(picture) for image_id, picture in files.items()}
    write_html(page, explain_page(examples, title=title, note=note, pictures=packs))
    written = [page]
    for number, example in enumerate(examples, start=1):
        image_id = example.sample["image_id"]
        drawing = draw_example(example, files.get(image_id))
        written.append(out / f"explain-{number}-{image_id}.png")
        try:
            picture = io.BytesIO()
            drawing.save(picture, format="PNG")
            write_atomically(written[-1], picture.getvalue())
            if tensorboard is not None:
                with_pictures = SummaryWriter(str(tensorboard))
                with_pictures.add_image(f"explain/{number}-{image_id}", np.asarray(drawing), 0, dataformats="HWC")
                with_pictures.close()
        except OSError as error:
            raise InputError(
                f"{error.filename or out} cannot be written ({error.strerror}); name another folder"
            ) from None
    return written
