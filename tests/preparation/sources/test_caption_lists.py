"""ViLBERT's .jsonline, LXMERT-S' Flickr30k lists, and captions of one's own pictures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from raw_files import write_json

from msp_ds.errors import InputError
from msp_ds.preparation.sources.text_files import read_image_ids, read_texts

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


OWN = {"own-dog": ["A dog, running.", 'It "barks".'], "own-cafe-2": ["A café."]}
CSV = """file,caption,by
dog.jpg,"A dog, running.",Ann

photos/Café 2.PNG,A  café. ,
dog.jpg,"It ""barks"".",
"""
LINES = [
    {"file": "dog.jpg", "caption": "A dog, running.", "by": "Ann"},
    {"file": "photos/Café 2.PNG", "caption": "A café."},
    {"file": "dog", "caption": 'It "barks".'},
]


def captions_of(written: Path | str) -> dict[str, list[str]]:
    return dict(read_texts(str(written), "caption").by_image)


def test_own_captions_are_csv_json_lines_or_a_json_list(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"\xef\xbb\xbf" + CSV.encode())
    (tmp_path / "crlf.csv").write_bytes(CSV.encode().replace(b"\n", b"\r\n"))
    write_json(tmp_path / "list.json", LINES)
    for written in (
        tmp_path / "a.csv",
        tmp_path / "crlf.csv",
        tmp_path / "list.json",
        write_lines(tmp_path / "a.jsonl", LINES),
        write_lines(tmp_path / "captions", LINES),
    ):
        assert captions_of(written) == OWN
        assert read_image_ids(str(tmp_path / "list.json")) == OWN.keys()


def test_a_column_of_ids_may_stand_in_place_of_files(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('"image_id", "caption"\nown-dog,A dog.\nvg-7,A cat.\n12,A bus.\n')
    assert captions_of(tmp_path / "a.csv") == {"own-dog": ["A dog."], "vg-7": ["A cat."], "own-12": ["A bus."]}
    assert captions_of(f"coco:{tmp_path / 'a.csv'}").keys() == {"own-dog", "vg-7", "coco-12"}


def test_files_that_all_say_their_corpus_keep_it(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(
        "file,caption\nphotos/COCO_val2014_000000000042.png,A dog.\nCOCO_val2014_000000000043,x\n"
    )
    assert captions_of(tmp_path / "a.csv").keys() == {"coco-42", "coco-43"}
    assert captions_of(f"own:{tmp_path / 'a.csv'}").keys() == {
        "own-coco-val2014-000000000042",
        "own-coco-val2014-000000000043",
    }


def test_empty_own_captions_are_counted(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('file,caption\na.jpg,\na.jpg," "\na.jpg,x\n')
    read = read_texts(str(tmp_path / "a.csv"), "caption")
    assert (dict(read.by_image), read.num_empty) == ({"own-a": ["x"]}, 2)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (
            "file,caption\na.jpg,A dog, running.\n",
            "a line 2: has more .* columns .*; put quotes around a text with commas",
        ),
        ("file,caption\na.jpg,x\nb.jpg\n", "a line 3: has more or fewer columns than the header; complete the line"),
        ('file,caption\na.jpg,"x\nb.jpg,y\n', r"a line 2: is not valid CSV \(.*\); close quotes"),
        ("file,caption\n,x\n", "a line 2: '' is no image id of own; known forms are the names of files"),
        ("file,caption\n", "holds no caption in a known layout; it should be .* CSV with the header file,caption"),
        ("name,caption\na.jpg,x\n", "holds no caption in a known layout; it should be .* CSV with the header"),
        ("file;caption\na.jpg;x\n", "is not valid JSON; it should be .* CSV with the header file,caption"),
        ("a.jpg,x\n", "is not valid JSON; it should be .* CSV with the header file,caption"),
        ('{"file": "a.jpg", "caption": "x"}\n{"file": "a.jpg"}\n', "a line 2: has no caption; it should be CSV with"),
        ('{"file": "a.jpg", "caption": "x"}\n{"caption": "y"}\n', "a line 2: has no file; it should be CSV with"),
        ('{"file": "a.jpg", "caption": "x"}\n{"file": 7, "caption": 7}\n', "a line 2: 7 is not a text"),
    ],
)
def test_a_bad_line_of_own_captions_is_named(tmp_path: Path, text: str, fault: str) -> None:
    (tmp_path / "a").write_text(text)
    with pytest.raises(InputError, match=fault):
        read_texts(str(tmp_path / "a"), "caption")


def test_the_number_of_a_retrieval_list_means_nothing_for_own_pictures(tmp_path: Path) -> None:
    written = write_lines(tmp_path / "a.jsonline", [{"sentences": ["x"], "id": 1, "img_path": "photos/dog.jpg"}])
    assert captions_of(f"own:{written}") == {"own-dog": ["x"]}


@pytest.mark.parametrize(
    ("one", "other"), [("Dog 1.jpg", "dog-1.png"), ("a/1.jpg", "b/1.jpg"), ("Café.jpg", "cafe.jpg")]
)
def test_two_files_of_one_id_are_refused_with_both_names(tmp_path: Path, one: str, other: str) -> None:
    written = write_lines(tmp_path / "own.jsonl", [{"file": name, "caption": "A dog."} for name in (one, one, other)])
    with pytest.raises(InputError, match=rf"line 3: {one} and {other} would both be image own-\S+; rename one of them"):
        read_texts(written, "caption")


def test_a_name_without_folder_or_ending_is_the_same_file(tmp_path: Path) -> None:
    names = ["photos/Dog 1.jpg", "Dog 1.jpg", "Dog 1", "own-dog-1"]
    written = write_lines(tmp_path / "own.jsonl", [{"file": name, "caption": "A dog."} for name in names])
    assert read_texts(written, "caption").by_image == {"own-dog-1": ["A dog."] * 4}
