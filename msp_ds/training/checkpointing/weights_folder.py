"""A weights folder: weights.safetensors under our names, and model.json, which says whose they are.

`msp-ds import` and `msp-ds export --to safetensors` write such folders; `train --init`, `evaluate` and `export` read
them. The token head's decoder, tied to the word embeddings, is not stored a second time. vocab.txt lies beside them
where the word pieces are known.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from msp_ds.config import ModelConfig, from_json, read_json, to_json
from msp_ds.errors import CheckpointError, InputError
from msp_ds.model.weights.conversion import ConversionReport, tied, untied
from msp_ds.model.weights.tensor_files import is_half_written, read_tensors, write_safetensors
from msp_ds.storage.durable import followed, replace_folder, require_own_files, sync_folder, write_durably
from msp_ds.storage.sole_writer import sole_writer

WEIGHTS_FILE = "weights.safetensors"
MODEL_FILE = "model.json"
VOCAB_FILE = "vocab.txt"
_FILES = frozenset(
    {WEIGHTS_FILE, MODEL_FILE, VOCAB_FILE, "README.md", "lxmert_s_LXRT.pth", "model.safetensors", "msp_ds.safetensors"}
    | {"config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"}
)
"""All that import and any form of export write."""
_FORMAT, _VERSION = "msp-ds weights", 2
_CARD = "what msp-ds import or export says of weights"


@dataclass(frozen=True, kw_only=True)
class TrainedStage:
    """What a run's folder tells of a stage."""

    name: str
    tasks: tuple[str, ...]
    epochs: int
    batch_size: int
    steps: int
    """Optimiser steps up to these weights."""
    finished: bool
    validation: dict[str, float | None]
    """Held-out metrics at the end of the stage."""


@dataclass(frozen=True, kw_only=True)
class TrainedSet:
    """A shard set that weights were trained or validated on."""

    name: str
    """stage/split."""
    index_sha256: str
    num_images: int | None
    """None where the set was out of reach at export."""
    num_pairs: int | None
    extractor: str | None
    """What computed its features."""


@dataclass(frozen=True, kw_only=True)
class Grade:
    """A result that lay in the run's folder for these weights."""

    task: str
    protocol: str
    values: dict[str, float | None]


@dataclass(frozen=True, kw_only=True)
class History:
    """How weights came about."""

    preset: str
    curriculum: str
    drop: tuple[str, ...]
    seed: int
    init: str | None
    """Where their backbone started from, by name; None from chance."""
    git_commit: str
    stages: tuple[TrainedStage, ...]
    data: tuple[TrainedSet, ...]
    grades: tuple[Grade, ...]


@dataclass(frozen=True, kw_only=True)
class WeightsCard:
    """The content of model.json."""

    format: str = _FORMAT
    version: int = _VERSION
    model: ModelConfig
    vocabulary_sha256: str | None
    """None where nobody said which word pieces the weights know: then only their number is compared."""
    answers_sha256: str | None = None
    """Of the answers that a fine-tuned head chooses from."""
    source: str
    """`run tps, 3-sentence/step-00000120`, or `lxmert model_LXRT.pth`."""
    inputs_sha256: dict[str, str] = field(default_factory=dict)
    """Of the files that were imported, by name."""
    report: ConversionReport | None = None
    """What became of each of their tensors."""
    history: History | None = None
    """None for weights that were not trained here."""
    licence: str | None = None


@dataclass(frozen=True, kw_only=True)
class StoredWeights:
    """Weights with their card."""

    card: WeightsCard
    weights: dict[str, Tensor]
    """fp32 by our names, the tied decoder left out."""
    vocabulary: bytes | None
    """vocab.txt, where it is known."""


def is_weights_folder(path: Path) -> bool:
    """Whether a folder is one, whole or damaged, rather than a run or a checkpoint."""
    return (path / WEIGHTS_FILE).is_file() and (path / MODEL_FILE).is_file()


def read_card(path: Path) -> WeightsCard:
    """What model.json in a folder says. Raises InputError when it is missing or not what it should be."""
    where = path / MODEL_FILE
    saved = read_json(where, what=_CARD)
    if not isinstance(saved, dict) or saved.get("format") != _FORMAT:
        raise CheckpointError(f"{where} should be {_CARD}, but says no such format")
    if saved.get("version") != _VERSION:
        raise CheckpointError(
            f"{where} is of version {saved.get('version')}, this program reads {_VERSION}; import it again"
        )
    return from_json(WeightsCard, saved, where=str(where))


def read_folder_weights(path: Path) -> dict[str, Tensor]:
    """The fp32 weights of a weights folder by name, with the tied decoder."""
    return tied({name: tensor.float() for name, tensor in read_tensors(path / WEIGHTS_FILE).items()})


def read_stored(path: Path) -> StoredWeights:
    """All of a weights folder. Raises InputError when a part is missing or broken."""
    weights = untied(read_folder_weights(path), where=str(path))
    return StoredWeights(card=read_card(path), weights=weights, vocabulary=read_vocabulary_beside(path))


def read_vocabulary_beside(path: Path) -> bytes | None:
    """The bytes of vocab.txt in a folder, None where there is none."""
    return (path / VOCAB_FILE).read_bytes() if (path / VOCAB_FILE).is_file() else None


def write_weights(folder: Path, stored: StoredWeights) -> None:
    """Writes weights.safetensors into a folder that is being prepared."""
    write_safetensors(folder / WEIGHTS_FILE, stored.weights)


def write_card(folder: Path, stored: StoredWeights) -> None:
    """Writes model.json, and vocab.txt where it is known, into a folder that is being prepared."""
    text = json.dumps(to_json(stored.card), indent=2, ensure_ascii=False)
    write_durably(folder / MODEL_FILE, f"{text}\n".encode())
    if stored.vocabulary is not None:
        write_durably(folder / VOCAB_FILE, stored.vocabulary)


@contextmanager
def prepared_folder(target: Path, *, overwrite: bool) -> Iterator[Path]:
    """A folder to write into, which takes the place of `target` as a whole once the block is left without an error.

    Raises InputError when something is there already, unless it was written by import or export and `overwrite` is set.
    """
    require_free(target, overwrite=overwrite)
    folder = followed(target)
    prepared = folder.with_name(f".{folder.name}.writing")
    try:
        prepared.mkdir(parents=True, exist_ok=True)
        with sole_writer(prepared, owner_file=prepared.with_name(f"{prepared.name}.owner")):
            _require_own_files(prepared, also=is_half_written)
            try:
                for left in prepared.iterdir():  # of a process that was killed
                    left.unlink()
                yield prepared
                sync_folder(prepared)
                replace_folder(prepared, folder)
            finally:
                shutil.rmtree(prepared, ignore_errors=True)
    except OSError as error:
        raise InputError(f"{target} cannot be written ({error.strerror or error}); name another --out") from None


def require_free(target: Path, *, overwrite: bool) -> None:
    """Raises InputError unless a folder can be written at `target`, as prepared_folder does."""
    if not followed(target).exists() or (target.is_dir() and not any(target.iterdir())):
        return
    if not (target / MODEL_FILE).is_file():
        raise InputError(f"{target} holds something else than exported weights; name another --out")
    read_card(target)
    if not overwrite:
        raise InputError(f"{target} holds weights already; name another --out, or write over them with --overwrite")
    _require_own_files(target)


def _require_own_files(folder: Path, *, also: Callable[[str], bool] = lambda name: False) -> None:
    require_own_files(
        followed(folder),
        is_own=lambda name: name in _FILES or also(name),
        what="exported weights",
        fix="move it, or name another --out",
    )


def sha256_of(path: Path) -> str:
    """The sha256 of a file, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 22):
            digest.update(piece)
    return digest.hexdigest()
