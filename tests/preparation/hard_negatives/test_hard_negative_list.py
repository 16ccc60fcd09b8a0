"""Lists of hard negatives."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from msp_ds.errors import InputError
from msp_ds.preparation.hard_negatives.hard_negative_list import (
    HardNegativeList,
    read_hard_negatives,
    rows_within,
    without_self,
    write_hard_negatives,
)


def write(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


def test_a_list_is_read_with_canonical_ids(tmp_path: Path) -> None:
    neighbours = np.array([[1, -1], [0, 1]])
    numbers = read_hard_negatives(write(tmp_path / "a.npz", image_ids=np.array([7, 9]), neighbours=neighbours))
    texts = read_hard_negatives(
        write(tmp_path / "b.npz", image_ids=np.array(["coco-7", "vg-9"]), neighbours=neighbours)
    )
    assert (numbers.image_ids, texts.image_ids) == (("coco-7", "coco-9"), ("coco-7", "vg-9"))
    assert numbers.neighbours.tolist() == [[1, -1], [0, 1]]


def test_rows_are_mapped_and_what_is_not_in_the_set_is_dropped_in_order() -> None:
    whole = HardNegativeList(
        image_ids=("coco-1", "coco-2", "coco-3", "coco-4"),
        neighbours=np.array([[0, 3, 1, 2], [3, 2, 0, -1], [0, 1, 2, 3], [0, 1, 2, 3]], np.int32),
    )
    rows = rows_within(whole, keys=["coco-3", "coco-9", "coco-2", "coco-1"])
    # Rows of the set: coco-3 is 0, coco-2 is 2, coco-1 is 3; coco-4 is not in the set, coco-9 not in the list.
    assert rows.tolist() == [[3, 2, -1, -1], [-1, -1, -1, -1], [0, 3, -1, -1], [2, 0, -1, -1]]
    assert rows.dtype == np.int32


def test_a_set_of_many_blocks_has_the_same_hard_negatives() -> None:
    """Images 0 to 19,999 with the two next ones; of the set, the even ones in reverse, each knows one."""
    numbers = np.arange(20_000)
    following = (numbers[:, None] + [1, 2]) % 20_000
    whole = HardNegativeList(image_ids=tuple(f"coco-{n}" for n in numbers), neighbours=following.astype(np.int32))
    rows = rows_within(whole, keys=[f"coco-{n}" for n in numbers[::-2] - 1])
    # The image after the next comes one row before; the first row's is the last.
    assert rows[:, 0].tolist() == [9_999, *range(9_999)]
    assert (rows[:, 1] == -1).all()


@pytest.mark.parametrize(
    ("arrays", "fault"),
    [
        ({"image_ids": [7, 9]}, "lacks the array neighbours"),
        ({"image_ids": [7, 9], "neighbours": [[0]]}, "do not match"),
        ({"image_ids": [7, 9], "neighbours": [[0.0], [1.0]]}, "do not match"),
        ({"image_ids": [7, 9], "neighbours": [[0], [2]]}, "rows beyond the 2 images"),
        ({"image_ids": [7, 9], "neighbours": [[0], [-2]]}, "rows beyond the 2 images"),
        ({"image_ids": [7, 7], "neighbours": [[0], [1]]}, "names an image twice"),
        ({"image_ids": ["x", "y"], "neighbours": [[0], [1]]}, r"image_ids\[0\]: 'x' is no image id"),
    ],
)
def test_a_list_of_another_layout_is_refused(tmp_path: Path, arrays: dict[str, Any], fault: str) -> None:
    with pytest.raises(InputError, match=f"a.npz.* {fault}|a.npz {fault}"):
        read_hard_negatives(write(tmp_path / "a.npz", **{name: np.array(value) for name, value in arrays.items()}))


def test_a_pickle_is_refused_unread(tmp_path: Path) -> None:
    (tmp_path / "hard_negative.pkl").write_bytes(pickle.dumps({"train_hard_pool": [[0.0]], "train_image_list": [7]}))
    with pytest.raises(InputError, match=r"hard_negative.pkl is a pickle; .* msp-ds hard-negatives --import"):
        read_hard_negatives(tmp_path / "hard_negative.pkl")


SMALL = HardNegativeList(
    image_ids=("coco-7", "vg-9", "coco-1"), neighbours=np.array([[1, 2], [0, 2], [1, 0]], np.int32)
)


def test_a_written_list_reads_back_and_its_bytes_depend_on_nothing_else(tmp_path: Path) -> None:
    write_hard_negatives(tmp_path / "new" / "a.npz", SMALL)
    write_hard_negatives(tmp_path / "b.npz", SMALL)
    found = read_hard_negatives(tmp_path / "b.npz")
    assert found.image_ids == SMALL.image_ids
    np.testing.assert_array_equal(found.neighbours, SMALL.neighbours)
    assert (tmp_path / "new" / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.npz"]


def test_the_hash_of_the_images_is_that_of_their_ids_one_a_line() -> None:
    assert SMALL.sha256 == hashlib.sha256(b"coco-7\nvg-9\ncoco-1").hexdigest()


def test_a_list_whose_images_were_changed_beside_their_hash_is_refused(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.npz",
        image_ids=np.array(["coco-1", "coco-7", "vg-9"]),
        neighbours=SMALL.neighbours,
        sha256=np.array(SMALL.sha256),
    )
    with pytest.raises(InputError, match=r"a\.npz: image_ids do not match the hash"):
        read_hard_negatives(path)


def test_the_image_itself_leaves_the_list_and_the_others_close_up() -> None:
    neighbours = np.array([[0, 1, 2], [2, 1, 0], [0, -1, -1]], np.int32)
    found = without_self(HardNegativeList(image_ids=SMALL.image_ids, neighbours=neighbours))
    assert found.neighbours.tolist() == [[1, 2], [2, 0], [0, -1]]
