"""Image ids."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from msp_ds.data.format.image_ids import (
    Corpus,
    canonical_image_id,
    corpus_of,
    corpus_of_names,
    in_order,
    is_renumbered,
    own_image_id,
    split_corpus,
)
from msp_ds.errors import InputError


@pytest.mark.parametrize(
    ("raw", "corpus", "expected"),
    [
        (391895, "coco", "coco-391895"),
        ("000000391895", "coco", "coco-391895"),
        ("COCO_train2014_000000458752", "coco", "coco-458752"),
        ("COCO_val2014_000000000042.jpg", "vg", "coco-42"),
        ("COCO_test2015_000000000001", "coco", "coco-1"),
        ("COCO_test2014_000000000100", "coco", "coco-100"),
        ("COCO_train2017_000000000100.jpg", "f30k", "coco-100"),
        ("COCO_val2017_000000000100", "coco", "coco-100"),
        ("COCO_test2017_000000000100", "coco", "coco-100"),
        ("COCO_unlabeled2017_000000000100", "coco", "coco-100"),
        ("coco-391895", "vg", "coco-391895"),
        ("coco-000000391895", "coco", "coco-391895"),
        ("vg-n0012", "coco", "vg-n12"),
        ("000000397133.jpg", "coco", "coco-397133"),
        ("2375429", "vg", "vg-2375429"),
        ("n161313", "vg", "vg-n161313"),
        ("1007129816.jpg", "f30k", "f30k-1007129816"),
        ("train-10171-0-img0", "nlvr2", "nlvr2-train-10171-0-img0"),
        ("dev-850-0-img1.png", "nlvr2", "nlvr2-dev-850-0-img1"),
        ("nlvr2-test1-1-0-img1", "coco", "nlvr2-test1-1-0-img1"),
        ("391895", "world", "world-391895"),
        ("world-000391895", "coco", "world-391895"),
        ("own-img-2031", "vg", "own-img-2031"),
        ("IMG_2031.JPG", "own", "own-img-2031"),
        (12, "own", "own-12"),
        ("000000000012.jpg", "own", "own-000000000012"),
        ("COCO_val2014_000000000042.jpg", "own", "own-coco-val2014-000000000042"),
        ("coco-42", "own", "coco-42"),
    ],
)
def test_each_form_of_id_has_one_canonical_name(raw: Any, corpus: Corpus, expected: str) -> None:
    assert canonical_image_id(raw, corpus=corpus, where="here") == expected


@pytest.mark.parametrize(
    ("raw", "corpus"),
    [
        ("cat.png", "coco"),
        ("", "coco"),
        (-3, "coco"),
        (True, "coco"),
        ("12", "nlvr2"),
        ("n12", "coco"),
        ("١٢", "coco"),
        ("9" * 5000, "coco"),
        ("coco-n12", "coco"),
        ("COCO_val2016_000000000100", "coco"),
        ("COCO_val2014_100", "coco"),
        ("f30k-x", "f30k"),
        ("own-", "coco"),
        ("own-a--b", "coco"),
        ("own-A", "coco"),
        ("own-" + "a" * 81, "coco"),
        ("", "own"),
        (True, "own"),
    ],
)
def test_an_unknown_form_is_refused_with_its_place(raw: Any, corpus: Corpus) -> None:
    with pytest.raises(InputError, match=r"^features.tsv row 7: .* known forms are"):
        canonical_image_id(raw, corpus=corpus, where="features.tsv row 7")


def test_an_unknown_form_names_the_way_out() -> None:
    with pytest.raises(InputError, match=r"for pictures of your own write own:FILE, and name the image of a caption"):
        canonical_image_id("dog_000", corpus="coco", where="here")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("dog.jpg", "own-dog"),
        ("photos/2024/Dog.JPEG", "own-dog"),
        ("dog", "own-dog"),
        ("Café  (2).v1.jpg", "own-cafe-2-v1"),
        ("__a--b__.png", "own-a-b"),
        ("ﬁne Ⅳ.png", "own-fine-iv"),
        ("IMG.2031", "own-img-2031"),
        (".jpg", "own-jpg"),
        (Path("x/y z.webp"), "own-y-z"),
    ],
)
def test_own_ids_are_the_letters_and_digits_of_a_file_name(name: str | Path, expected: str) -> None:
    assert own_image_id(name) == expected
    assert canonical_image_id(expected, corpus="coco", where="here") == expected


def test_a_name_without_ascii_letters_has_the_hash_of_the_name_as_id() -> None:
    assert own_image_id("東京.jpg") == f"own-{hashlib.sha256('東京.jpg'.encode()).hexdigest()[:8]}"
    assert len({own_image_id(name) for name in ("東京.jpg", "大阪.jpg", "---.jpg", "\udcff.jpg")}) == 4


def test_very_long_names_keep_different_ids_that_fit_a_tar_header() -> None:
    one, other = own_image_id("a " * 120 + "1.jpg"), own_image_id("a " * 120 + "2.jpg")
    assert one != other
    assert max(len(one), len(other)) <= 84
    assert own_image_id("b" * 80 + ".jpg") == f"own-{'b' * 80}"
    for image_id in (one, other):
        assert canonical_image_id(image_id, corpus="coco", where="here") == image_id


def test_file_names_are_own_unless_each_says_its_corpus() -> None:
    names = ["COCO_val2014_000000000042.jpg", "train-10171-0-img0.png", "vg-7"]
    assert corpus_of_names(names) == "coco"
    assert corpus_of_names([*names, "000000000012.jpg"]) == "own"


def test_canonical_ids_serve_as_tar_keys() -> None:
    name = canonical_image_id("COCO_val2014_000000000042.jpg", corpus="coco", where="here")
    assert name.isascii()
    assert "." not in name


def test_a_corpus_is_named_in_front_of_a_path() -> None:
    assert split_corpus("vg:data/a.tsv") == ("vg", "data/a.tsv")
    assert split_corpus("data/a.tsv") == ("coco", "data/a.tsv")
    assert split_corpus("own:data/a.tsv") == ("own", "data/a.tsv")
    assert split_corpus("C:/a.tsv") == ("coco", "C:/a.tsv")


def test_canonical_ids_tell_their_corpus_and_sort_by_number() -> None:
    ids = ["vg-n7", "coco-10", "nlvr2-dev-1-0-img0", "coco-9", "vg-5"]
    assert [corpus_of(image_id) for image_id in ids] == ["vg", "coco", "nlvr2", "coco", "vg"]
    assert in_order(ids) == ["coco-9", "coco-10", "nlvr2-dev-1-0-img0", "vg-5", "vg-n7"]
    assert [image_id for image_id in ids if is_renumbered(image_id)] == ["vg-n7"]
