"""Any text file by its content, and lists of image ids."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from raw_files import captions_json, karpathy_json, write_json

from msp_ds.errors import InputError
from msp_ds.preparation.parsing.json_stream import iterate_items
from msp_ds.preparation.sources import text_files
from msp_ds.preparation.sources.mentions import parse_reference
from msp_ds.preparation.sources.text_files import read_image_ids, read_texts


def test_a_reference_may_say_corpus_and_splits(tmp_path: Path) -> None:
    file = parse_reference("f30k:data/dataset.json#val+test")
    assert (file.corpus, file.path, file.splits) == ("f30k", Path("data/dataset.json"), ("val", "test"))
    plain = parse_reference("data/a.json")
    assert (plain.corpus, plain.path, plain.splits) == (None, Path("data/a.json"), ())
    (tmp_path / "a#1.json").write_text("")
    assert parse_reference(f"{tmp_path}/a#1.json").splits == ()


def test_a_list_of_ids_may_be_lines_or_json(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(
        "# Karpathy's test\n\nCOCO_val2014_000000391895.jpg 391895\n7\nvg-5 coco-8  # duplicate\n"
    )
    write_json(tmp_path / "a.json", [391895, "7", "vg-5", "coco-8"])
    for name in ("a.txt", "a.json"):
        assert read_image_ids(str(tmp_path / name)) == {"coco-391895", "coco-7", "vg-5", "coco-8"}


def test_a_list_of_own_pictures_has_one_name_a_line(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("# mine\n\nIMG 2031 #3.jpg\n  dog.png \ncoco-7\n")
    assert read_image_ids(f"own:{tmp_path}/a.txt") == {"own-img-2031-3", "own-dog", "coco-7"}


def test_a_csv_of_captions_names_images_too(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("file,caption\nIMG 2031.jpg,A dog.\ndog.png,x\n")
    assert read_image_ids(f"{tmp_path}/a.csv") == {"own-img-2031", "own-dog"}


def test_a_caption_of_zero_width_characters_alone_counts_as_empty(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", captions_json([(1, "\u200b\ufeff"), (1, "a dog\u200b"), (2, "\u202e")]))
    read = read_texts(str(tmp_path / "a.json"), "caption")
    assert (dict(read.by_image.items()), read.num_empty) == ({"coco-1": ["a dog\u200b"]}, 2)


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
        ("[7, {}]", "entry 1: is not an image id, and its layout is unknown"),
        ('[{"photo": 7}]', "entry 0: is not an image id, and its layout is unknown"),
        ('{"train": [7]}', "train 0: is not an image id"),
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
    with pytest.raises(InputError, match=r"a.txt is not UTF-8 text"):
        read_image_ids(str(tmp_path / "a.txt"))
    with pytest.raises(InputError, match=r"b.txt is missing"):
        read_image_ids(str(tmp_path / "b.txt"))


@pytest.mark.parametrize("read", [read_image_ids, lambda written: read_texts(written, "caption")])
def test_splits_of_a_file_without_them_are_refused(tmp_path: Path, read: Any) -> None:
    path = write_json(tmp_path / "a.json", captions_json([(7, "dog")]))
    with pytest.raises(InputError, match=r"a.json has no splits to choose #val from; it is COCO's"):
        read(f"{path}#val")


@pytest.mark.parametrize("text", ["7\n", "[7]"])
def test_splits_of_a_list_of_ids_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "a").write_text(text)
    with pytest.raises(InputError, match="/a has no splits to choose #val from; it is a list of image ids"):
        read_image_ids(f"{tmp_path}/a#val")


def test_captions_are_no_phrases_but_hold_them(tmp_path: Path) -> None:
    path = write_json(tmp_path / "a.json", captions_json([(7, "dog")]))
    with pytest.raises(
        InputError, match=r"holds no phrase .* but is COCO's .*; phrases are cut from its captions with"
    ):
        read_texts(str(path), "phrase")


LAYOUTS: dict[str, str] = {
    "coco": json.dumps(captions_json([(7, "A dog."), (8, "Caf\u00e9.")])),
    "karpathy": json.dumps(karpathy_json([("train", 7, ["A dog."]), ("test", 8, ["x"])]), indent=1),
    "lines": "\n".join(
        json.dumps({"sentences": ["A dog."], "id": 1, "img_path": f"{number}.jpg"}) for number in (7, 8)
    ),
    "lxmert": json.dumps([{"img_id": "7", "sentf": {"mscoco": ["A dog."], "vg": ["red hat"]}, "labelf": {}}] * 2),
    "genome": json.dumps([{"id": 7, "regions": [{"phrase": "red hat", "x": 1}]}, {"image_id": 8, "regions": []}]),
    "own": "\n".join(json.dumps({"file": f"{name}.jpg", "caption": "A dog."}) for name in "ab"),
    "gqa": json.dumps({"01": {"imageId": "7", "question": "?"}, "02": {"imageId": "n8"}}),
    "csv": 'file,caption\na.jpg,"A dog."\nb.jpg,Caf\u00e9.\n',
    "ids": "7\nCOCO_val2014_000000000008.jpg 8\n",
}


@pytest.mark.parametrize("name", sorted(LAYOUTS.keys() - {"ids"}))
def test_a_file_is_of_one_layout(tmp_path: Path, name: str) -> None:
    (tmp_path / "a.json").write_text(LAYOUTS[name])
    items = list(iterate_items(tmp_path / "a.json", what="a test"))
    objects = [item for item in items if isinstance(item.value, dict)]
    assert {sum(layout.recognises(item) for layout in text_files.LAYOUTS) for item in objects} - {0} == {1}


@pytest.mark.parametrize("text", LAYOUTS.values(), ids=LAYOUTS)
def test_a_damaged_file_is_read_or_refused_in_one_line(tmp_path: Path, text: str) -> None:
    rng = random.Random(7)
    path = tmp_path / "a.json"
    errors: list[str] = []
    for _ in range(150):
        data = bytearray(text.encode())
        if rng.random() < 0.3:
            del data[rng.randrange(len(data)) :]
        else:
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        path.write_bytes(data)
        for read in (read_image_ids, lambda name: read_texts(name, "caption"), lambda name: read_texts(name, "phrase")):
            try:
                read(str(path))
            except InputError as error:  # anything else would fail the test
                errors.append(str(error))
    assert errors
    assert all(str(path) in error and "\n" not in error for error in errors)
