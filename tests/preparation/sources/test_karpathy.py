"""Karpathy's splits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from raw_files import karpathy_json, write_json

from msp_ds.errors import InputError
from msp_ds.preparation.sources.text_files import read_image_ids, read_texts

# imgid, which counts from 0, is not COCO's number.
COCO = karpathy_json(
    [("train", 70, ["A dog.", " a  ball\n"]), ("restval", 71, ["x"]), ("val", 72, ["y"]), ("test", 73, ["z"])]
)


def test_train_and_restval_are_read_when_nothing_is_said(tmp_path: Path) -> None:
    file = read_texts(str(write_json(tmp_path / "dataset_coco.json", COCO)), "caption")
    assert file.by_image == {"coco-70": ["A dog.", "a ball"], "coco-71": ["x"]}


@pytest.mark.parametrize(
    ("splits", "expected"),
    [("test", ["coco-73"]), ("val+test", ["coco-72", "coco-73"]), ("train", ["coco-70"])],
)
def test_the_path_names_splits(tmp_path: Path, splits: str, expected: list[str]) -> None:
    path = write_json(tmp_path / "dataset_coco.json", COCO)
    assert list(read_texts(f"{path}#{splits}", "caption").by_image) == expected


def test_flickr_images_are_known_by_the_stem_of_their_file(tmp_path: Path) -> None:
    value = {
        "images": [
            {
                "filename": "1007129816.jpg",
                "imgid": 0,
                "split": "train",
                "sentences": [{"raw": "A man.", "tokens": []}],
            },
        ],
        "dataset": "flickr30k",
    }
    path = write_json(tmp_path / "dataset_flickr30k.json", value)
    assert read_texts(str(path), "caption").by_image == {"f30k-1007129816": ["A man."]}


def test_a_list_of_images_demands_that_the_split_is_chosen(tmp_path: Path) -> None:
    path = write_json(tmp_path / "dataset_coco.json", COCO)
    assert read_image_ids(f"{path}#val+test") == {"coco-72", "coco-73"}
    with pytest.raises(InputError, match=r"holds several splits; choose some, as in .*dataset_coco.json#test"):
        read_image_ids(str(path))


@pytest.mark.parametrize("splits", ["tset", "test+", "test+tset", ""])
def test_a_split_that_is_not_there_is_refused_with_those_that_are(tmp_path: Path, splits: str) -> None:
    path = write_json(tmp_path / "a.json", COCO)
    with pytest.raises(InputError, match=r"has no split '(tset)?'; its splits are restval, test, train, val"):
        read_texts(f"{path}#{splits}", "caption")


@pytest.mark.parametrize(
    ("image", "fault"),
    [
        ({"split": "train", "sentences": []}, "has no filename"),
        ({"split": "train", "filename": "a.jpg", "sentences": []}, "'a.jpg' is no image id of f30k"),
        ({"split": "train", "filename": "7.jpg", "sentences": [{"tokens": ["a"]}]}, "a sentence has no 'raw'"),
        ({"split": "train", "filename": "7.jpg", "sentences": "a"}, "a sentence has no 'raw'"),
        ({"split": "train", "filename": "7.jpg", "sentences": [{"raw": 3}]}, "3 is not a text"),
        ({"split": ["train"], "filename": "7.jpg", "sentences": []}, "is not a text"),
    ],
)
def test_an_image_of_another_form_is_refused(tmp_path: Path, image: dict[str, Any], fault: str) -> None:
    path = write_json(tmp_path / "a.json", {"images": [*COCO["images"], image]})
    with pytest.raises(InputError, match=rf"a.json image 4: .*{fault}"):
        read_texts(str(path), "caption")
