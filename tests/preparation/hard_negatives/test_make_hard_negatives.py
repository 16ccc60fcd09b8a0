"""Hard negatives from mean region features: right, resumable, and put into finished sets."""

from __future__ import annotations

import dataclasses
import errno
import os
import pickle
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from raw_files import RawFolder, Row, snapshot, write_tsv

from msp_ds.data.format.shards import open_set
from msp_ds.data.loading.reader import Reader
from msp_ds.demo_world import nearest
from msp_ds.errors import InputError, ShardError
from msp_ds.preparation.hard_negatives.hard_negative_list import read_hard_negatives
from msp_ds.preparation.hard_negatives.make_hard_negatives import HardNegativesPlan, make_hard_negatives
from msp_ds.preparation.hard_negatives.neighbour_search import RawImages, Search, SetImages, find_hard_negatives
from msp_ds.preparation.writing.shard_building import NoProgress, build_shards
from msp_ds.records import RegionRecord

# The mean feature of image n is n and a constant, so that its neighbours are the nearest numbers, the lower one first.
NEAREST_TWO = [[1, 2], [0, 2], [1, 3], [2, 4], [3, 5], [4, 3]]


@pytest.fixture
def folder(raw: RawFolder) -> Path:
    """A set of six images that has no hard negatives yet."""
    steps = np.arange(12, dtype="<f4").reshape(3, 4) / 8  # eighths lose nothing as float16
    write_tsv(raw.path / "regions.tsv", [Row(number, features=number + steps) for number in range(1, 7)])
    recipe = dataclasses.replace(raw.recipe, hard_negatives=None)
    build_shards(recipe, stage="sentence", out=raw.path / "shards")
    return raw.path / "shards" / "sentence" / "train"


def do(**plan: object) -> str:
    return make_hard_negatives(HardNegativesPlan(**plan), progress=NoProgress())  # type: ignore[arg-type]


def test_a_set_gets_the_images_whose_mean_features_are_nearest(folder: Path, tmp_path: Path) -> None:
    assert do(shards=folder, count=2, out=tmp_path / "list.npz").startswith("6 images with up to 2 hard negatives in ")
    found = read_hard_negatives(tmp_path / "list.npz")
    assert found.image_ids == tuple(f"coco-{number}" for number in range(1, 7))
    assert found.neighbours.tolist() == NEAREST_TWO
    assert sorted(path.name for path in tmp_path.iterdir()) == ["list.npz", "raw"]


def test_raw_files_give_the_list_of_their_set(raw: RawFolder, folder: Path, tmp_path: Path) -> None:
    do(shards=folder, count=5, out=tmp_path / "a.npz")
    do(regions=(str(raw.path / "regions.tsv"),), count=5, out=tmp_path / "b.npz")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_attaching_changes_the_table_and_the_index_alone(folder: Path) -> None:
    (folder / "notes.txt").write_text("mine")
    before = snapshot(folder)
    old = Reader(open_set(folder))
    assert do(shards=folder, count=2, attach=True).endswith(f"6 of the 6 images of {folder} have some now")
    after = snapshot(folder)
    assert open_set(folder).hard_negatives.tolist() == NEAREST_TWO  # type: ignore[union-attr]
    assert after.keys() - before.keys() == {"hard_negatives.npz"}
    assert {name for name in before if before[name] != after[name]} == {"index.json"}
    assert sorted(path.name for path in folder.parent.iterdir()) == ["train"]
    assert old.record(0).image_id == "coco-1", "a reader that was open goes on"


def test_attaching_again_replaces_the_table(folder: Path) -> None:
    do(shards=folder, count=2, attach=True)
    do(shards=folder, count=1, attach=True)
    assert open_set(folder).hard_negatives.tolist() == [line[:1] for line in NEAREST_TWO]  # type: ignore[union-attr]


def test_an_imported_list_goes_into_a_finished_set(folder: Path, tmp_path: Path) -> None:
    value = {"train_hard_pool": np.array([[0.0, 1.0], [1.0, 0.0]]), "train_image_list": [6, 2]}
    (tmp_path / "hard_negative.pkl").write_bytes(pickle.dumps(value, protocol=2))
    summary = do(imported=tmp_path / "hard_negative.pkl", shards=folder, attach=True, out=tmp_path / "list.npz")
    assert summary.endswith(f"2 of the 6 images of {folder} have some now")
    rows = open_set(folder).hard_negatives
    assert rows is not None
    assert rows.tolist() == [[-1], [5], [-1], [-1], [-1], [1]]
    do(imported=tmp_path / "list.npz", shards=folder, attach=True)
    np.testing.assert_array_equal(open_set(folder).hard_negatives, rows)


def test_a_list_of_other_images_is_refused_and_the_set_stays_as_it_was(folder: Path, tmp_path: Path) -> None:
    value = {"train_hard_pool": np.array([[1.0], [0.0]]), "train_image_list": [1, 2]}
    (tmp_path / "hard_negative.pkl").write_bytes(pickle.dumps(value))
    before = snapshot(folder)
    with pytest.raises(InputError, match=r"has none of the 6 images .* the list's f30k-1.* --corpus"):
        do(imported=tmp_path / "hard_negative.pkl", corpus="f30k", shards=folder, attach=True)
    assert snapshot(folder) == before


class Interrupting(NoProgress):
    """Stops the work after so many images."""

    def __init__(self, after: int) -> None:
        self.left = after

    def advance(self, amount: int) -> None:
        self.left -= amount
        if self.left < 0:
            raise KeyboardInterrupt


class Counting:
    """Images of a set, counted as they are read."""

    def __init__(self, images: SetImages) -> None:
        self.image_ids, self.fingerprint, self._images, self.num_read = images.image_ids, images.fingerprint, images, 0

    def records(self) -> Iterator[RegionRecord]:
        for record in self._images.records():
            self.num_read += 1
            yield record


def test_an_interrupted_search_goes_on_where_it_was(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nearest, "_BLOCK_CELLS", 6 * 2)
    images, work = Counting(SetImages(open_set(folder))), tmp_path / "work"
    with pytest.raises(KeyboardInterrupt):
        find_hard_negatives(images, Search(count=2, work=work, progress=Interrupting(6 + 3)))
    assert sorted(path.name for path in work.glob("rows-*")) == ["rows-00000000.npz", "rows-00000002.npz"]
    kept = {path: path.stat().st_mtime_ns for path in work.glob("rows-*")}
    found = find_hard_negatives(images, Search(count=2, work=work))
    assert found.neighbours.tolist() == NEAREST_TWO
    assert images.num_read == 6
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


@pytest.mark.parametrize("work", [".list.npz.hard-negatives", ".train.attaching"])
def test_what_is_not_of_a_search_stays(folder: Path, tmp_path: Path, work: str) -> None:
    place = folder.parent if work == ".train.attaching" else tmp_path
    (place / work).mkdir()
    (place / work / "notes.txt").write_text("precious")
    with pytest.raises(InputError, match=r"notes.txt does not belong to a .*; move it"):
        do(shards=folder, count=2, attach=True, out=tmp_path / "list.npz")
    assert (place / work / "notes.txt").read_text() == "precious"


def test_what_another_search_left_is_not_taken_over(raw: RawFolder, folder: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    find_hard_negatives(SetImages(open_set(folder)), Search(count=2, work=work))
    assert find_hard_negatives(SetImages(open_set(folder)), Search(count=1, work=work)).neighbours.shape == (6, 1)
    other = write_tsv(raw.path / "other.tsv", [Row(number) for number in (1, 9, 2)])
    found = find_hard_negatives(RawImages((str(other),)), Search(count=1, work=work))
    assert found.neighbours.tolist() == [[2], [2], [0]]


def test_a_damaged_image_stops_the_search_with_its_place(folder: Path, tmp_path: Path) -> None:
    place = int(open_set(folder).offsets[4]) + 9
    data = bytearray((folder / "000000.tar").read_bytes())
    data[place] ^= 1
    (folder / "000000.tar").write_bytes(data)
    with pytest.raises(ShardError, match=r"000000.tar, coco-5 at byte \d+: the bytes do not match"):
        do(shards=folder, out=tmp_path / "list.npz")
    assert not (tmp_path / "list.npz").exists()


def test_features_of_two_widths_are_refused(raw: RawFolder, tmp_path: Path) -> None:
    wide = Row(9, features=np.zeros((3, 5), "<f4") + 1)
    other = write_tsv(raw.path / "other.tsv", [Row(8), wide])
    with pytest.raises(InputError, match=r"other.tsv row 2 .*: features are 5 wide, those of the images before 4"):
        do(regions=(str(other),), out=tmp_path / "list.npz")


def test_an_image_that_comes_twice_is_named(raw: RawFolder, tmp_path: Path) -> None:
    other = write_tsv(raw.path / "other.tsv", [Row(3)])
    with pytest.raises(InputError, match=r"image coco-3 comes twice"):
        do(regions=(str(raw.path / "regions.tsv"), str(other)), out=tmp_path / "list.npz")


@pytest.mark.parametrize(
    ("plan", "fault"),
    [
        ({"out": "a.npz"}, "name a source"),
        ({"shards": "s"}, "name the target of the list"),
        ({"regions": ("a",), "attach": True}, "--attach needs the set"),
        ({"regions": ("a",), "imported": "b", "out": "a.npz"}, "name two sources"),
        ({"shards": "s", "imported": "b", "out": "a.npz"}, "for --attach only"),
        ({"shards": "s", "out": "a.pkl"}, "should end in .npz"),
        ({"shards": "s", "out": "a.npz", "count": 0}, "ask for at least 1"),
    ],
)
def test_a_plan_that_makes_no_sense_is_refused_before_anything_is_read(plan: dict[str, object], fault: str) -> None:
    paths = {name: Path(str(plan[name])) for name in ("shards", "imported", "out") if name in plan}
    with pytest.raises(InputError, match=fault):
        do(**{**plan, **paths})


@pytest.mark.parametrize("target", ["set", "list"])
def test_a_full_disk_leaves_everything_as_it_was_and_keeps_what_was_computed(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    def full(path: Path, data: bytes) -> None:
        if target == "set":
            path.write_bytes(data[:10])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    writer = "make_hard_negatives.write_durably" if target == "set" else "hard_negative_list.write_atomically"
    monkeypatch.setattr(f"msp_ds.preparation.hard_negatives.{writer}", full)
    before = snapshot(folder)
    plan: dict[str, object] = {"attach": True} if target == "set" else {"out": tmp_path / "list.npz"}
    with pytest.raises(InputError, match=r"cannot be written \(No space left on device\)"):
        do(shards=folder, count=2, **plan)
    assert snapshot(folder) == before
    kept = [path for path in (*folder.parent.iterdir(), *tmp_path.iterdir()) if path not in (folder, tmp_path / "raw")]
    assert [path.name for path in kept] == [f".{folder.name if target == 'set' else 'list.npz'}.hard-negatives"]
    monkeypatch.undo()
    do(shards=folder, count=2, **plan)
    assert not kept[0].exists()


def test_a_disk_that_is_full_while_computing_says_that_the_same_command_goes_on(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, data: bytes, *, temporary: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("msp_ds.preparation.hard_negatives.neighbour_search.write_atomically", full)
    with pytest.raises(InputError, match=r"free its disk, then call the same command again"):
        do(shards=folder, count=2, out=tmp_path / "list.npz")
