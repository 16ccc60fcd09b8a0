"""Retrieval scores on disk, written while they are computed: an interrupted evaluation continues where it stopped.

A folder of scoring.json (what is scored, with which weights) and scores.npy, float32 [M, N]: a row for each caption (M)
with its score for each image (N), NaN until it is scored. A score marks itself as done, so no order of writes can leave
a wrong one behind. Several processes on one machine, or on machines with a coherent shared file system, fill one folder
together; each takes blocks of its own (ScoringPart).
"""

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import NoReturn

import numpy as np
import torch
from torch import Tensor, nn

from msp_ds.config import from_json, read_json, to_json
from msp_ds.data.loading.reader import Reader
from msp_ds.errors import InputError, writing
from msp_ds.evaluation.precision import Precision
from msp_ds.evaluation.ranking import Pool
from msp_ds.storage.atomic_files import sync_folder

_NAMES = ("scoring.json", "scores.npy")


@dataclass(frozen=True, kw_only=True)
class Scoring:
    """Identity of a score matrix: the weights, the pool and the precision."""

    weights_sha256: str  # hash of the backbone and the match head
    pool_sha256: str  # hash of the shards' index and of the images and captions in the pool
    precision: Precision
    num_images: int
    num_captions: int


@dataclass(frozen=True, kw_only=True)
class ScoringPart:
    """The part of the work that one process does: blocks index, index + count, index + 2 count ..."""

    index: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count:
            raise InputError(
                f"there is no part {self.index + 1} of {self.count}; count them from 1, as in --part 1/2 and --part 2/2"
            )

    def __str__(self) -> str:
        return f"part {self.index + 1}/{self.count}"


def read_part(text: str | None, launcher: Mapping[str, str]) -> ScoringPart:
    """Parse `2/4`; without a text return the part of this rank of torchrun or deepspeed, else all of the work.

    launcher: the environment. Raises: InputError for a text of another form.
    """
    if text is None:
        return ScoringPart(index=int(launcher.get("RANK", "0")), count=int(launcher.get("WORLD_SIZE", "1")))
    index, slash, count = text.partition("/")
    if not (slash and index.isdecimal() and count.isdecimal()):
        raise InputError(f"{text!r} is not a part of the work; write --part 2/4 for the second of four")
    return ScoringPart(index=int(index) - 1, count=int(count))


def weights_sha256(*modules: nn.Module) -> str:
    """Hash all weights with their names, shapes and types; equal on every device."""
    digest = hashlib.sha256()
    for place, module in enumerate(modules):
        for name, tensor in module.state_dict().items():
            digest.update(f"{place}.{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def pool_sha256(reader: Reader, pool: Pool) -> str:
    """Hash the set's index and the pool's pairs in their order."""
    digest = hashlib.sha256(reader.shards.index_sha256.encode())
    for rows in (pool.first_pairs, pool.captions, pool.image_of_caption):
        digest.update(rows.to(torch.int64).numpy().tobytes())
    return digest.hexdigest()


class ScoreCache:
    """A cache folder that is open for writing."""

    def __init__(self, folder: Path, scoring: Scoring) -> None:
        """Open a folder, or make it.

        Raises: InputError when it holds other scores, is damaged or cannot be written.
        """
        self.folder = folder
        with writing(folder, fix="name another folder with --out"):
            if not folder.exists():
                _make(folder, scoring)
        self._require_same(scoring)
        self._rows = self._open()
        if self._rows.shape != (scoring.num_captions, scoring.num_images) or self._rows.dtype != np.float32:
            self._refuse("is damaged")

    def _open(self) -> np.memmap[tuple[int, int], np.dtype[np.float32]]:
        path = self.folder / "scores.npy"
        with writing(path, fix="name another folder with --out"):
            try:
                np.load(path, mmap_mode="r")  # refuses a file that was cut off, which r+ would lengthen with zeros
                rows: np.memmap[tuple[int, int], np.dtype[np.float32]] = np.load(path, mmap_mode="r+")
            except (FileNotFoundError, ValueError, EOFError):
                self._refuse("is damaged")
        return rows

    def _require_same(self, scoring: Scoring) -> None:
        try:
            saved = read_json(self.folder / "scoring.json", what="what was scored")
            kept = from_json(Scoring, saved, where="scoring.json")
        except InputError as error:
            self._refuse(f"holds scores of another version ({error})")
        other = [field.name for field in fields(Scoring) if getattr(kept, field.name) != getattr(scoring, field.name)]
        if other:
            self._refuse(f"holds scores of another evaluation ({', '.join(other)} differ)")

    def _refuse(self, fault: str) -> NoReturn:
        raise InputError(f"{self.folder} {fault}; delete it to score again, or name another folder with --out")

    def missing(self, columns: Tensor) -> bool:
        """Return whether a score of the captions int64 [m] `columns` is missing."""
        return bool(np.isnan(self._rows[columns.numpy()]).any())

    def num_missing(self) -> int:
        """Return the number of captions with a missing score."""
        # A thousand rows at a time: the matrix may be larger than memory.
        starts = range(0, len(self._rows), 1000)
        return sum(int(np.isnan(self._rows[start : start + 1000]).any(axis=1).sum()) for start in starts)

    def keep(self, columns: Tensor, margins: Tensor) -> None:
        """Write the finite float32 [N, m] `margins` of the captions int64 [m] `columns`."""
        self._rows[columns.numpy()] = margins.T.numpy()

    def scores(self) -> Tensor:
        """Return float32 [N, M] scores, NaN where they are missing."""
        return torch.from_numpy(np.array(self._rows)).T.contiguous()

    def flush(self) -> None:
        """Flush the scores to the disk."""
        self._rows.flush()


def _make(folder: Path, scoring: Scoring) -> None:
    """Make the folder atomically; of several processes the first one makes it."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    prepared = folder.with_name(f".{folder.name}-{uuid.uuid4().hex}")
    prepared.mkdir()
    try:
        with (prepared / "scores.npy").open("wb") as file:
            shape = {"descr": "<f4", "fortran_order": False, "shape": (scoring.num_captions, scoring.num_images)}
            np.lib.format.write_array_header_1_0(file, shape)
            row = np.full(scoring.num_images, np.nan, dtype=np.float32).tobytes()
            for _ in range(scoring.num_captions):
                file.write(row)
            file.flush()
            os.fsync(file.fileno())
        (prepared / "scoring.json").write_text(json.dumps(to_json(scoring), indent=2) + "\n")
        prepared.rename(folder)
    except OSError:
        shutil.rmtree(prepared, ignore_errors=True)
        if not all((folder / name).exists() for name in _NAMES):
            raise
    sync_folder(folder.parent)
