"""The command that computes region features of photographs."""

from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import typer

from msp_ds.data.format.image_ids import Corpus
from msp_ds.progress import bars
from msp_ds.regions.detector import DetectorOptions, Features, RegionPrecision, Selection
from msp_ds.regions.pictures import LARGEST_PIXELS
from msp_ds.terminal import Table, Terminal, resumable, speak


def regions(
    photos: Annotated[list[str], typer.Argument(help="Folders, files or patterns of pictures.")],
    detector: Annotated[str, typer.Option(help="A detector: a folder, a file, or the name of an installed one.")],
    out: Annotated[Path, typer.Option(help="Folder to write, for shard --regions.")] = Path("regions"),
    corpus: Annotated[Corpus | None, typer.Option(help="How file names are read. [own, unless all say theirs]")] = None,
    num_regions: Annotated[int, typer.Option("--regions", min=1, help="Regions of a picture at most.")] = 36,
    selection: Annotated[Selection, typer.Option(help="How a vg detector's regions are chosen.")] = "caffe",
    boxes: Annotated[str | None, typer.Option(help="Regions whose boxes --selection given takes.")] = None,
    features: Annotated[Features, typer.Option(help="Features of a transformers detector.")] = "pooled",
    precision: Annotated[RegionPrecision, typer.Option(help="Type of the detector's arithmetic.")] = "fp32",
    device: Annotated[str, typer.Option(help="Device of the detector.")] = "cpu",
    jobs: Annotated[int | None, typer.Option(min=1, help="Processes; any number gives the same bytes. [cores]")] = None,
    part: Annotated[str | None, typer.Option(help="2/4 computes the second of four parts, beside the others.")] = None,
    on_error: Annotated[
        Literal["fail", "skip"], typer.Option(help="On a picture that cannot be opened: stop, or list it.")
    ] = "fail",
    largest_pixels: Annotated[int, typer.Option(min=1, help="Larger pictures cannot be opened.")] = LARGEST_PIXELS,
    check: Annotated[str | None, typer.Option(help="Compare with these regions instead, and write nothing.")] = None,
) -> None:
    """Compute the region features of photographs. The same command goes on where it was interrupted."""
    from msp_ds.evaluation.score_cache import read_part
    from msp_ds.regions.region_job import RegionsJob, check_regions, write_regions

    speak()
    place = read_part(part, {})
    job = RegionsJob(
        photos=photos,
        detector=detector,
        options=DetectorOptions(
            regions=num_regions, selection=selection, features=features, precision=precision, device=device
        ),
        corpus=corpus,
        boxes=boxes,
        jobs=jobs,
        part=(place.index, place.count),
        on_error=on_error,
        largest_pixels=largest_pixels,
    )
    with resumable(), bars() as progress:
        if check:
            shown: list[Table | str] = [_comparison(check_regions(job, check, progress=progress))]
        else:
            shown = [*write_regions(job, out, progress=progress)]
    Terminal(soft_wrap=not check).print(*shown, sep="\n")


def _comparison(found: dict[str, np.ndarray]) -> Table:
    from msp_ds.regions.region_check import COMPARED

    table = Table("image", *COMPARED)
    for name, row in (found | {"all": sum(found.values(), np.zeros(len(COMPARED)))}).items():
        *counts, cosine, difference = row
        pairs = counts[1] or np.nan
        means = f"{cosine / pairs:.4f}", f"{difference / pairs:+.4f}"
        table.add_row(name, *(f"{count:.0f}" for count in counts), *means)
    return table
