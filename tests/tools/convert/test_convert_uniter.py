"""UNITER's features as npz parts: read back by the package and compared with what was written by UNITER's libraries."""

from __future__ import annotations

import io
import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import lmdb
import msgpack
import msgpack_numpy
import numpy as np
import pytest

from msp_ds.data.format.region_checks import CheckedRegions, LabelCounts
from msp_ds.errors import InputError
from msp_ds.preparation.region_features.region_files import list_region_files
from tools.convert import npz_parts
from tools.convert.uniter import arrays_in, convert, image_id_of

LABELS = LabelCounts(objects=4, attributes=2)
NAMES = {
    "coco_train2014_000000000009.npz": "coco-9",
    "coco_val2014_000000000042.npz": "coco-42",
    "flickr30k_000000036979.npz": "f30k-36979",
    "nlvr2_train-10171-0-img0.npz": "nlvr2-train-10171-0-img0",
    "vg_000002.npz": "vg-2",
}
COUNTS = [3, 10, 1, 4, 2]


def dump(place: int) -> dict[str, np.ndarray]:
    """What UNITER keeps of an image: float16, boxes of six shares, scores with the background first."""
    count, rng = COUNTS[place], np.random.default_rng(place)
    corners = np.sort(rng.random((count, 2, 2)), axis=1).reshape(count, 4)
    sides = corners[:, 2:] - corners[:, :2]
    scores = rng.dirichlet(np.ones(5), size=count)
    return {
        "features": rng.random((count, 6)).astype(np.float16),
        "norm_bb": np.concatenate([corners, sides], axis=1).astype(np.float16),
        "conf": scores[:, 1:].max(1).astype(np.float16),
        "soft_labels": scores.astype(np.float16),
    }


def write_folder(folder: Path) -> Path:
    folder.mkdir()
    for place, name in enumerate(NAMES):
        np.savez_compressed(folder / name, **dump(place))
    return folder


def write_lmdb(folder: Path, *, packed: bool) -> Path:
    """As UNITER's convert_imgdir.py, with --compress or without."""
    with lmdb.open(str(folder), map_size=1 << 24) as environment, environment.begin(write=True) as transaction:
        for place, name in enumerate(NAMES):
            value = msgpack.dumps(dump(place), default=msgpack_numpy.encode, use_bin_type=True)
            if packed:
                buffer = io.BytesIO()
                np.savez_compressed(buffer, **dump(place), allow_pickle=True)
                value = buffer.getvalue()
            transaction.put(name.encode(), value)
        transaction.put(b"__keys__", json.dumps(list(NAMES)).encode())
    return folder


def sources(tmp_path: Path) -> list[Path]:
    return [
        write_folder(tmp_path / "npz"),
        write_lmdb(tmp_path / "msgpack", packed=False),
        write_lmdb(tmp_path / "packed", packed=True),
    ]


def read_all(out: Path) -> list[CheckedRegions]:
    return [file.read(row, LABELS) for file in list_region_files((str(out),)) for row in file.rows()]


def test_names_become_canonical_ids() -> None:
    assert [image_id_of(name, where="here") for name in NAMES] == list(NAMES.values())
    with pytest.raises(InputError, match="here: 'cat' is no image id"):
        image_id_of("cat.npz", where="here")


def test_a_folder_and_both_kinds_of_lmdb_give_the_same_records(tmp_path: Path) -> None:
    for source in sources(tmp_path):
        out = tmp_path / "out" / source.name
        report = convert(source, out=out, nominal_size=1000)
        assert (report.num_images, report.num_kept, report.num_left_out) == (5, 0, 0)
        for place, (reading, image_id) in enumerate(zip(read_all(out), NAMES.values(), strict=True)):
            record, written = reading.record, dump(place)
            assert record.image_id == image_id
            np.testing.assert_array_equal(record.features, written["features"])
            np.testing.assert_allclose(record.boxes, written["norm_bb"][:, :4].astype(np.float32) * 1000, atol=1e-3)
            best = [max(range(1, 5), key=lambda label, row=row: row[label]) for row in written["soft_labels"]]
            assert record.object_ids.tolist() == [label - 1 for label in best]
            np.testing.assert_array_equal(
                record.object_scores, [row[label] for row, label in zip(written["soft_labels"], best, strict=True)]
            )
            assert set(record.attribute_ids.tolist()) == {-1}


def test_known_sizes_give_boxes_in_pixels(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "npz")
    for name in list(NAMES)[2:]:
        (source / name).unlink()
    coco = tmp_path / "coco.json"
    coco.write_text(json.dumps({"images": [{"id": 9, "height": 100, "width": 200}]}))
    genome = tmp_path / "image_data.json"
    genome.write_text(json.dumps([{"image_id": 2, "height": 7, "width": 9}]))
    with pytest.raises(InputError, match=r"image coco-42: its size is in none of the --sizes; .*--on-error skip"):
        convert(source, out=tmp_path / "out", sizes=[coco, genome])
    report = convert(source, out=tmp_path / "out", sizes=[coco, genome], on_error="skip")
    assert (report.num_images, report.num_left_out) == (1, 1)
    [reading] = read_all(tmp_path / "out")
    assert (reading.record.height, reading.record.width) == (100, 200)
    np.testing.assert_allclose(
        reading.record.boxes, dump(0)["norm_bb"][:, :4].astype(np.float32) * [200, 100, 200, 100], atol=1e-4
    )


def test_a_size_must_be_named_one_way(tmp_path: Path) -> None:
    for sizes in ({}, {"sizes": [tmp_path / "a.json"], "nominal_size": 10}):
        with pytest.raises(InputError, match="--nominal-size"):
            convert(tmp_path, out=tmp_path / "out", **sizes)  # type: ignore[arg-type]


def test_finished_parts_are_kept_and_the_rest_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(npz_parts, "IMAGES_A_PART", 2)
    source = write_folder(tmp_path / "npz")
    convert(source, out=tmp_path / "out", nominal_size=10)
    parts = sorted((tmp_path / "out").iterdir())
    assert [path.name for path in parts] == ["part-000000.npz", "part-000001.npz", "part-000002.npz"]
    before = [path.read_bytes() for path in parts]
    parts[1].unlink()
    report = convert(source, out=tmp_path / "out", nominal_size=10)
    assert (report.num_images, report.num_kept) == (2, 3)
    assert [path.read_bytes() for path in parts] == before


def test_parts_of_another_source_are_not_taken_for_finished(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "npz")
    convert(source, out=tmp_path / "out", nominal_size=10)
    (source / next(iter(NAMES))).unlink()
    with pytest.raises(InputError, match=r"part-000000.npz holds other images .* name another --out"):
        convert(source, out=tmp_path / "out", nominal_size=10)


def test_a_cut_image_is_named_and_nothing_half_written_stays(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "npz")
    path = source / "vg_000002.npz"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(InputError, match=r"image vg-2: vg_000002.npz is damaged \(BadZipFile"):
        convert(source, out=tmp_path / "out", nominal_size=10)
    assert list((tmp_path / "out").iterdir()) == []
    assert convert(source, out=tmp_path / "out", nominal_size=10, on_error="skip").num_left_out == 1


def test_a_full_disk_leaves_no_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(InputError, match=r"cannot be written .No space left"):
        convert(write_folder(tmp_path / "npz"), out=tmp_path / "out", nominal_size=10)
    assert list((tmp_path / "out").iterdir()) == []


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("boom",))


def test_arrays_of_objects_are_refused_and_not_unpickled(capsys: pytest.CaptureFixture[str]) -> None:
    bomb = msgpack.dumps(np.array([Bomb()], object), default=msgpack_numpy.encode, use_bin_type=True)
    value = msgpack.dumps({"features": np.array([Bomb()], object)}, default=msgpack_numpy.encode, use_bin_type=True)
    assert b"print" in bomb
    with pytest.raises(ValueError, match="is not of plain numbers"):
        arrays_in(value)
    buffer = io.BytesIO()
    np.savez(buffer, features=np.array([Bomb()], object))
    with pytest.raises(ValueError, match="allow_pickle"):
        arrays_in(buffer.getvalue())
    with pytest.raises((ValueError, msgpack.UnpackException)):
        arrays_in(pickle.dumps(Bomb()))
    assert capsys.readouterr().out == ""


def test_the_command_reports_what_it_wrote(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "npz")
    program = Path(__file__).resolve().parents[3] / "tools" / "convert/uniter.py"
    command = [sys.executable, str(program), str(source), "--out", str(tmp_path / "out")]
    done = subprocess.run([*command, "--nominal-size", "1000"], capture_output=True, text=True, timeout=60)
    assert done.stdout == f"{tmp_path / 'out'}: 5 images written, 0 kept, 0 left out\n"
    refused = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert refused.returncode == 2
    assert refused.stderr.startswith("error: UNITER keeps no image sizes")
