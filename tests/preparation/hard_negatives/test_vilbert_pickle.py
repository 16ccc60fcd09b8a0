"""ViLBERT's hard_negative.pkl: every way in which one was written, and what must not run."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from msp_ds.errors import InputError
from msp_ds.preparation.hard_negatives.vilbert_pickle import read_hard_negative_pickle

POOL = np.array([[0, 2, 1], [1, 0, 2], [1, 2, 0]], np.float64)
IMAGES = [391895, 9, 522418]
NEIGHBOURS = [[2, 1], [0, 2], [1, 0]]


def write(path: Path, value: Any, protocol: int = 2) -> Path:
    path.write_bytes(pickle.dumps(value, protocol=protocol))
    return path


def as_python_2_wrote_it() -> bytes:
    """Protocol 2 with byte strings as cPickle of Python 2 and numpy 1 put them: opcode by opcode, from its format."""

    def text(data: bytes) -> bytes:
        return b"U" + bytes([len(data)]) + data

    dtype = (
        b"cnumpy\ndtype\n"
        + text(b"f8")
        + b"K\x00K\x01\x87R"
        + b"(K\x03"
        + text(b"<")
        + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    )
    raw = b"T" + len(POOL.tobytes()).to_bytes(4, "little") + POOL.tobytes()
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + text(b"b") + b"\x87R"
    array += b"(K\x01K\x03K\x03\x86" + dtype + b"\x89" + raw + b"tb"
    ids = b"](" + b"".join(b"J" + number.to_bytes(4, "little") for number in IMAGES) + b"e"
    return b"\x80\x02}(" + text(b"train_hard_pool") + array + text(b"train_image_list") + ids + b"u."


@pytest.mark.parametrize("protocol", range(6))
def test_every_protocol_of_python_3_is_read(tmp_path: Path, protocol: int) -> None:
    path = write(tmp_path / "a.pkl", {"train_hard_pool": POOL, "train_image_list": IMAGES}, protocol)
    found = read_hard_negative_pickle(path)
    assert found.image_ids == ("coco-391895", "coco-9", "coco-522418")
    assert found.neighbours.tolist() == NEIGHBOURS
    assert found.neighbours.dtype == np.int32


def test_a_pickle_of_python_2_and_numpy_1_is_read(tmp_path: Path) -> None:
    (tmp_path / "old.pkl").write_bytes(as_python_2_wrote_it())
    assert read_hard_negative_pickle(tmp_path / "old.pkl").neighbours.tolist() == NEIGHBOURS


@pytest.mark.parametrize("core", ["core", "_core"])
def test_the_module_names_of_numpy_1_and_2_are_both_known(tmp_path: Path, core: str) -> None:
    data = pickle.dumps({"train_hard_pool": POOL, "train_image_list": IMAGES}, protocol=2)
    renamed = data.replace(b"numpy._core.", b"numpy.core.").replace(b"numpy.core.", f"numpy.{core}.".encode())
    (tmp_path / "a.pkl").write_bytes(renamed)
    assert read_hard_negative_pickle(tmp_path / "a.pkl").neighbours.tolist() == NEIGHBOURS


@pytest.mark.parametrize(
    ("pool", "images"),
    [
        (POOL.astype(np.int64), [np.int64(number) for number in IMAGES]),
        (POOL.tolist(), np.array(IMAGES)),
        (np.asfortranarray(POOL), IMAGES),
        (POOL.astype(">f4"), IMAGES),
    ],
)
@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_other_number_types_orders_and_lists_are_read(tmp_path: Path, pool: Any, images: Any, protocol: int) -> None:
    path = write(tmp_path / "a.pkl", {"train_hard_pool": pool, "train_image_list": images}, protocol)
    assert read_hard_negative_pickle(path).neighbours.tolist() == NEIGHBOURS


def test_numbers_are_those_of_the_corpus_that_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.pkl", {"train_hard_pool": POOL, "train_image_list": IMAGES})
    assert read_hard_negative_pickle(path, corpus="f30k").image_ids[1] == "f30k-9"


class Payload:
    """Runs a command when an ordinary unpickler meets it."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self.command,)


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_pickle_that_would_run_a_command_is_refused_and_nothing_runs(tmp_path: Path, protocol: int) -> None:
    bomb = {"train_hard_pool": POOL, "train_image_list": IMAGES, "more": Payload(f"touch {tmp_path / 'ran'}")}
    path = write(tmp_path / "bomb.pkl", bomb, protocol)
    with pytest.raises(InputError) as caught:
        read_hard_negative_pickle(path)
    assert not (tmp_path / "ran").exists()
    assert str(caught.value).startswith(f"{path} needs {os.system.__module__}.system, which no list needs")
    assert "\n" not in str(caught.value)
    pickle.loads(path.read_bytes())
    assert (tmp_path / "ran").exists(), "the payload of this test does nothing"


@pytest.mark.parametrize("name", ["builtins eval", "builtins getattr", "numpy load", "numpy.testing rundocs"])
def test_no_other_name_is_allowed_not_even_of_numpy(tmp_path: Path, name: str) -> None:
    (tmp_path / "a.pkl").write_bytes(b"c" + name.replace(" ", "\n").encode() + b"\n.")
    with pytest.raises(InputError, match=f"needs {name.replace(' ', '.')}, which no list needs"):
        read_hard_negative_pickle(tmp_path / "a.pkl")


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        ([1, 2], "without train_hard_pool"),
        ({"train_hard_pool": POOL}, "without train_hard_pool and train_image_list"),
        ({"train_hard_pool": POOL, "train_image_list": IMAGES[:2]}, "do not match"),
        ({"train_hard_pool": POOL + 0.5, "train_image_list": IMAGES}, "has fractions"),
        ({"train_hard_pool": POOL * np.nan, "train_image_list": IMAGES}, "has fractions"),
        ({"train_hard_pool": POOL + 1, "train_image_list": IMAGES}, "rows beyond the 3 images"),
        ({"train_hard_pool": POOL, "train_image_list": [1, 1, 2]}, "names an image twice"),
        ({"train_hard_pool": POOL, "train_image_list": ["x", 1, 2]}, r"train_image_list\[0\]: 'x' is no image id"),
        ({"train_hard_pool": POOL.astype(object), "train_image_list": IMAGES}, "damaged or foreign pickle"),
        ({"train_hard_pool": [[0, 1], [1]], "train_image_list": [1, 2]}, "damaged or foreign pickle"),
        ({"train_hard_pool": POOL, "train_image_list": {"a": 1}}, "is not a list"),
    ],
)
def test_a_pickle_of_something_else_is_refused_in_one_line(tmp_path: Path, value: Any, fault: str) -> None:
    with pytest.raises(InputError, match=fault) as caught:
        read_hard_negative_pickle(write(tmp_path / "a.pkl", value))
    assert "\n" not in str(caught.value)


def test_a_pickle_cut_anywhere_is_refused(tmp_path: Path) -> None:
    data = pickle.dumps({"train_hard_pool": POOL, "train_image_list": IMAGES}, protocol=2)
    for length in range(len(data)):
        (tmp_path / "a.pkl").write_bytes(data[:length])
        with pytest.raises(InputError, match=r"a\.pkl"):
            read_hard_negative_pickle(tmp_path / "a.pkl")


def test_a_flipped_byte_never_gets_further_than_an_error_or_another_list(tmp_path: Path) -> None:
    data = pickle.dumps({"train_hard_pool": POOL, "train_image_list": IMAGES}, protocol=4)
    refused = 0
    for place in range(len(data)):
        (tmp_path / "a.pkl").write_bytes(data[:place] + bytes([data[place] ^ 0x15]) + data[place + 1 :])
        try:
            read_hard_negative_pickle(tmp_path / "a.pkl")
        except InputError:
            refused += 1
    assert refused > len(data) / 2
