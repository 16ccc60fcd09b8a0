"""Every reader names a failed download or an archive as what it is."""

from __future__ import annotations

import gzip
import io
import re
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from msp_ds.config import read_json
from msp_ds.data.format.faults import Faults
from msp_ds.data.format.shards import open_set, parse_index
from msp_ds.data.format.text import load_labels
from msp_ds.data.format.vocabulary import read_vocabulary
from msp_ds.errors import InputError, ShardError
from msp_ds.evaluation.score_matrix import read_score_matrix
from msp_ds.model.weights.tensor_files import read_tensors
from msp_ds.preparation.hard_negatives.vilbert_pickle import read_hard_negative_pickle
from msp_ds.preparation.recipe import load_recipe
from msp_ds.preparation.region_features.region_files import list_region_files, scan_rows
from msp_ds.preparation.sources.text_files import read_texts
from msp_ds.preparation.texts.answer_vocabulary import read_vocabulary as read_answers
from msp_ds.regions.pictures import open_picture
from msp_ds.report.pages.explain import read_pool

WEB_PAGE = b"\n <!DOCTYPE html><html>virus scan warning</html>"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 98304\n"


def a_zip() -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("readme.txt", "nothing")
    return packed.getvalue()


def a_tar() -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("readme.txt"))
    return packed.getvalue()


def regions(path: Path) -> object:
    return scan_rows(list_region_files((str(path),)), faults=Faults("fail"))


READERS: dict[str, Callable[[Path], object]] = {
    "model.pth": read_tensors,
    "model.bin": read_tensors,
    "model.safetensors": read_tensors,
    "regions.tsv": regions,
    "regions.tsv.gz": regions,
    "regions.npz": regions,
    "scores.npz": read_score_matrix,
    "hard_negative.pkl": read_hard_negative_pickle,
    "captions.json": lambda path: read_texts(str(path), "caption"),
    "model.json": lambda path: read_json(path, what="a card"),
    "answers.json": read_answers,
    "vocab.txt": read_vocabulary,
    "objects_vocab.txt": load_labels,
    "captions.txt": read_pool,
    "recipe.toml": load_recipe,
    "picture.jpg": open_picture,
    "index.json": lambda path: parse_index(path.read_bytes(), where=str(path), fix="write it again"),
}


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (WEB_PAGE, "is a web page (HTML), but should be"),
        (POINTER, "is a Git LFS pointer, which stands for the file, but should be"),
        (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "is an XML document, as a server's answer"),
    ],
    ids=["web page", "LFS pointer", "XML"],
)
def test_every_reader_names_a_failed_download(tmp_path: Path, name: str, content: bytes, complaint: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=f"{re.escape(name)}:? {re.escape(complaint)}") as error:
        READERS[name](tmp_path / name)
    assert "download it again" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (gzip.compress(b"x"), "is a gzip archive, but should be weights; unpack it, and name what lies in it"),
        (a_tar(), "is a tar archive, but should be weights; unpack it"),
        (a_zip(), "is a zip archive of readme.txt, but should be weights; unpack it"),
        (b"", "is empty, but should be weights; download it again"),
    ],
    ids=["gzip", "tar", "zip", "nothing"],
)
def test_an_archive_of_something_else_is_no_weights(tmp_path: Path, content: bytes, complaint: str) -> None:
    (tmp_path / "model.pth").write_bytes(content)
    with pytest.raises(InputError, match=re.escape(complaint)):
        read_tensors(tmp_path / "model.pth")


def test_a_tar_of_a_set_that_is_a_pointer_is_named(small_shards: Path, tmp_path: Path) -> None:
    damaged_set = Path(shutil.copytree(small_shards / "sentence" / "val", tmp_path / "val"))
    (damaged_set / "000000.tar").write_bytes(POINTER)
    with pytest.raises(ShardError, match=r"000000\.tar has \d+ bytes instead of \d+: it is a Git LFS pointer"):
        open_set(damaged_set)


def test_data_is_left_to_its_reader(tmp_path: Path) -> None:
    (tmp_path / "captions.txt").write_text("<3 a dog\nversion 2 of a cat\n")
    assert read_pool(tmp_path / "captions.txt") == ["<3 a dog", "version 2 of a cat"]
    (tmp_path / "labels.txt").write_text("x" * 255 + "\nmustard\n")  # a tar has "ustar" and a zero at byte 257
    assert load_labels(tmp_path / "labels.txt")[1] == ("mustard",)
