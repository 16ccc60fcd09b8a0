"""COCO's captions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from raw_files import captions_json, write_json

from msp_ds.data.sources.coco import read_captions
from msp_ds.errors import InputError
from msp_ds.records import Caption


def test_captions_are_gathered_by_image_with_white_space_squeezed(tmp_path: Path) -> None:
    value = captions_json([(7, "A dog.\n"), (8, "  a  red\tball "), (7, "A dog.")])
    file = read_captions(write_json(tmp_path / "a.json", value))
    assert file.by_image == {
        "coco-7": [Caption(image_id="coco-7", text="A dog."), Caption(image_id="coco-7", text="A dog.")],
        "coco-8": [Caption(image_id="coco-8", text="a red ball")],
    }


def test_empty_captions_are_left_out_and_counted(tmp_path: Path) -> None:
    file = read_captions(write_json(tmp_path / "a.json", captions_json([(7, " \n"), (8, "dog"), (9, "")])))
    assert (list(file.by_image), file.num_empty) == (["coco-8"], 2)


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        ([], "has no list 'annotations'"),
        ({"annotations": {}}, "has no list 'annotations'"),
        (captions_json([]), r"holds no caption \(0 empty ones\)"),
        (captions_json([(7, " ")]), r"holds no caption \(1 empty ones\)"),
        ({"annotations": [{"caption": "x"}]}, "annotation 0: has no image_id"),
        ({"annotations": [{"image_id": 7, "bbox": []}]}, "annotation 0: has no caption"),
        ({"annotations": [7]}, "annotation 0: has no image_id"),
        (captions_json([(7, "dog"), ("cat", "dog")]), "annotation 1: 'cat' is no image id"),
    ],
)
def test_another_layout_is_refused(tmp_path: Path, value: Any, fault: str) -> None:
    with pytest.raises(InputError, match=f"a.json.* {fault}"):
        read_captions(write_json(tmp_path / "a.json", value))


def test_a_missing_or_cut_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"b.json is missing"):
        read_captions(tmp_path / "b.json")
    (tmp_path / "a.json").write_text('{"annotations": [')
    with pytest.raises(InputError, match=r"a.json should be captions"):
        read_captions(tmp_path / "a.json")


def test_the_real_sample_loses_no_caption(real_data: Path) -> None:
    path = real_data / "coco" / "captions_val2017_sample.json"
    file = read_captions(path)
    assert sum(map(len, file.by_image.values())) + file.num_empty == len(json.loads(path.read_text())["annotations"])
    assert (len(file.by_image), file.num_empty) == (512, 0)
