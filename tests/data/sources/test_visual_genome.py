"""Visual Genome's phrases and twins."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from raw_files import write_json

from msp_ds.data.sources import visual_genome
from msp_ds.data.sources.visual_genome import read_phrases, read_twins
from msp_ds.errors import InputError


def test_both_layouts_read_alike(tmp_path: Path) -> None:
    old = [{"id": 7, "regions": [{"id": 1, "image": 7, "phrase": " a  dog \n"}]}]
    new = [{"image_id": 7, "regions": [{"region_id": None, "image_id": 7, "phrase": "a dog", "height": None}]}]
    for value in (old, new):
        assert read_phrases(write_json(tmp_path / "a.json", value), twins={}).by_image == {"vg-7": ["a dog"]}


def test_phrases_join_the_twin_where_there_is_one(tmp_path: Path) -> None:
    value = [{"id": number, "regions": [{"phrase": f"dog {number}"}]} for number in (7, 8, 9)]
    file = read_phrases(write_json(tmp_path / "a.json", value), twins={"vg-7": "coco-70", "vg-9": "coco-70"})
    assert file.by_image == {"coco-70": ["dog 7", "dog 9"], "vg-8": ["dog 8"]}


def test_null_and_empty_phrases_are_counted(tmp_path: Path) -> None:
    value = [{"id": 7, "regions": [{"phrase": None}, {"phrase": " "}]}, {"id": 8, "regions": [{"phrase": "dog"}]}]
    file = read_phrases(write_json(tmp_path / "a.json", value), twins={})
    assert (file.by_image, file.num_empty) == ({"vg-8": ["dog"]}, 2)


@pytest.mark.parametrize("chunk", [1, 2, 7, 64])
def test_the_size_of_the_chunks_does_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    value = [{"id": number, "regions": [{"phrase": f'a "]" \u00e9 [{number}'}]} for number in (7, 80, 900)]
    (tmp_path / "a.json").write_text(json.dumps(value, indent=1), encoding="utf-8")
    monkeypatch.setattr(visual_genome, "_CHUNK", chunk)
    file = read_phrases(tmp_path / "a.json", twins={})
    assert file.by_image == {f"vg-{number}": [f'a "]" \u00e9 [{number}'] for number in (7, 80, 900)}


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "is no JSON list"),
        ('{"id": 7}', "is no JSON list"),
        ("[]", "holds no phrase"),
        ('[{"id": 7, "regions": []}]', "holds no phrase"),
        ('[{"id": 7, "regions": [{"phrase": "dog"}]}', "it is cut off or damaged"),
        ('[{"id": 7, "regions": [{"phra', "it is cut off or damaged"),
        ('[{"regions": []}]', "entry 0: has neither id nor image_id"),
        ('[{"id": "cat", "regions": []}]', "entry 0: 'cat' is no image id of vg"),
        ('[{"id": 7}]', "entry 0, image vg-7: has no list 'regions'"),
        ('[{"id": 7, "regions": [{"text": "x"}]}]', "entry 0, image vg-7: a region has no phrase"),
        ('[{"id": 7, "regions": [{"phrase": 3}]}]', "entry 0, image vg-7: the phrase 3 is no text"),
    ],
)
def test_another_layout_is_refused(tmp_path: Path, text: str, fault: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(InputError, match=f"a.json.* {fault}"):
        read_phrases(tmp_path / "a.json", twins={})


def test_missing_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"b.json cannot be read"):
        read_phrases(tmp_path / "b.json", twins={})
    with pytest.raises(InputError, match=r"b.json is missing"):
        read_twins(tmp_path / "b.json")


def test_twins_are_those_with_a_coco_id(tmp_path: Path) -> None:
    value = [{"image_id": 1, "coco_id": None}, {"image_id": 2, "coco_id": 30}, {"id": 3, "coco_id": 40}, {"id": 4}]
    assert read_twins(write_json(tmp_path / "a.json", value)) == {"vg-2": "coco-30", "vg-3": "coco-40"}


@pytest.mark.parametrize("value", [{}, [7], [{"coco_id": 3}], [{"id": 1, "coco_id": "cat"}]])
def test_image_data_of_another_layout_is_refused(tmp_path: Path, value: Any) -> None:
    with pytest.raises(InputError, match=r"a.json"):
        read_twins(write_json(tmp_path / "a.json", value))


def test_the_real_sample_loses_no_phrase(real_data: Path) -> None:
    path = real_data / "visual_genome" / "region_descriptions_sample.json"
    images = json.loads(path.read_text())
    file = read_phrases(path, twins={})
    assert len(file.by_image) == len(images) == 460
    assert sum(map(len, file.by_image.values())) == sum(len(image["regions"]) for image in images) == 14235
