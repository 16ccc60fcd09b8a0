"""What opening and reading a set comes to, by us and by webdataset."""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import Any

import torch
import webdataset
from raw_files import NUM_IMAGES

from msp_ds.data.format.shards import ShardSet, open_set
from msp_ds.data.loading.reader import Reader
from msp_ds.errors import ShardError
from msp_ds.records import Batch

SILENT = "fewer images and no error"
ALL = "all images and no error"


def everything(shards: ShardSet) -> Batch:
    """All pairs with their images, and a random region of every image."""
    reader, count = Reader(shards), shards.index.num_pairs
    chances = torch.stack([torch.arange(count) / count, torch.full((count,), 0.5)], dim=1)
    return reader.read(
        torch.arange(count), images=reader.images, matched=torch.ones(count, dtype=torch.bool), random_regions=chances
    )


def ours(folder: Path) -> str:
    """`read`, or our error."""
    try:
        everything(open_set(folder))
    except ShardError as error:
        return str(error)
    return "read"


def keys_of_theirs(address: Path | str, **options: Any) -> list[str]:
    """The images of a tar as webdataset reads it."""
    return [sample["__key__"] for sample in webdataset.WebDataset(str(address), shardshuffle=False, **options)]


def theirs(address: Path | str, *, written: int = NUM_IMAGES) -> str:
    """What webdataset makes of a tar into which so many images were written: ALL, SILENT, or its error's type."""
    try:
        keys = keys_of_theirs(address)
    except (OSError, ValueError, tarfile.TarError) as error:
        return type(error).__name__
    assert len(keys) <= written
    return ALL if len(keys) == written else SILENT
