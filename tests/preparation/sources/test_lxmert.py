"""LXMERT's pre-training JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from raw_files import write_json

from msp_ds.errors import InputError
from msp_ds.preparation.sources.text_files import read_image_ids, read_texts

IMAGES = [
    {
        "img_id": "COCO_val2014_000000000042",
        "labelf": {"vqa": [{"yes": 1.0}]},
        "sentf": {"mscoco": ["A dog. ", ""], "vg": ["red hat", "the  tail"], "vqa": ["Is it?"]},
    },
    {"img_id": "2375429", "labelf": {}, "sentf": {"vg": ["a ball"], "gqa": ["What?"]}},
    {"img_id": "COCO_train2014_000000000009", "labelf": {}, "sentf": {"vqa": ["Why?"]}},
]


@pytest.fixture
def written(tmp_path: Path) -> str:
    return str(write_json(tmp_path / "mscoco_minival.json", IMAGES))


def test_captions_are_the_category_mscoco(written: str) -> None:
    file = read_texts(written, "caption")
    assert (file.by_image, file.num_empty) == ({"coco-42": ["A dog."]}, 1)


def test_phrases_are_the_category_vg_and_bare_numbers_are_visual_genomes(written: str) -> None:
    assert read_texts(written, "phrase").by_image == {"coco-42": ["red hat", "the tail"], "vg-2375429": ["a ball"]}


def test_images_with_questions_alone_are_named_too(written: str) -> None:
    assert read_image_ids(written) == {"coco-42", "vg-2375429", "coco-9"}


def test_a_file_without_captions_says_that_it_holds_phrases(tmp_path: Path) -> None:
    path = write_json(tmp_path / "vgnococo.json", IMAGES[1:2])
    with pytest.raises(InputError, match=r"vgnococo.json holds no caption .*; its phrases are for --phrases"):
        read_texts(str(path), "caption")


@pytest.mark.parametrize(
    ("image", "fault"),
    [
        ({"img_id": "42"}, "has no sentf"),
        ({"sentf": {}}, "has no img_id"),
        ({"img_id": "42", "sentf": []}, "sentf is not an object"),
        ({"img_id": "42", "sentf": {"vg": "x"}}, "'x' is not a list of texts"),
        ({"img_id": "42", "sentf": {"mscoco": [7]}}, "7 is not a text"),
        ({"img_id": "cat", "sentf": {}}, "'cat' is no image id of vg"),
    ],
)
def test_an_image_of_another_form_is_refused(tmp_path: Path, image: dict[str, Any], fault: str) -> None:
    with pytest.raises(InputError, match=f"a.json entry 3: .*{fault}"):
        read_texts(str(write_json(tmp_path / "a.json", [*IMAGES, image])), "phrase")
