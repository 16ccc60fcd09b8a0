"""A weights folder: weights.safetensors under our names, model.json with their origin, and vocab.txt and answers.json
where they are known.

`msp-ds import` and `msp-ds export --to safetensors` write such folders; `train --init`, `evaluate` and `export` read
them. The token head's decoder is tied to the word embeddings and not stored a second time.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from msp_ds.config import ModelConfig, from_json, read_json, to_json
from msp_ds.data.format.text import WordPieces
from msp_ds.data.format.vocabulary import read_vocabulary
from msp_ds.detector_record import DetectorRecord
from msp_ds.errors import CheckpointError, InputError
from msp_ds.model.weights.conversion import ConversionReport, tied, untied
from msp_ds.model.weights.tensor_files import is_half_written, read_tensors, write_safetensors
from msp_ds.preparation.texts.answer_vocabulary import read_vocabulary as read_answers
from msp_ds.storage.atomic_files import followed, replacing_folder, require_own_files, write_durably
from msp_ds.storage.checksums import sha256_of_file
from msp_ds.storage.locks import lock_folder

WEIGHTS_FILE = "weights.safetensors"
MODEL_FILE = "model.json"
VOCAB_FILE = "vocab.txt"
ANSWERS_FILE = "answers.json"
_FILES = frozenset(
    {WEIGHTS_FILE, MODEL_FILE, VOCAB_FILE, ANSWERS_FILE, "README.md"}
    | {"lxmert_s_LXRT.pth", "model.safetensors", "msp_ds.safetensors"}
    | {"config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"}
)
"""All files that import and any form of export write."""
_FORMAT, _VERSION = "msp-ds weights", 2
_CARD = "a card of weights from msp-ds import or export"


@dataclass(frozen=True, kw_only=True)
class TrainedStage:
    """A stage of a run, from the run's folder."""

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
    """None where the set was not at hand at export."""
    num_pairs: int | None
    extractor: str | None
    """What computed its features."""


@dataclass(frozen=True, kw_only=True)
class Grade:
    """A result of these weights from the run's folder."""

    task: str
    protocol: str
    values: dict[str, float | None]


@dataclass(frozen=True, kw_only=True)
class History:
    """How weights were trained."""

    preset: str
    curriculum: str
    drop: tuple[str, ...]
    seed: int
    init: str | None
    """Name of the checkpoint that the backbone started from; None for random initialisation."""
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
    """None where the vocabulary is unknown: then only its size is compared."""
    answers_sha256: str | None = None
    """Of the answer list of a fine-tuned head."""
    detector: DetectorRecord | None = None
    """What computed the region features that the weights were trained on; None where that is unknown."""
    source: str
    """`run tps, 3-sentence/step-00000120`, or `lxmert model_LXRT.pth`."""
    inputs_sha256: dict[str, str] = field(default_factory=dict)
    """Imported files: name -> sha256."""
    report: ConversionReport | None = None
    """What each of their tensors was converted to."""
    history: History | None = None
    """None for imported weights."""
    licence: str | None = None


@dataclass(frozen=True, kw_only=True)
class StoredWeights:
    """Weights with their card."""

    card: WeightsCard
    weights: dict[str, Tensor]
    """fp32, by our names, without the tied decoder."""
    vocabulary: bytes | None
    """Content of vocab.txt; None where it is unknown."""
    answers: bytes | None = None
    """Content of answers.json; None where there is no answer head, or its answers are unknown."""


def is_weights_folder(path: Path) -> bool:
    """Whether a folder is a weights folder, whole or damaged, rather than a run or a checkpoint."""
    return (path / WEIGHTS_FILE).is_file() and (path / MODEL_FILE).is_file()


def _read_card_fields(where: Path) -> dict[str, Any]:
    """Read a model.json of any version. Raises InputError when it is missing, damaged or of another format."""
    saved = read_json(where, what=_CARD)
    if not isinstance(saved, dict) or saved.get("format") != _FORMAT:
        raise CheckpointError(f"{where} should be {_CARD}, but says no such format")
    return saved


def read_card(path: Path) -> WeightsCard:
    """Read model.json. Raises InputError when it is missing, damaged or of another version."""
    where = path / MODEL_FILE
    saved = _read_card_fields(where)
    if saved.get("version") != _VERSION:
        raise CheckpointError(
            f"{where} is of version {saved.get('version')}, this program reads {_VERSION}; import or export it again"
        )
    return from_json(WeightsCard, saved, where=str(where))


def read_folder_weights(path: Path) -> dict[str, Tensor]:
    """Read the fp32 weights of a weights folder by name, with the tied decoder."""
    return tied({name: tensor.float() for name, tensor in read_tensors(path / WEIGHTS_FILE).items()})


def read_stored(path: Path) -> StoredWeights:
    """Read a weights folder. Raises InputError when a file is missing or damaged."""
    weights = untied(read_folder_weights(path), where=str(path))
    vocabulary, answers = (
        file.read_bytes() if (file := path / name).is_file() else None for name in (VOCAB_FILE, ANSWERS_FILE)
    )
    return StoredWeights(card=read_card(path), weights=weights, vocabulary=vocabulary, answers=answers)


def read_words(folder: Path) -> tuple[WordPieces, tuple[str, ...]]:
    """Return the word pieces of a weights folder and the answers of its answer head, () where they are unknown.

    Raises: CheckpointError when vocab.txt is missing, or a file is not the one that the card names.
    """
    card, vocabulary, answers = read_card(folder), folder / VOCAB_FILE, folder / ANSWERS_FILE
    if not vocabulary.is_file():
        raise CheckpointError(f"{folder} has no {VOCAB_FILE} to read texts with; import it again with --vocab FILE")
    for path, sha256 in ((vocabulary, card.vocabulary_sha256), (answers, card.answers_sha256)):
        if path.is_file() and sha256 not in (None, sha256_of_file(path)):
            raise CheckpointError(f"{path} is not the file that {MODEL_FILE} names; import or export the weights again")
    known = answers.is_file() and card.answers_sha256 is not None
    return WordPieces(read_vocabulary(vocabulary)), read_answers(answers).answers if known else ()


def write_weights(folder: Path, stored: StoredWeights) -> None:
    """Write weights.safetensors into a prepared folder."""
    write_safetensors(folder / WEIGHTS_FILE, stored.weights)


def write_card(folder: Path, stored: StoredWeights) -> None:
    """Write model.json, and vocab.txt and answers.json where they are known, into a prepared folder."""
    text = json.dumps(to_json(stored.card), indent=2, ensure_ascii=False)
    write_durably(folder / MODEL_FILE, f"{text}\n".encode())
    for name, data in ((VOCAB_FILE, stored.vocabulary), (ANSWERS_FILE, stored.answers)):
        if data is not None:
            write_durably(folder / name, data)


@contextmanager
def prepared_folder(target: Path, *, overwrite: bool) -> Iterator[Path]:
    """Yield a folder to write into, which replaces `target` as a whole when the block ends without an error.

    Raises: InputError when `target` exists, unless import or export wrote it and `overwrite` is set.
    """
    require_free(target, overwrite=overwrite)
    folder = followed(target)
    prepared = folder.with_name(f".{folder.name}.writing")
    try:
        prepared.mkdir(parents=True, exist_ok=True)
        with lock_folder(prepared, owner_file=prepared.with_name(f"{prepared.name}.owner")):
            _require_own_files(prepared, also=is_half_written)
            with replacing_folder(folder, prepared):
                for left in prepared.iterdir():  # of a process that was killed
                    left.unlink()
                yield prepared
    except OSError as error:
        raise InputError(f"{target} cannot be written ({error.strerror or error}); name another --out") from None


def require_free(target: Path, *, overwrite: bool) -> None:
    """Raise InputError unless `prepared_folder` may write at `target`."""
    if not followed(target).exists() or (target.is_dir() and not any(target.iterdir())):
        return
    if not (target / MODEL_FILE).is_file():
        raise InputError(f"{target} holds other files than exported weights; name another --out")
    _read_card_fields(target / MODEL_FILE)
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
