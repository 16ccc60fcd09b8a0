"""Any file of region features: what a path stands for, by its ending.

Such a file is used in two steps, which may happen in different processes: `rows` says where each image stands, without
decoding anything; `read` decodes one of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

from msp_ds.data.identity import Corpus, split_corpus
from msp_ds.data.sources.obj36_tsv import TsvRegions
from msp_ds.data.sources.region_checks import LabelCounts, Reading, RegionRow
from msp_ds.data.sources.regions_npz import NpzRegions, list_archives
from msp_ds.errors import InputError


class RegionFile(Protocol):
    """One file of region features. It can be pickled; what it keeps open is not."""

    path: Path
    corpus: Corpus
    """What its plain numbers mean."""

    def rows(self) -> Iterator[RegionRow]:
        """Where each image stands, in the order of the file; the lengths sum to about the file's size."""

    def read(self, row: RegionRow, labels: LabelCounts) -> Reading:
        """The image in one of its rows; cheapest in the order of the file."""


_FORMATS: dict[str, Callable[[Path, Corpus], RegionFile]] = {".tsv": TsvRegions, ".npz": NpzRegions}


def list_region_files(paths: tuple[str, ...]) -> list[RegionFile]:
    """The files that a recipe's `regions` stand for: .tsv, .npz or folders of .npz, `vg:` in front for VG's numbers.

    Raises: InputError for a missing path, one of another ending, or one named twice.
    """
    found: list[tuple[Path, Corpus]] = []
    for written in paths:
        corpus, plain = split_corpus(written)
        path = Path(plain)
        if not path.exists():
            raise InputError(f"{path} is missing; it should hold region features (.tsv, .npz or a folder of .npz)")
        found += [(member, corpus) for member in (list_archives(path) if path.is_dir() else [path])]
    for place, (path, _) in enumerate(found):
        if path.suffix not in _FORMATS:
            raise InputError(f"{path} ends neither in .tsv nor in .npz; region features should")
        if any(path.samefile(other) for other, _ in found[:place]):
            raise InputError(f"{path} is named twice among the region features")
    return [_FORMATS[path.suffix](path, corpus) for path, corpus in found]
