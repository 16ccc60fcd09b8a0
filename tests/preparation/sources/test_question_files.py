"""Files of questions, of which the images are asked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from raw_files import write_json

from msp_ds.errors import InputError
from msp_ds.preparation.sources.text_files import read_image_ids, read_texts

LAYOUTS: dict[str, tuple[Any, set[str]]] = {
    "VQA questions": ({"info": {}, "questions": [{"image_id": 7, "question_id": 7000, "question": "?"}]}, {"coco-7"}),
    "VQA annotations": ({"annotations": [{"image_id": 7, "question_id": 7000, "answers": []}]}, {"coco-7"}),
    "LXMERT's VQA": ([{"img_id": "COCO_val2014_000000000007", "sent": "?", "label": {}}], {"coco-7"}),
    "GQA": ({"02": {"imageId": "2375429", "question": "?"}, "03": {"imageId": "n16"}}, {"vg-2375429", "vg-n16"}),
    "LXMERT's GQA": ([{"img_id": "2375429", "sent": "?", "question_id": "02"}], {"vg-2375429"}),
    "LXMERT's NLVR2": (
        [{"identifier": "train-10171-0-0", "img0": "train-10171-0-img0", "img1": "x", "label": 0, "sent": "."}],
        {"nlvr2-train-10171-0-img0", "nlvr2-train-10171-0-img1"},
    ),
}


@pytest.mark.parametrize(("value", "expected"), LAYOUTS.values(), ids=LAYOUTS)
def test_the_images_of_each_layout_are_found(tmp_path: Path, value: Any, expected: set[str]) -> None:
    assert read_image_ids(str(write_json(tmp_path / "a.json", value))) == expected


def test_nlvr2s_official_lines_name_two_images_a_pair(tmp_path: Path) -> None:
    lines = [{"identifier": f"dev-850-0-{sentence}", "sentence": "x"} for sentence in (0, 1)]
    (tmp_path / "dev.json").write_text("\n".join(map(json.dumps, lines)))
    assert read_image_ids(str(tmp_path / "dev.json")) == {"nlvr2-dev-850-0-img0", "nlvr2-dev-850-0-img1"}


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        ([{"identifier": "x"}], "entry 0: the identifier 'x' should be"),
        ([{"identifier": "dev-1-2"}], "entry 0: 'dev-1-img0' is no image id of nlvr2"),
        ({"1": {"imageId": "7"}, "2": {"question": "?"}}, "2: has no imageId"),
        ([{"img_id": "7", "sent": "?"}, {"sent": "?"}], "entry 1: has no img_id"),
    ],
)
def test_an_entry_of_another_form_is_refused(tmp_path: Path, value: Any, fault: str) -> None:
    with pytest.raises(InputError, match=f"a.json {fault}"):
        read_image_ids(str(write_json(tmp_path / "a.json", value)))


def test_questions_are_no_captions(tmp_path: Path) -> None:
    path = write_json(tmp_path / "a.json", LAYOUTS["GQA"][0])
    with pytest.raises(InputError, match=r"holds no caption .* but is GQA's questions"):
        read_texts(str(path), "caption")


def test_the_real_samples_name_their_images(real_data: Path) -> None:
    expected = {
        "vqa/questions.json": {"coco-458752"},
        "gqa/questions.json": {"vg-n578564"},
        "gqa/questions0.json": {"vg-n578564"},
    }
    for name, image_ids in expected.items():
        assert read_image_ids(str(real_data / name)) == image_ids
    with pytest.raises(InputError, match="its layout is unknown"):  # this sample lost its image_id
        read_image_ids(str(real_data / "vqa" / "annotations.json"))
    lines = (real_data / "nlvr2" / "balanced_dev_sample.json").read_text().splitlines()
    pairs = {json.loads(line)["identifier"].rsplit("-", 1)[0] for line in lines}
    found = read_image_ids(str(real_data / "nlvr2" / "balanced_dev_sample.json"))
    assert found == {f"nlvr2-{pair}-img{side}" for pair in pairs for side in (0, 1)}
