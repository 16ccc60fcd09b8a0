"""Image files are found under any name that their corpus gives them."""

from __future__ import annotations

from pathlib import Path

import pytest

from msp_ds.errors import InputError
from msp_ds.report.pages.picture_files import find_pictures


def test_files_are_found_by_every_name_of_an_image(tmp_path: Path) -> None:
    names = [
        "COCO_val2014_000000000007.jpg",
        "000000000008.JPG",
        "below/9.png",
        "train-1-0-img1.png",
        "10.txt",
        "a.jpg",
    ]
    (tmp_path / "below").mkdir()
    for name in names:
        (tmp_path / name).write_bytes(b"")
    wanted = ["coco-7", "coco-8", "coco-9", "coco-10", "coco-11", "nlvr2-train-1-0-img1"]
    assert find_pictures(tmp_path, wanted) == {
        "coco-7": tmp_path / names[0],
        "coco-8": tmp_path / names[1],
        "coco-9": tmp_path / names[2],
        "nlvr2-train-1-0-img1": tmp_path / names[3],
    }


def test_plain_numbers_are_of_the_corpus_that_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "2375429.jpg").write_bytes(b"")
    assert find_pictures(tmp_path, ["vg-2375429"]) == {"vg-2375429": tmp_path / "2375429.jpg"}
    assert find_pictures(tmp_path, ["f30k-7"]) == {}


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="val2014 is no folder; name the one that holds the image files"):
        find_pictures(tmp_path / "val2014", ["coco-7"])
