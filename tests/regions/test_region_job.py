"""The folder of `msp-ds regions`: the same bytes whatever the order, the processes and what cut it short."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import colour_cells
import numpy as np
import pytest
from colour_cells import Write, draw
from PIL import Image
from raw_files import snapshot

from msp_ds.detector_record import DetectorRecord
from msp_ds.errors import InputError
from msp_ds.preparation.region_features.region_files import list_region_files
from msp_ds.regions.detector import DetectorOptions
from msp_ds.storage.locks import lock_folder, share_folder

ROOT = Path(__file__).resolve().parents[2]
PARTS = {f"00000{number}.{ending}" for number in range(3) for ending in ("npz", "json")}


def arrays(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as archive:
        return dict(archive)


def index(out: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads((out / "regions.json").read_bytes())
    return found


def test_a_part_holds_the_regions_of_its_pictures(tmp_path: Path, write: Write) -> None:
    pixels = np.zeros((6, 9, 3), np.uint8)
    pixels[:2, :3], pixels[4:, 6:] = (0, 0, 255), (255, 255, 255)  # all other cells are black and no regions
    photos = tmp_path / "photos"
    photos.mkdir()
    Image.fromarray(pixels).save(photos / "Two cells.png")
    draw(photos / "noise.png", 1)
    write(photos, tmp_path / "out", options=DetectorOptions(regions=4))
    found = arrays(tmp_path / "out" / "000000.npz")
    shapes = {name: (array.dtype.str, array.shape) for name, array in found.items() if name != "detector"}
    assert shapes == {
        "image_id": ("<U13", (2,)),
        **dict.fromkeys(("height", "width", "num_boxes"), ("<i4", (2,))),
        "boxes": ("<f4", (2, 4, 4)),
        "objects_id": ("<i4", (2, 4)),
        "objects_conf": ("<f4", (2, 4)),
        "features": ("<f2", (2, 4, 6)),
    }
    assert found["image_id"].tolist() == ["own-two-cells", "own-noise"]
    assert (found["height"][0], found["width"][0]) == (6, 9)
    assert found["num_boxes"].tolist() == [2, 4]
    assert found["boxes"][0].tolist() == [[6, 4, 9, 6], [0, 0, 3, 2], [0] * 4, [0] * 4]
    assert found["objects_id"][0].tolist() == [0, 2, -1, -1]
    assert found["objects_conf"][0].tolist() == [1, 1, 0, 0]
    assert found["features"][0].tolist() == [[1, 1, 1, 0, 0, 0], [0, 0, 1, 0, 0, 0], [0] * 6, [0] * 6]


def test_a_part_and_the_index_name_the_detector(tmp_path: Path, photos: Path, write: Write) -> None:
    write(photos, tmp_path / "out")
    text = str(arrays(tmp_path / "out" / "000001.npz")["detector"])
    record = DetectorRecord(**json.loads(text))
    assert (record.kind, record.settings["regions"]) == ("colours", "36")
    assert {"msp-ds", "torch", "pillow"} <= record.versions.keys()
    found = index(tmp_path / "out")
    assert found["detector"] == json.loads(text)
    assert (found["images"], found["regions"], found["feature_width"]) == (7, 63, 6)
    assert found["labels"] == ["objects_vocab.txt"]
    assert (tmp_path / "out" / "objects_vocab.txt").read_text() == "red,crimson\ngreen\nblue\n"
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == PARTS | {"plan.json", "regions.json", "objects_vocab.txt"}


def test_the_order_of_names_does_not_matter(tmp_path: Path, photos: Path, write: Write) -> None:
    write(photos, tmp_path / "one")
    write(sorted(photos.iterdir(), reverse=True), tmp_path / "two")
    assert snapshot(tmp_path / "one") == snapshot(tmp_path / "two")


@pytest.mark.slow
def test_two_processes_give_the_same_bytes(tmp_path: Path, photos: Path, write: Write) -> None:
    for number in range(7, 20):  # three batches
        draw(photos / f"IMG {number}.png", number)
    (photos / "IMG 3.png").write_bytes(b"")
    write(photos, tmp_path / "one", on_error="skip")
    write(photos, tmp_path / "two", on_error="skip", jobs=2)
    assert snapshot(tmp_path / "one") == snapshot(tmp_path / "two")


def test_parts_of_a_job_array_are_the_whole(tmp_path: Path, photos: Path, write: Write) -> None:
    write(photos, tmp_path / "whole")
    second = write(photos, tmp_path / "parts", part=(1, 2))
    assert second[1] == "1 of 3 parts are whole; the last command writes regions.json"
    assert not (tmp_path / "parts" / "regions.json").exists()
    (line,) = write(photos, tmp_path / "parts", part=(0, 2))
    assert line.startswith(f"7 images with 63 regions in {tmp_path / 'parts'} (")
    assert snapshot(tmp_path / "parts") == snapshot(tmp_path / "whole")


CUT_SHORT = """
import os, sys, time
from pathlib import Path
from msp_ds.data.progress import NoProgress
from msp_ds.regions import region_parts
from msp_ds.regions.region_job import RegionsJob, write_regions
from msp_ds.terminal import resumable

class Fate(NoProgress):
    left = int(sys.argv[3])
    def advance(self, amount):
        self.left -= amount
        if self.left <= 0 < self.left + amount:  # pictures may be counted several at a time
            os.kill(os.getpid(), int(sys.argv[4]))
            time.sleep(2)

if __name__ == "__main__":
    region_parts.PICTURES_PER_PART = 3
    job = RegionsJob(photos=[sys.argv[1]], detector="colours", jobs=int(sys.argv[5]))
    with resumable():
        write_regions(job, Path(sys.argv[2]), progress=Fate())
"""


def cut_short(photos: Path, out: Path, *, after: int, by: signal.Signals, jobs: int = 1) -> tuple[int, str]:
    """Run the command in a process that gets a signal after so many pictures; return its exit code and messages."""
    words = [sys.executable, "-c", CUT_SHORT, photos, out, after, int(by), jobs]
    done = subprocess.run([str(word) for word in words], cwd=ROOT, capture_output=True, text=True, timeout=120)
    return done.returncode, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("after", [2, 5])
def test_killed_and_resumed_is_never_killed(tmp_path: Path, photos: Path, write: Write, after: int) -> None:
    write(photos, tmp_path / "whole")
    out = tmp_path / "out"
    assert cut_short(photos, out, after=after, by=signal.SIGKILL)[0] == -signal.SIGKILL
    before = {path.name: path.stat().st_ino for path in out.glob("0*")}
    assert set(before) == (set() if after < 3 else {"000000.npz", "000000.json"})
    (out / ".000001.npz.tmp").write_bytes(b"half")  # as if it had been killed while it wrote
    write(photos, out)
    assert {name: (out / name).stat().st_ino for name in before} == before
    assert {name: data for name, data in snapshot(out).items() if name != ".owner"} == snapshot(tmp_path / "whole")


@pytest.mark.full
@pytest.mark.parametrize("by", [signal.SIGKILL, signal.SIGINT])
def test_processes_end_with_the_command(tmp_path: Path, photos: Path, write: Write, by: signal.Signals) -> None:
    for number in range(7, 40):
        draw(photos / f"IMG {number}.png", number)
    code, messages = cut_short(photos, tmp_path / "out", after=9, by=by, jobs=2)  # returns when none holds the pipe
    assert (code, messages) == {
        signal.SIGKILL: (-signal.SIGKILL, ""),
        signal.SIGINT: (130, "interrupted; the same command continues from here\n"),
    }[by]
    write(photos, tmp_path / "out", jobs=2)
    write(photos, tmp_path / "whole")
    assert snapshot(tmp_path / "out") == snapshot(tmp_path / "whole")


@pytest.mark.full
@pytest.mark.parametrize(
    ("end", "why"),
    [("silent", "a process with colours ended before .* fewer --jobs if it"), ("complain", "^colours are out$")],
)
def test_a_process_that_ends_is_named(
    tmp_path: Path, photos: Path, write: Write, monkeypatch: pytest.MonkeyPatch, end: str, why: str
) -> None:
    for number in range(7, 20):
        draw(photos / f"IMG {number}.png", number)
    monkeypatch.setenv("COLOURS_END", end)
    with pytest.raises(InputError, match=why):
        write(photos, tmp_path / "out", jobs=2)


def test_new_pictures_are_new_parts(tmp_path: Path, photos: Path, write: Write) -> None:
    out = tmp_path / "out"
    write(photos, out)
    before = {name: (out / name).stat().st_ino for name in PARTS}
    draw(photos / "A first.png", 99)
    write(photos, out)
    assert {name: (out / name).stat().st_ino for name in PARTS} == before
    assert arrays(out / "000003.npz")["image_id"].tolist() == ["own-a-first"]
    assert index(out)["images"] == 8
    stamp = (out / "regions.json").read_bytes()
    write(photos, out)
    assert (out / "regions.json").read_bytes() == stamp


def test_a_mixture_is_refused_and_both_are_named(tmp_path: Path, photos: Path, write: Write) -> None:
    out = tmp_path / "out"
    write(photos, out)
    before = snapshot(out)
    with pytest.raises(
        InputError, match=r"holds regions of colours 3x3 .*regions 36\), not of .*regions 4\); name ano"
    ):
        write(photos, out, options=DetectorOptions(regions=4))
    with pytest.raises(InputError, match="was begun with --largest-pixels 89478485, not 5000; name another --out"):
        write(photos, out, largest_pixels=5000)
    (photos / "IMG 0.png").rename(photos / "IMG 9.png")
    with pytest.raises(
        InputError, match=r"IMG 0\.png is in .*plan\.json, but not found now; name it too, or name another"
    ):
        write(photos, out)
    draw(photos / "IMG 0.png", 5, size=(40, 40))
    with pytest.raises(InputError, match=r"IMG 0\.png has changed since .*plan\.json was written; put it back, or"):
        write(photos, out)
    assert snapshot(out) == before


def test_a_plan_without_a_whole_part_is_made_again(tmp_path: Path, photos: Path, write: Write) -> None:
    (photos / "IMG 1.png").write_bytes(b"")
    with pytest.raises(InputError, match=r"IMG 1\.png: is empty, .*; leave out and list .* with --on-error skip"):
        write(photos, tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"plan.json"}
    (photos / "IMG 1.png").unlink()
    assert write(photos, tmp_path / "out")[0].startswith("6 images")


def test_archives_of_another_origin_are_not_mixed_in(tmp_path: Path, photos: Path, write: Write) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "000007.npz").touch()
    with pytest.raises(InputError, match=r"000007\.npz is no part of plan\.json; delete it, or name another --out"):
        write(photos, tmp_path / "out")
    write(photos, tmp_path / "whole")
    (tmp_path / "out" / "000007.npz").rename(tmp_path / "whole" / "mine.npz")  # beside the parts
    with pytest.raises(InputError, match=r"mine\.npz is no part of plan\.json"):
        write(photos, tmp_path / "whole")


def test_a_damaged_plan_is_named(tmp_path: Path, photos: Path, write: Write) -> None:
    write(photos, tmp_path / "out")
    (tmp_path / "out" / "plan.json").write_text("{")
    with pytest.raises(InputError, match=r"plan\.json cannot be read .*; name another --out"):
        write(photos, tmp_path / "out")


def test_two_files_of_one_id_are_refused_with_both_paths(tmp_path: Path, photos: Path, write: Write) -> None:
    draw(photos / "img-3.bmp", 0)
    with pytest.raises(InputError, match=r"IMG 3\.png and .*img-3\.bmp would both be image own-img-3; rename one"):
        write(photos, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_ids_are_own_unless_every_name_says_its_corpus(tmp_path: Path, write: Write) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    draw(photos / "COCO_val2014_000000000042.png", 0)
    draw(photos / "train-7-0-img1.png", 1)
    write(photos, tmp_path / "told")
    assert arrays(tmp_path / "told" / "000000.npz")["image_id"].tolist() == ["coco-42", "nlvr2-train-7-0-img1"]
    draw(photos / "12.png", 2)
    write(photos, tmp_path / "own")
    assert arrays(tmp_path / "own" / "000000.npz")["image_id"].tolist()[0] == "own-12"
    with pytest.raises(InputError, match="'cat' is no image id of vg"):
        write([draw(tmp_path / "cat.png", 0)], tmp_path / "out", corpus="vg")
    write([photos / "12.png"], tmp_path / "vg", corpus="vg")
    assert arrays(tmp_path / "vg" / "000000.npz")["image_id"].tolist() == ["vg-12"]


def test_pictures_without_regions_and_damaged_ones_are_listed(tmp_path: Path, photos: Path, write: Write) -> None:
    for number in (3, 4, 5):  # the whole second part
        (photos / f"IMG {number}.png").write_bytes(b"no picture")
    Image.new("RGB", (1, 1), "red").save(photos / "IMG 6.png")
    (photos / "x.jpg").mkdir()
    (photos / "gone.jpg").symlink_to("nowhere")
    out = tmp_path / "out"
    report = write(photos, out, on_error="skip")
    assert report[0].startswith("3 images with 27 regions in ")
    assert report[1:] == ["6 of 9 left out, listed in regions.json"]
    assert {path.name for path in out.glob("*.npz")} == {"000000.npz"}
    unknown = "is not a readable picture (none of JPEG, PNG, WEBP, TIFF, BMP, GIF)"
    assert index(out)["left_out"] == {
        **{str(photos / f"IMG {number}.png"): unknown for number in (3, 4, 5)},
        str(photos / "IMG 6.png"): "the detector finds no region in it",
        str(photos / "gone.jpg"): "is not a readable picture (No such file or directory)",
        str(photos / "x.jpg"): "is not a readable picture (it is a folder)",
    }
    assert write(photos, out) == report  # it is whole: nothing is opened again


def test_a_picture_that_was_left_out_may_be_deleted_or_come_back_repaired(
    tmp_path: Path, photos: Path, write: Write
) -> None:
    (photos / "IMG 3.png").write_bytes(b"no picture")
    before = write(photos, tmp_path / "out", on_error="skip")
    (photos / "IMG 3.png").unlink()
    assert write(photos, tmp_path / "out") == before
    draw(photos / "img_3.png", 3)
    write(photos, tmp_path / "out")
    assert arrays(tmp_path / "out" / "000003.npz")["image_id"].tolist() == ["own-img-3"]


def test_a_folder_is_written_by_one_command(tmp_path: Path, photos: Path, write: Write) -> None:
    out = tmp_path / "out"
    with lock_folder(out):
        with pytest.raises(InputError, match="is being written by process"):
            write(photos, out)
        with pytest.raises(InputError, match=r"is being written by process .* alone; wait for it"):
            write(photos, out, part=(0, 2))


def test_while_parts_are_written_nobody_writes_another_plan(tmp_path: Path, photos: Path, write: Write) -> None:
    out = tmp_path / "out"
    with share_folder(out):
        write(photos, out, part=(0, 2))
        with pytest.raises(InputError, match="is being written by another process; wait for it"):
            write(photos, out)
    write(photos, out)


def test_features_that_are_not_finite_are_left_out(
    tmp_path: Path, photos: Path, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    def overflowing(pixels: np.ndarray) -> np.ndarray:
        return np.full(6, np.inf if len(pixels) == 88 else 1.0)  # cells of the last three pictures

    monkeypatch.setattr(colour_cells, "_statistics", overflowing)
    with pytest.raises(InputError, match=r"IMG 3\.png: the detector's features are not finite .*--on-error skip"):
        write(photos, tmp_path / "out")
    report = write(photos, tmp_path / "out", on_error="skip")
    assert report[1] == "3 of 7 left out, listed in regions.json"


def test_other_readings_of_the_names_are_refused(tmp_path: Path, write: Write) -> None:
    picture, out = draw(tmp_path / "COCO_val2014_000000000042.png", 0), tmp_path / "out"
    write([picture], out)
    with pytest.raises(InputError, match=r"is coco-42 in .*, now own-coco-val.*; give the --corpus of before, or"):
        write([picture, draw(tmp_path / "cat.png", 1)], out)


def test_a_picture_that_vanishes_is_one_line(tmp_path: Path, write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    picture = tmp_path / "gone.png"
    monkeypatch.setattr("msp_ds.regions.region_job.list_pictures", lambda paths: [picture])
    with pytest.raises(InputError, match=r"gone\.png cannot be looked at \(No such file .*; give the same command"):
        write([picture], tmp_path / "out")


def test_regions_that_are_not_finished_are_no_source_of_shards(tmp_path: Path, photos: Path, write: Write) -> None:
    write(photos, tmp_path / "out", part=(0, 2))
    with pytest.raises(InputError, match=r"out is not finished, regions\.json is missing; give its msp-ds regions"):
        list_region_files((str(tmp_path / "out"),))


def test_a_full_disk_is_one_line(tmp_path: Path, photos: Path, write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr("msp_ds.regions.region_parts.write_atomically", full)
    with pytest.raises(InputError, match=r"out cannot be written \(No space left on device\); free its disk and give"):
        write(photos, tmp_path / "out")
