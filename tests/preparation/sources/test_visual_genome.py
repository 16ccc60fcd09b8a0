"""Visual Genome's phrases and duplicates."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from raw_files import write_json

from msp_ds.errors import InputError
from msp_ds.preparation.sources.text_files import TextFile, read_image_ids, read_texts
from msp_ds.preparation.sources.visual_genome import NO_DUPLICATES, read_duplicates


def phrases(path: Path) -> TextFile:
    return read_texts(str(path), "phrase")


def test_both_layouts_read_alike(tmp_path: Path) -> None:
    old = [{"id": 7, "regions": [{"id": 1, "image": 7, "phrase": " a  dog \n"}]}]
    new = [{"image_id": 7, "regions": [{"region_id": None, "image_id": 7, "phrase": "a dog", "height": None}]}]
    for value in (old, new):
        assert phrases(write_json(tmp_path / "a.json", value)).by_image == {"vg-7": ["a dog"]}


def test_null_and_empty_phrases_are_counted(tmp_path: Path) -> None:
    value = [{"id": 7, "regions": [{"phrase": None}, {"phrase": " "}]}, {"id": 8, "regions": [{"phrase": "dog"}]}]
    file = phrases(write_json(tmp_path / "a.json", value))
    assert (file.by_image, file.num_empty) == ({"vg-8": ["dog"]}, 2)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (
            "",
            "is not valid JSON, it is empty; it should be phrases in Visual Genome's .* or LXMERT's",
        ),
        ('{"id": 7}', "holds no phrase in a known layout"),
        ("[]", "holds no phrase in a known layout"),
        ('[{"id": 7, "regions": []}]', r"holds no phrase \(0 empty ones\)"),
        ('[{"id": 7, "regions": [{"phrase": "dog"}]}', "it is cut off or damaged"),
        ('[{"id": 7, "regions": [{"phra', "it is cut off or damaged"),
        ('[{"id": 7, "regions": []}, {"regions": []}]', "entry 1: has neither id nor image_id"),
        ('[{"id": "cat", "regions": []}]', "entry 0: 'cat' is no image id of vg"),
        ('[{"id": 7, "regions": []}, {"id": 8}]', "entry 1, image vg-8: has no list 'regions'"),
        ('[{"id": 7, "regions": {}}]', "entry 0, image vg-7: has no list 'regions'"),
        ('[{"id": 7, "regions": [{"text": "x"}]}]', "entry 0, image vg-7: a region has no phrase"),
        ('[{"id": 7, "regions": [{"phrase": 3}]}]', "entry 0, image vg-7: 3 is not a text"),
    ],
)
def test_another_layout_is_refused(tmp_path: Path, text: str, fault: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(InputError, match=f"a.json.* {fault}"):
        phrases(tmp_path / "a.json")


@pytest.mark.parametrize("member", ["objects", "attributes", "relationships", "qas"])
def test_other_files_of_visual_genome_name_images(tmp_path: Path, member: str) -> None:
    value = [{"image_id": 7, member: []}, {"id": 8, member: []}]
    assert read_image_ids(str(write_json(tmp_path / "a.json", value))) == {"vg-7", "vg-8"}


def test_duplicates_are_those_with_a_coco_id(tmp_path: Path) -> None:
    value = [{"image_id": 1, "coco_id": None}, {"image_id": 2, "coco_id": 30}, {"id": 3, "coco_id": 40}, {"id": 4}]
    table = read_duplicates(write_json(tmp_path / "a.json", value))
    assert table.coco_of == {"vg-2": "coco-30", "vg-3": "coco-40"}
    assert table.images == {"vg-1", "vg-2", "vg-3", "vg-4"}
    assert [table.picture(image_id) for image_id in ("vg-2", "vg-4", "coco-30")] == ["coco-30", "vg-4", "coco-30"]
    assert NO_DUPLICATES.picture("vg-2") == "vg-2"


@pytest.mark.parametrize("value", [{}, [], [7], [{"coco_id": 3}], [{"id": 1, "coco_id": "cat"}]])
def test_image_data_of_another_layout_is_refused(tmp_path: Path, value: Any) -> None:
    with pytest.raises(InputError, match=r"a.json"):
        read_duplicates(write_json(tmp_path / "a.json", value))


def test_missing_image_data_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"b.json is missing; it should be Visual Genome's image_data.json"):
        read_duplicates(tmp_path / "b.json")


def test_the_real_sample_loses_no_phrase(real_data: Path) -> None:
    path = real_data / "visual_genome" / "region_descriptions_sample.json"
    images = json.loads(path.read_text())
    file = phrases(path)
    assert len(file.by_image) == len(images) == 460
    assert sum(map(len, file.by_image.values())) == sum(len(image["regions"]) for image in images) == 14235


def test_the_official_examples_read(real_data: Path, tmp_path: Path) -> None:
    examples = json.loads((real_data / "visual_genome" / "layout_examples.json").read_text())
    for name in ("region_descriptions", "attributes", "relationships", "question_answers"):
        assert read_image_ids(str(write_json(tmp_path / "a.json", examples[name]))) == {"vg-1"}
    assert read_duplicates(write_json(tmp_path / "b.json", [examples["image_data"]])).images == {"vg-1"}
