"""COCO's layout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from raw_files import captions_json, write_json

from msp_ds.errors import InputError
from msp_ds.preparation.sources.text_files import read_image_ids, read_texts


def test_captions_are_gathered_by_image_with_white_space_squeezed(tmp_path: Path) -> None:
    value = captions_json([(7, "A dog.\n"), (8, "  a  red\tball "), (7, "A dog.")])
    file = read_texts(str(write_json(tmp_path / "a.json", value)), "caption")
    assert file.by_image == {"coco-7": ["A dog.", "A dog."], "coco-8": ["a red ball"]}


def test_the_files_of_2017_read_as_those_of_2014(tmp_path: Path) -> None:
    value = captions_json([(397133, "A man.")])
    value["images"] = [{"id": 397133, "file_name": "000000397133.jpg", "height": 427, "width": 640}]
    assert read_texts(str(write_json(tmp_path / "a.json", value)), "caption").by_image == {"coco-397133": ["A man."]}


def test_the_order_of_the_lists_does_not_matter(tmp_path: Path) -> None:
    value = captions_json([(7, "A dog.")])
    write_json(tmp_path / "a.json", dict(reversed(value.items())))
    assert read_texts(str(tmp_path / "a.json"), "caption").by_image == {"coco-7": ["A dog."]}


def test_empty_captions_are_left_out_and_counted(tmp_path: Path) -> None:
    file = read_texts(str(write_json(tmp_path / "a.json", captions_json([(7, " \n"), (8, "dog"), (9, "")]))), "caption")
    assert (list(file.by_image), file.num_empty) == (["coco-8"], 2)


def test_another_corpus_may_stand_in_front_of_the_path(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", captions_json([(7, "dog")]))
    assert list(read_texts(f"f30k:{tmp_path}/a.json", "caption").by_image) == ["f30k-7"]


def test_own_pictures_are_named_by_their_files(tmp_path: Path) -> None:
    value = captions_json([(7, "A dog."), (8, "A cat."), (7, "Its tail.")])
    value["images"] = [{"id": 7, "file_name": "photos/Dog 1.jpg"}, {"id": 8, "file_name": "cat.png"}]
    expected = {"own-dog-1": ["A dog.", "Its tail."], "own-cat": ["A cat."]}
    for ordered in (value, dict(reversed(value.items()))):
        write_json(tmp_path / "a.json", ordered)
        assert read_texts(f"own:{tmp_path}/a.json", "caption").by_image == expected
        assert read_image_ids(f"own:{tmp_path}/a.json") == expected.keys()


def test_an_own_picture_without_a_file_is_refused(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", captions_json([(7, "A dog.")]))
    with pytest.raises(InputError, match=r"image 0: has no file_name; it should be COCO's JSON layout"):
        read_texts(f"own:{tmp_path}/a.json", "caption")
    value = captions_json([(7, "A dog.")]) | {"images": [{"id": 8, "file_name": "a.jpg"}]}
    write_json(tmp_path / "a.json", value)
    with pytest.raises(InputError, match=r"annotation 0: image 7 is not in the list images; add it with its id"):
        read_texts(f"own:{tmp_path}/a.json", "caption")


def test_images_without_captions_are_named_too(tmp_path: Path) -> None:
    value = {"images": [{"id": 7}, {"id": 8}], "annotations": [{"image_id": 9, "bbox": []}]}
    assert read_image_ids(str(write_json(tmp_path / "a.json", value))) == {"coco-7", "coco-8", "coco-9"}


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        ([], "holds no caption in a known layout; it should be captions in COCO's"),
        ({"annotations": {}}, "holds no caption in a known layout"),
        (captions_json([]), "holds no caption in a known layout"),
        (captions_json([(7, " ")]), r"holds no caption \(1 empty ones\)"),
        (
            {"annotations": [{"image_id": 7, "bbox": []}]},
            r"holds no caption \(0 empty ones\), .*; it should be captions",
        ),
        ({"annotations": [{"image_id": 7, "caption": "x"}, {"caption": "x"}]}, "annotation 1: has no image_id"),
        ({"annotations": [{"image_id": 7, "caption": "x"}, 7]}, "annotation 1: is not an object"),
        ({"annotations": [{"image_id": 7, "caption": "x"}, {"image_id": 7}]}, "annotation 1: has no caption, unlike"),
        ({"annotations": [{"image_id": 7}, {"image_id": 7, "caption": "x"}]}, "annotation 1: has a caption, unlike"),
        ({"annotations": [{"image_id": 7, "caption": ["x"]}]}, r"annotation 0: \['x'\] is not a text"),
        ({"annotations": [{"image_id": None, "caption": "x"}]}, "annotation 0: None is not an image id"),
        (captions_json([(7, "dog"), ("cat", "dog")]), "image 1: 'cat' is no image id"),
        (captions_json([(7, "\ud83d dog")]), "annotation 0: .* holds half a character"),
    ],
)
def test_another_layout_is_refused(tmp_path: Path, value: Any, fault: str) -> None:
    with pytest.raises(InputError, match=f"a.json.* {fault}"):
        read_texts(str(write_json(tmp_path / "a.json", value)), "caption")


def test_a_missing_or_cut_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"b.json is missing; it should be captions"):
        read_texts(str(tmp_path / "b.json"), "caption")
    (tmp_path / "a.json").write_text('{"annotations": [{"image_id": 7, "caption": "x"}')
    with pytest.raises(InputError, match=r"a.json is not valid JSON \(it ends too early\)"):
        read_texts(str(tmp_path / "a.json"), "caption")


def test_the_real_sample_loses_no_caption(real_data: Path) -> None:
    path = real_data / "coco" / "captions_val2017_sample.json"
    file = read_texts(str(path), "caption")
    assert sum(map(len, file.by_image.values())) + file.num_empty == len(json.loads(path.read_text())["annotations"])
    assert (len(file.by_image), file.num_empty) == (512, 0)
