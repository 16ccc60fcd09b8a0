"""ViLBERT's .jsonline and LXMERT-S' Flickr30k lists."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from raw_files import write_json

from msp_ds.errors import InputError
from msp_ds.preparation.sources.text_files import read_texts

TWO = [
    {"sentences": ["A man.", " a  dog\n"], "id": 0, "img_path": "1007129816.jpg"},
    {"sentences": ["x"], "id": 1, "img_path": "36979.jpg"},
]


def write_lines(path: Path, values: list[Any]) -> str:
    path.write_text("".join(json.dumps(value) + "\n" for value in values))
    return str(path)


def test_vilberts_flickr_images_are_known_by_their_file(tmp_path: Path) -> None:
    written = write_lines(tmp_path / "all_data_final_train_2014.jsonline", TWO)
    expected = {"f30k-1007129816": ["A man.", "a dog"], "f30k-36979": ["x"]}
    assert read_texts(written, "caption").by_image == expected


@pytest.mark.parametrize(
    "image",
    [
        {"sentences": ["x"], "id": 391895},
        {"sentences": ["x"], "id": 391895, "img_path": "COCO_val2014_000000391895.jpg"},
        {"sentences": ["x"], "id": 391895, "img_path": "val2014/COCO_val2014_000000391895.jpg"},
        {"sentences": ["x"], "id": 391895, "img_path": "000000391895.jpg"},
    ],
)
def test_vilberts_coco_images_are_known_by_their_number(tmp_path: Path, image: dict[str, Any]) -> None:
    assert read_texts(write_lines(tmp_path / "a.jsonline", [image]), "caption").by_image == {"coco-391895": ["x"]}


def test_the_corpus_in_front_of_the_path_decides_where_a_file_does_not_tell(tmp_path: Path) -> None:
    image = {"sentences": ["x"], "id": 391895, "img_path": "391895.jpg"}
    written = write_lines(tmp_path / "a.jsonline", [image])
    assert list(read_texts(written, "caption").by_image) == ["f30k-391895"]
    assert list(read_texts(f"coco:{written}", "caption").by_image) == ["coco-391895"]


def test_the_list_of_lxmert_s_reads_alike(tmp_path: Path) -> None:
    images = [{"img_path": image["img_path"], "sentences": image["sentences"]} for image in TWO]
    file = read_texts(str(write_json(tmp_path / "flickr30k_train2014.json", images)), "caption")
    assert file.by_image == {"f30k-1007129816": ["A man.", "a dog"], "f30k-36979": ["x"]}


@pytest.mark.parametrize(
    ("image", "fault"),
    [
        ({"id": 7}, "has no sentences"),
        ({"sentences": ["x"]}, "has neither img_path nor id"),
        ({"sentences": "x", "id": 7}, "'x' is not a list of texts"),
        ({"sentences": [7], "id": 7}, "7 is not a text"),
        ({"sentences": ["x"], "img_path": "cat.jpg"}, "'cat.jpg' is no image id of f30k"),
        ({"sentences": ["x"], "img_path": ["7.jpg"]}, "is no image id"),
    ],
)
def test_an_image_of_another_form_is_refused(tmp_path: Path, image: dict[str, Any], fault: str) -> None:
    with pytest.raises(InputError, match=f"a.jsonline line 3: .*{fault}"):
        read_texts(write_lines(tmp_path / "a.jsonline", [*TWO, image]), "caption")


def test_a_cut_line_is_refused(tmp_path: Path) -> None:
    written = write_lines(tmp_path / "a.jsonline", TWO)
    Path(written).write_text(Path(written).read_text()[:-20])
    with pytest.raises(InputError, match=r"a.jsonline line 2: is not valid JSON"):
        read_texts(written, "caption")
