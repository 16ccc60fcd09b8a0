"""Any text file by its content, and lists of image ids."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from raw_files import captions_json, write_json

from msp_ds.data.sources.mentions import parse_reference
from msp_ds.data.sources.text_files import read_image_ids, read_texts
from msp_ds.errors import InputError


def test_a_reference_may_say_corpus_and_splits(tmp_path: Path) -> None:
    file = parse_reference("f30k:data/dataset.json#val+test")
    assert (file.corpus, file.path, file.splits) == ("f30k", Path("data/dataset.json"), ("val", "test"))
    plain = parse_reference("data/a.json")
    assert (plain.corpus, plain.path, plain.splits) == (None, Path("data/a.json"), ())
    (tmp_path / "a#1.json").write_text("")
    assert parse_reference(f"{tmp_path}/a#1.json").splits == ()


def test_a_list_of_ids_may_be_lines_or_json(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(
        "# Karpathy's test\n\nCOCO_val2014_000000391895.jpg 391895\n7\nvg-5 coco-8  # twin\n"
    )
    write_json(tmp_path / "a.json", [391895, "7", "vg-5", "coco-8"])
    for name in ("a.txt", "a.json"):
        assert read_image_ids(str(tmp_path / name)) == {"coco-391895", "coco-7", "vg-5", "coco-8"}


def test_numbers_of_a_list_are_of_the_corpus_in_front_of_the_path(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("7\nn12\n")
    assert read_image_ids(f"vg:{tmp_path}/a.txt") == {"vg-7", "vg-n12"}


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "names no image; it should be image ids, one a line"),
        ("# none\n", "names no image"),
        ("7\nimage_id,split\n", "line 2: 'image_id,split' is no image id of coco"),
        ("[]", "names no image"),
        ("[7, {}]", "entry 1: is no image id, and its layout is unknown"),
        ('[{"photo": 7}]', "entry 0: is no image id, and its layout is unknown"),
        ('{"train": [7]}', "train 0: is no image id"),
        ('["cat"]', "entry 0: 'cat' is no image id"),
        ("[7", "it is cut off or damaged"),
    ],
)
def test_what_names_no_image_is_refused(tmp_path: Path, text: str, fault: str) -> None:
    (tmp_path / "a").write_text(text)
    with pytest.raises(InputError, match=f"/a .*{fault}|/a {fault}"):
        read_image_ids(str(tmp_path / "a"))


def test_files_that_are_missing_or_no_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"7\n" * 3000 + b"\xff")
    with pytest.raises(InputError, match=r"a.txt is no UTF-8 text"):
        read_image_ids(str(tmp_path / "a.txt"))
    with pytest.raises(InputError, match=r"b.txt is missing"):
        read_image_ids(str(tmp_path / "b.txt"))


@pytest.mark.parametrize("read", [read_image_ids, lambda written: read_texts(written, "caption")])
def test_splits_of_a_file_without_them_are_refused(tmp_path: Path, read: Any) -> None:
    path = write_json(tmp_path / "a.json", captions_json([(7, "dog")]))
    with pytest.raises(InputError, match=r"a.json has no splits to choose #val from; it is captions in COCO's"):
        read(f"{path}#val")


def test_captions_are_no_phrases_but_hold_them(tmp_path: Path) -> None:
    path = write_json(tmp_path / "a.json", captions_json([(7, "dog")]))
    with pytest.raises(
        InputError, match=r"holds no phrase .* looks like captions in COCO's .*; it should be Visual Genome"
    ):
        read_texts(str(path), "phrase")
