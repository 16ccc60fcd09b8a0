"""Any file of region features: what a path stands for, by its ending."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from msp_ds.data.identity import Corpus, split_corpus
from msp_ds.data.sources import obj36_tsv, regions_npz
from msp_ds.data.sources.region_checks import LabelCounts, Reading
from msp_ds.errors import InputError


class Reader(Protocol):
    """A module that reads one kind of file."""

    def read_ids(self, path: Path, *, corpus: Corpus) -> Iterator[tuple[str, int]]:
        """The canonical image ids, each with the bytes it takes of the file."""

    def read_records(self, path: Path, *, corpus: Corpus, labels: LabelCounts) -> Iterator[Reading]:
        """The images, one after the other."""


_READERS: dict[str, Reader] = {".tsv": obj36_tsv, ".npz": regions_npz}


@dataclass(frozen=True, kw_only=True)
class RegionFile:
    """One file of region features."""

    path: Path
    corpus: Corpus
    """What its plain numbers mean."""

    @property
    def num_bytes(self) -> int:
        """Size of the file."""
        return self.path.stat().st_size

    def read_ids(self) -> Iterator[tuple[str, int]]:
        """The canonical image ids, each with the bytes it takes of the file."""
        return _READERS[self.path.suffix].read_ids(self.path, corpus=self.corpus)

    def read_records(self, labels: LabelCounts) -> Iterator[Reading]:
        """The images, one after the other."""
        return _READERS[self.path.suffix].read_records(self.path, corpus=self.corpus, labels=labels)


def list_region_files(paths: tuple[str, ...]) -> list[RegionFile]:
    """The files that a recipe's `regions` stand for: .tsv, .npz or folders of .npz, `vg:` in front for VG's numbers.

    Raises: InputError for a missing path, one of another ending, or one named twice.
    """
    files: list[RegionFile] = []
    for written in paths:
        corpus, plain = split_corpus(written)
        path = Path(plain)
        if not path.exists():
            raise InputError(f"{path} is missing; it should hold region features (.tsv, .npz or a folder of .npz)")
        members = regions_npz.list_archives(path) if path.is_dir() else [path]
        files += [RegionFile(path=member, corpus=corpus) for member in members]
    for place, file in enumerate(files):
        if file.path.suffix not in _READERS:
            raise InputError(f"{file.path} ends neither in .tsv nor in .npz; region features should")
        if any(file.path.samefile(other.path) for other in files[:place]):
            raise InputError(f"{file.path} is named twice among the region features")
    return files
