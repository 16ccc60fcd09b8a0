"""Raw files in the official layouts, written by hand and not by the code under test."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from msp_ds.data.format.vocabulary import Vocabulary, parse_vocabulary
from msp_ds.preparation.recipe import Recipe

NUM_IMAGES, NUM_REGIONS, FEATURE_WIDTH = 6, 3, 4
WORDS = """
    a the red blue dog hound ball hat horse tail man wear ##ing on in is s 1 sign big and ' ? # , .
"""
PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS.split()]
VOCABULARY = "".join(f"{piece}\n" for piece in PIECES)
OBJECTS, ATTRIBUTES = "dog,hound\nball\nred hat", "red\nblue"


def vocabulary() -> Vocabulary:
    """The pieces above."""
    return parse_vocabulary(VOCABULARY.encode(), name="hand-made")


def ids(*pieces: str) -> list[int]:
    """Piece ids by eye."""
    return [PIECES.index(piece) for piece in pieces]


@dataclass
class Row:
    """One row of LXMERT's TSV, ready to be spoilt. Values depend on the image's number alone."""

    number: int
    image_id: str = ""
    height: Any = 48
    width: Any = 64
    num_boxes: Any = NUM_REGIONS
    object_ids: np.ndarray = field(default_factory=lambda: np.array([0, 2, -1], "<i8"))
    object_scores: np.ndarray = field(default_factory=lambda: np.array([0.9, 0.5, 0.0], "<f4"))
    attribute_ids: np.ndarray = field(default_factory=lambda: np.array([1, -1, 0], "<i8"))
    attribute_scores: np.ndarray = field(default_factory=lambda: np.array([0.8, 0.0, 0.3], "<f4"))
    boxes: np.ndarray = field(
        default_factory=lambda: np.array([[0, 0, 32, 24], [8, 8, 64, 48], [1.5, 2.5, 3.5, 4.5]], "<f4")
    )
    features: np.ndarray = field(default_factory=lambda: np.zeros(0))

    def __post_init__(self) -> None:
        self.image_id = self.image_id or f"COCO_val2014_{self.number:012d}"
        if not self.features.size:
            steps = np.arange(NUM_REGIONS * FEATURE_WIDTH, dtype="<f4").reshape(NUM_REGIONS, FEATURE_WIDTH)
            self.features = (self.number + steps / 7).astype("<f4")

    def columns(self) -> list[bytes]:
        """The ten columns."""
        arrays = (self.object_ids, self.object_scores, self.attribute_ids, self.attribute_scores)
        return [
            self.image_id.encode(),
            str(self.height).encode(),
            str(self.width).encode(),
            *(base64.b64encode(array.tobytes()) for array in arrays),
            str(self.num_boxes).encode(),
            base64.b64encode(self.boxes.tobytes()),
            base64.b64encode(self.features.tobytes()),
        ]

    def bottom_up_columns(self) -> list[bytes]:
        """Bottom-up attention's six columns: a plain number, the width first, no labels."""
        _, height, width, *_, num_boxes, boxes, features = self.columns()
        return [str(self.number).encode(), width, height, num_boxes, boxes, features]


def write_tsv(path: Path, rows: list[Row]) -> Path:
    """The rows as a TSV file."""
    return write_lines(path, [row.columns() for row in rows])


def write_lines(path: Path, rows: list[list[bytes]], *, end: bytes = b"\n") -> Path:
    """Rows of columns as a TSV file."""
    path.write_bytes(b"".join(b"\t".join(columns) + end for columns in rows))
    return path


def adaptive_row(number: int, num_boxes: int) -> Row:
    """An image with so many boxes, whose values depend on the two numbers."""
    steps = np.arange(num_boxes * FEATURE_WIDTH, dtype="<f4").reshape(num_boxes, FEATURE_WIDTH)
    corners = np.array([[0, 0, 32 + place % 16, 24] for place in range(num_boxes)], "<f4")
    return Row(number, num_boxes=num_boxes, boxes=corners, features=(number + steps / 7).astype("<f4"))


def write_npz(path: Path, **changes: Any) -> Path:
    """Two images, 1 and 2, as a generic archive, with some arrays replaced."""
    rows = [Row(1), Row(2)]
    arrays = {
        "image_id": np.array(["000000000001", "000000000002"]),
        "height": np.array([48, 48], np.int32),
        "width": np.array([64, 64], np.int32),
        "boxes": np.stack([row.boxes for row in rows]),
        "objects_id": np.stack([row.object_ids for row in rows]).astype(np.int16),
        "objects_conf": np.stack([row.object_scores for row in rows]),
        "attrs_id": np.stack([row.attribute_ids for row in rows]).astype(np.int16),
        "attrs_conf": np.stack([row.attribute_scores for row in rows]),
        "features": np.stack([row.features for row in rows]),
    }
    kept = {name: value for name, value in {**arrays, **changes}.items() if value is not None}
    np.savez(path, **kept)
    return path


def write_json(path: Path, value: Any) -> Path:
    """A JSON file."""
    path.write_text(json.dumps(value), encoding="utf-8")
    return path


def captions_json(captions: list[tuple[Any, Any]]) -> dict[str, Any]:
    """COCO's layout around (image number, caption)."""
    return {
        "info": {},
        "licenses": [],
        "images": [{"id": number} for number, _ in captions],
        "annotations": [
            {"image_id": number, "id": place, "caption": text} for place, (number, text) in enumerate(captions)
        ],
    }


def karpathy_json(images: list[tuple[str, int, list[str]]]) -> dict[str, Any]:
    """dataset_coco.json around (split, COCO's number, sentences)."""
    return {
        "images": [
            {
                "filepath": "val2014",
                "filename": f"COCO_val2014_{number:012d}.jpg",
                "imgid": place,
                "cocoid": number,
                "split": split,
                "sentids": [],
                "sentences": [{"tokens": text.split(), "raw": text, "imgid": place, "sentid": 0} for text in texts],
            }
            for place, (split, number, texts) in enumerate(images)
        ],
        "dataset": "coco",
    }


@dataclass(frozen=True)
class RawFolder:
    """A folder of raw files and the recipe that names them."""

    path: Path
    recipe: Recipe

    @classmethod
    def write(cls, path: Path) -> RawFolder:
        """Images 1 to 6 of COCO; Visual Genome's 101 and 102 are COCO's 1 and 2."""
        path.mkdir()
        numbers = range(1, NUM_IMAGES + 1)
        write_tsv(path / "regions.tsv", [Row(number) for number in numbers])
        (path / "objects_vocab.txt").write_text(OBJECTS)
        (path / "attributes_vocab.txt").write_text(ATTRIBUTES)
        (path / "vocab.txt").write_text(VOCABULARY)
        captions = [(number, text) for number in numbers for text in ("A red dog.", " the horse\n on a  ball ")]
        write_json(path / "captions.json", captions_json(captions))
        phrases = {101: ["Red hat.", "man wearing hat", "red  hat", "a big dog", None], 102: ["the tail"]}
        regions = [
            {"id": number, "regions": [{"phrase": phrase} for phrase in texts]} for number, texts in phrases.items()
        ]
        write_json(path / "region_descriptions.json", regions)
        duplicates = [
            {"image_id": 101, "coco_id": 1},
            {"image_id": 102, "coco_id": 2},
            {"image_id": 103, "coco_id": None},
        ]
        write_json(path / "image_data.json", duplicates)
        neighbours = np.array([[place, (place + 1) % 6, (place + 2) % 6] for place in range(6)], np.int32)
        np.savez(path / "hard_negatives.npz", image_ids=np.array(list(numbers)), neighbours=neighbours)
        return cls(path, cls._recipe(path))

    @staticmethod
    def _recipe(path: Path) -> Recipe:
        return Recipe(
            regions=(str(path / "regions.tsv"),),
            objects_vocab=str(path / "objects_vocab.txt"),
            attributes_vocab=str(path / "attributes_vocab.txt"),
            captions=(str(path / "captions.json"),),
            phrases=(str(path / "region_descriptions.json"),),
            image_data=str(path / "image_data.json"),
            hard_negatives=str(path / "hard_negatives.npz"),
            vocab=str(path / "vocab.txt"),
            extractor="by hand",
        )


def snapshot(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, byte for byte."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
