"""Raw files as large as COCO's, made up: for benchmarks and rehearsals. Nothing here is fit to learn from.

Features are drawn once for a few images and then repeated, since drawing would take longer than what is measured.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np

from msp_ds.data.format.faults import Faults, RowAt
from msp_ds.data.format.image_ids import Corpus
from msp_ds.data.format.region_checks import CheckedRegions, LabelCounts, RegionRow
from msp_ds.data.format.set_layout import Split
from msp_ds.data.format.text import WordPieces
from msp_ds.data.format.vocabulary import SPECIAL_PIECES, parse_vocabulary
from msp_ds.preparation.recipe import Recipe
from msp_ds.preparation.writing.shard_writer import SetPlan, write_set
from msp_ds.records import RegionRecord

NUM_REGIONS, FEATURE_WIDTH = 36, 2048
NUM_IMAGES, NUM_CAPTIONS = 123_287, 616_767
"""Numbers of COCO's train2014 and val2014 together."""
NUM_OBJECTS, NUM_ATTRIBUTES, NUM_WORDS = 1600, 400, 200
_DISTINCT_FEATURES = 32
WORDS = [
    first + second
    for first in ("", "ba", "co", "di", "fe", "gu", "ho", "ki", "lu", "me", "no", "pi", "qua", "ri", "so", "tu")
    for second in ("man", "dog", "red", "on", "the", "street", "table", "with", "horse", "wave", "in", "two", "plate")
]


def caption(number: int, ordinal: int) -> str:
    """A caption of 7 to 16 words, the lengths of COCO's, that no other image has."""
    rng = np.random.default_rng([number, ordinal])
    words = [WORDS[place] for place in rng.integers(0, len(WORDS), rng.integers(6, 16))]
    return " ".join([*words, f"{number}"]) + "."


def features(number: int) -> np.ndarray:
    """float32 [R, F]: about half of them zero, as behind a ReLU."""
    rng = np.random.default_rng(number % _DISTINCT_FEATURES)
    return np.maximum(rng.standard_normal((NUM_REGIONS, FEATURE_WIDTH), dtype=np.float32), 0)


@lru_cache(maxsize=_DISTINCT_FEATURES)
def _repeated_half(place: int) -> np.ndarray:
    return features(place).astype(np.float16)


def half_features(number: int) -> np.ndarray:
    """float16 [R, F]: those of `features` as a shard holds them, but that the first number tells images apart."""
    values = _repeated_half(number % _DISTINCT_FEATURES).copy()
    # Whole numbers below 2,048 are exact.
    values[0, :2] = divmod(number, 1000)
    return values


def random_record(number: int, features: np.ndarray, rng: np.random.Generator) -> RegionRecord:
    """An image of 640 x 480 with float16 [R, F] `features` and random boxes and labels."""
    num_regions = len(features)
    corners = np.sort(rng.random((num_regions, 2, 2)), axis=1) * (640, 480)
    return RegionRecord(
        image_id=f"coco-{number + 1}",
        source=f"made up:{number}",
        height=480,
        width=640,
        features=features,
        boxes=corners.reshape(num_regions, 4).astype(np.float32),
        object_ids=rng.integers(0, NUM_OBJECTS, num_regions).astype(np.int16),
        object_scores=rng.random(num_regions, np.float32),
        attribute_ids=rng.integers(0, NUM_ATTRIBUTES, num_regions).astype(np.int16),
        attribute_scores=rng.random(num_regions, np.float32),
    )


def random_words(rng: np.random.Generator, count: int) -> list[str]:
    """Words of the sets of `write_word_set`, of one piece each."""
    return [f"w{word}" for word in rng.integers(0, NUM_WORDS, count)]


def write_word_set(target: Path, examples: Iterator[tuple[RegionRecord, list[str]]], *, split: Split) -> None:
    """Write random records with texts of random words as a set of the sentence stage."""
    pieces = [*SPECIAL_PIECES, *(f"w{number}" for number in range(NUM_WORDS))]
    plan = SetPlan(
        stage="sentence",
        split=split,
        pieces=WordPieces(parse_vocabulary("\n".join(pieces).encode(), name="made up")),
        objects_data="\n".join(f"object{number}" for number in range(NUM_OBJECTS)).encode(),
        attributes_data="\n".join(f"attribute{number}" for number in range(NUM_ATTRIBUTES)).encode(),
        max_tokens=20,
    )
    target.parent.mkdir(parents=True, exist_ok=True)
    write_set(target, plan=plan, examples=examples, counts={})


def write_tsv(path: Path, num_images: int) -> None:
    """LXMERT's ten columns; 395 KB an image."""
    repeated = [features(number).astype("<f4") for number in range(_DISTINCT_FEATURES)]
    encoded = [base64.b64encode(values.tobytes()) for values in repeated]
    rng = np.random.default_rng(0)
    with path.open("wb") as file:
        for number in range(num_images):
            record = random_record(number, repeated[number % _DISTINCT_FEATURES], rng)
            arrays = (
                record.object_ids.astype("<i8"),
                record.object_scores,
                record.attribute_ids.astype("<i8"),
                record.attribute_scores,
                record.boxes,
            )
            *labels, boxes = (base64.b64encode(array.tobytes()) for array in arrays)
            head = [b"COCO_train2014_%012d" % (number + 1), b"480", b"640"]
            file.write(b"\t".join([*head, *labels, b"36", boxes, encoded[number % _DISTINCT_FEATURES]]) + b"\n")


_ROW_BYTES = 395_000


class MadeUpRegions:
    """Region features without a file: each image is made when it is read, as a TSV would give it."""

    corpus: Corpus = "coco"
    feature_type = ""
    detector = None

    def __init__(self, path: Path, num_images: int) -> None:
        """path: a file that stands for the features; it needs no content."""
        self.path = path
        self.num_images = num_images
        self.has_labels = True
        self.num_bytes = num_images * _ROW_BYTES

    def has_some(self, ids: str) -> bool:
        """Whether a region has a label of this kind; all have both."""
        return True

    def rows(self, faults: Faults | None = None) -> Iterator[RegionRow]:
        """All images, with the bytes that they would have in a TSV."""
        for number in range(self.num_images):
            yield RegionRow(f"coco-{number + 1}", number, 0, _ROW_BYTES)

    def place(self, row: RegionRow) -> RowAt:
        """The position that a row would have."""
        return RowAt(self.path, row.number, image_id=row.image_id)

    def digest(self, row: RegionRow) -> bytes:
        """The bytes that identify the content of a row."""
        return half_features(row.number).tobytes()

    def read(self, row: RegionRow, labels: LabelCounts) -> CheckedRegions:
        """The image in a row."""
        rng = np.random.default_rng([row.number, 3])
        return CheckedRegions(random_record(row.number, half_features(row.number), rng), 0)


def write_hard_negatives(path: Path, num_images: int, *, count: int = 100) -> None:
    """For each image the next `count` ones."""
    rows = np.arange(num_images, dtype=np.int32)
    neighbours = (rows[:, None] + np.arange(1, count + 1, dtype=np.int32)) % np.int32(num_images)
    np.savez(path, image_ids=rows + 1, neighbours=neighbours)


def write_small_files(folder: Path, num_images: int) -> Recipe:
    """Captions, labels, word pieces; the recipe that names them and `regions.tsv` beside them."""
    with (folder / "captions.json").open("w") as file:
        file.write('{"images": [], "annotations": [')
        for place, line in enumerate(_annotations(num_images)):
            file.write((", " if place else "") + line)
        file.write("]}")
    (folder / "objects_vocab.txt").write_text("\n".join(f"object{number}" for number in range(NUM_OBJECTS)))
    (folder / "attributes_vocab.txt").write_text("\n".join(f"attribute{number}" for number in range(NUM_ATTRIBUTES)))
    digits = [str(digit) for digit in range(10)]
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", *digits, *(f"##{digit}" for digit in digits), *WORDS]
    (folder / "vocab.txt").write_text("".join(f"{piece}\n" for piece in dict.fromkeys(pieces)))
    return Recipe(
        regions=(str(folder / "regions.tsv"),),
        objects_vocab=str(folder / "objects_vocab.txt"),
        attributes_vocab=str(folder / "attributes_vocab.txt"),
        captions=(str(folder / "captions.json"),),
        vocab=str(folder / "vocab.txt"),
        extractor="made up",
    )


def num_captions(number: int) -> int:
    """Captions of an image: five, and of the first images six, so that all of COCO's have 616,767."""
    return 6 if number < NUM_CAPTIONS - 5 * NUM_IMAGES else 5


def _annotations(num_images: int) -> Iterator[str]:
    for number in range(num_images):
        for ordinal in range(num_captions(number)):
            value = {"image_id": number + 1, "id": number * 10 + ordinal, "caption": caption(number, ordinal)}
            yield json.dumps(value)
