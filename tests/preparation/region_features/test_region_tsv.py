"""The TSV family."""

from __future__ import annotations

import bz2
import copy
import dataclasses
import gzip
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import zstandard
from raw_files import Row, adaptive_row, write_lines, write_tsv

from msp_ds.data.format.faults import Faults, RowError
from msp_ds.data.format.region_checks import CheckedRegions, LabelCounts
from msp_ds.errors import InputError
from msp_ds.preparation.parsing import byte_streams
from msp_ds.preparation.region_features.region_files import list_region_files
from msp_ds.preparation.region_features.region_tsv import TsvRegions

LABELS = LabelCounts(objects=3, attributes=2)


def read(path: Path) -> list[CheckedRegions]:
    regions = TsvRegions(path, "coco")
    return [regions.read(row, LABELS) for row in regions.rows()]


def test_a_row_becomes_a_record(tmp_path: Path) -> None:
    [_, reading] = read(write_tsv(tmp_path / "a.tsv", [Row(1), Row(2)]))
    record = reading.record
    assert (record.image_id, record.source, record.height, record.width) == ("coco-2", "a.tsv row 2", 48, 64)
    assert record.object_ids.tolist() == [0, 2, -1]
    assert record.attribute_ids.tolist() == [1, -1, 0]
    assert record.boxes.tolist() == [[0, 0, 32, 24], [8, 8, 64, 48], [1.5, 2.5, 3.5, 4.5]]
    np.testing.assert_array_equal(record.object_scores, np.float32([0.9, 0.5, 0]))
    np.testing.assert_array_equal(record.attribute_scores, np.float32([0.8, 0, 0.3]))


def test_features_are_the_nearest_halves(tmp_path: Path) -> None:
    # 1 + 2^-11 and 1 + 3 * 2^-11 lie between two halves: ties go to the even one.
    values = np.random.default_rng(0).normal(size=(3, 64)).astype("<f4")
    values[0, :4] = [1 + 2**-11, 1 + 3 * 2**-11, 1e-8, 65504.0]
    [reading] = read(write_tsv(tmp_path / "a.tsv", [Row(1, features=values)]))
    assert reading.record.features.dtype == np.float16
    np.testing.assert_array_equal(reading.record.features, values.astype(np.float16))


def test_boxes_over_the_edge_are_clipped_and_counted(tmp_path: Path) -> None:
    boxes = np.array([[-0.5, 0, 10, 10], [0, 0, 64.00001, 48], [3, 3, 9, 9]], "<f4")
    [reading] = read(write_tsv(tmp_path / "a.tsv", [Row(1, boxes=boxes)]))
    assert reading.num_clipped == 2
    assert reading.record.boxes.tolist() == [[0, 0, 10, 10], [0, 0, 64, 48], [3, 3, 9, 9]]


def test_a_python_wrapper_around_base64_is_taken_off(tmp_path: Path) -> None:
    columns = Row(1).columns()
    columns[9] = b"b'" + columns[9] + b"'"
    (tmp_path / "a.tsv").write_bytes(b"\t".join(columns))
    [reading] = read(tmp_path / "a.tsv")
    np.testing.assert_array_equal(reading.record.features, Row(1).features.astype(np.float16))


def test_the_bytes_of_the_rows_sum_to_the_file(tmp_path: Path) -> None:
    path = write_tsv(tmp_path / "a.tsv", [Row(1), Row(20)])
    rows = list(TsvRegions(path, "vg").rows())
    assert [(row.image_id, row.number) for row in rows] == [("coco-1", 1), ("coco-20", 2)]
    assert [row.offset for row in rows] + [path.stat().st_size] == [0, rows[0].length, rows[0].length + rows[1].length]


def test_rows_are_read_in_any_order_and_by_other_threads_and_processes(tmp_path: Path) -> None:
    regions = TsvRegions(write_tsv(tmp_path / "a.tsv", [Row(1), Row(20), Row(3)]), "coco")
    rows = list(regions.rows())
    assert [regions.read(row, LABELS).record.image_id for row in reversed(rows)] == ["coco-3", "coco-20", "coco-1"]
    for other in (pickle.loads(pickle.dumps(regions)), copy.copy(regions)):
        assert "_reader" not in vars(other)
        assert other.read(rows[1], LABELS).record.source == "a.tsv row 2"


FEATURES = {
    "relu": np.maximum(np.random.default_rng(0).normal(0.2, 0.5, (3, 16)), 0),
    "of both signs": np.random.default_rng(0).normal(size=(3, 16)),
    "of few digits": 1 + np.arange(48).reshape(3, 16) / 8,
    "all alike": np.full((3, 16), 0.5),
}


@pytest.mark.parametrize("values", FEATURES.values(), ids=FEATURES)
@pytest.mark.parametrize("kind", ["float16", "float32", "float64"])
def test_the_type_of_the_features_is_told_from_their_bytes(tmp_path: Path, values: np.ndarray, kind: str) -> None:
    path = write_tsv(tmp_path / "a.tsv", [Row(1, features=values.astype(kind))])
    if (kind, values[0, 0]) == ("float16", 0.5):
        # 0x3800, again and again, is 0.5 in float16 and 0.0000305 in float32.
        with pytest.raises(
            InputError, match=r"a.tsv: .* 32 bytes, may be 16 numbers of float16 or 8 numbers of float32 or .*; choose"
        ):
            read(path)
    else:
        [reading] = read(path)
        assert TsvRegions(path, "coco").feature_type == kind
        np.testing.assert_array_equal(reading.record.features, values.astype(kind).astype(np.float16))


@pytest.mark.parametrize("kind", ["float16", "float32"])
def test_the_user_may_say_the_type_of_the_features(tmp_path: Path, kind: str) -> None:
    path = write_tsv(tmp_path / "a.tsv", [Row(1, features=np.full((3, 16), 0.5, "<f2"))])
    [file] = list_region_files((f"coco:{path}#{kind}",))
    [row] = file.rows()
    assert file.read(row, LABELS).record.features.shape == {"float16": (3, 16), "float32": (3, 8)}[kind]
    assert file.feature_type == kind


def test_rows_of_another_type_are_refused(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(3, 16))
    # As many bytes: 8 numbers of float32, 16 of float16.
    rows = [Row(1, features=values[:, :8].astype("<f4")), Row(2, features=values.astype("<f2"))]
    with pytest.raises(RowError, match=r"image coco-2: features are float16, those of the images before float32"):
        read(write_tsv(tmp_path / "a.tsv", rows))


@pytest.mark.parametrize("size", ["48", "48.0", "48.", " 48 ", "+48"])
def test_sizes_may_be_written_as_floating_point_numbers(tmp_path: Path, size: str) -> None:
    path = write_tsv(tmp_path / "a.tsv", [Row(1, height=size, width="64.00", num_boxes="3.0")])
    [reading] = read(path)
    assert (reading.record.height, reading.record.width, len(reading.record.boxes)) == (48, 64, 3)


NAN = np.full((3, 4), 1, "<f4")
NAN[1, 2] = np.nan
BAD_ROWS = {
    "NaN feature": (Row(2, features=NAN), "feature 2 of region 1 is nan"),
    "infinite feature": (Row(2, features=np.full((3, 4), np.inf, "<f4")), "feature 0 of region 0 is inf"),
    "feature beyond float16": (Row(2, features=np.full((3, 4), 1e5, "<f4")), "is 100000.0; features must be"),
    "object id beyond": (Row(2, object_ids=np.array([0, 3, 1], "<i8")), "object id 3 of region 1 is outside"),
    "object id below": (Row(2, object_ids=np.array([-2, 0, 1], "<i8")), "object id -2 of region 0 is outside"),
    "attribute id beyond": (Row(2, attribute_ids=np.array([0, 1, 70000], "<i8")), "attribute id 70000 of region 2"),
    "score beyond": (Row(2, object_scores=np.array([0, 2, 1], "<f4")), "object confidence is not between"),
    "NaN score": (Row(2, attribute_scores=np.array([0, np.nan, 1], "<f4")), "attribute confidence is not between"),
    "zero height": (Row(2, height=0), "height 0 and width 64 should be positive"),
    "word for a width": (Row(2, width="wide"), "img_w should be a whole number"),
    "half a pixel": (Row(2, height="480.5"), "img_h should be a whole number, but is '480.5'"),
    "not a number": (Row(2, height="nan"), "img_h should be a whole number, but is 'nan'"),
    "infinite width": (Row(2, width="inf"), "img_w should be a whole number, but is 'inf'"),
    "negative width": (Row(2, width="-64.0"), "height 48 and width -64 should be positive"),
    "no boxes": (Row(2, num_boxes=0), "num_boxes is 0"),
    "wrong count": (Row(2, num_boxes=4), "column boxes holds 48 bytes instead of 64 bytes for 4 boxes"),
    "ids of half the size": (Row(2, object_ids=np.array([0, 1, 2], "<i4")), "objects_id holds 12 bytes instead of 24"),
    "torn features": (Row(2, features=np.ones(13, "<f4")), "column features holds 52 bytes"),
    "NaN box": (Row(2, boxes=np.full((3, 4), np.nan, "<f4")), "a box is not finite"),
    "x y w h": (Row(2, boxes=np.array([[30, 20, 5, 5]] * 3, "<f4")), "boxes should be x0 y0 x1 y1"),
    "shares": (Row(2, boxes=np.array([[0, 0, 1, 0.5]] * 3, "<f4")), "should be pixels, not fractions"),
}


@pytest.mark.parametrize(("row", "fault"), BAD_ROWS.values(), ids=BAD_ROWS)
def test_a_bad_row_is_refused_with_file_row_offset_and_image(tmp_path: Path, row: Row, fault: str) -> None:
    path = write_tsv(tmp_path / "a.tsv", [Row(1), row])
    offset = len(b"\t".join(Row(1).columns())) + 1
    with pytest.raises(InputError) as caught:
        read(path)
    message = str(caught.value)
    assert message.startswith(f"{path} row 2 (byte {offset}), image coco-2: ")
    assert fault in message
    assert "\n" not in message


def test_a_foreign_id_is_refused_with_its_row(tmp_path: Path) -> None:
    path = write_tsv(tmp_path / "a.tsv", [Row(1, image_id="cat")])
    with pytest.raises(InputError, match=r"a.tsv row 1 \(byte 0\): 'cat' is no image id"):
        read(path)
    with pytest.raises(InputError, match=r"a.tsv row 1 \(byte 0\): 'cat' is no image id"):
        list(TsvRegions(path, "coco").rows())


@pytest.mark.parametrize("kept", range(0, 410, 7))
def test_a_row_cut_anywhere_is_refused(tmp_path: Path, kept: int) -> None:
    whole = b"\t".join(Row(1).columns())
    (tmp_path / "a.tsv").write_bytes(whole + b"\n" + whole[: min(kept + 1, len(whole) - 1)])
    with pytest.raises(InputError, match="row 2"):
        read(tmp_path / "a.tsv")


@pytest.mark.parametrize("count", [1, 5, 8, 9, 11, 12, 14])
def test_another_number_of_columns_is_refused(tmp_path: Path, count: int) -> None:
    columns = (Row(1).columns() + [b"x"] * 4)[:count]
    (tmp_path / "a.tsv").write_bytes(b"\t".join(columns) + b"\n")
    with pytest.raises(InputError, match=rf"row 1 \(byte 0\): has {count} columns instead of 10 \(LXMERT\), 6"):
        read(tmp_path / "a.tsv")


def test_an_empty_and_a_missing_file_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").touch()
    with pytest.raises(InputError, match=r"a.tsv is empty"):
        read(tmp_path / "a.tsv")
    with pytest.raises(InputError, match=r"b.tsv cannot be read \(No such file"):
        read(tmp_path / "b.tsv")


def test_the_real_sample_reads_as_the_csv_module_reads_it(real_data: Path) -> None:
    import base64
    import csv

    path = real_data / "regions_obj36" / "train2014_obj36_sample.tsv"
    csv.field_size_limit(1 << 24)
    with path.open(newline="") as file:
        rows = list(csv.reader(file, delimiter="\t"))
    regions = TsvRegions(path, "coco")
    readings = [regions.read(row, LabelCounts(objects=1600, attributes=400)) for row in regions.rows()]
    assert [reading.record.image_id for reading in readings] == [f"coco-{int(row[0][-12:])}" for row in rows]
    for row, reading in zip(rows, readings, strict=True):
        expected = np.frombuffer(base64.b64decode(row[9]), "<f4").reshape(36, 2048).astype(np.float16)
        np.testing.assert_array_equal(reading.record.features, expected)
        assert dataclasses.asdict(reading.record)["height"] == int(row[1])


CLASSES = b"AAAA"
"""A column that is not needed and not looked at."""


def test_bottom_up_rows_put_the_width_first_and_have_no_labels(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.tsv", [Row(3, height=480, width=640).bottom_up_columns()])
    [reading] = read(path)
    record = reading.record
    assert (record.image_id, record.height, record.width) == ("coco-3", 480, 640)
    assert record.object_ids.tolist() == record.attribute_ids.tolist() == [-1, -1, -1]
    assert record.object_scores.tolist() == record.attribute_scores.tolist() == [0, 0, 0]
    np.testing.assert_array_equal(record.features, Row(3).features.astype(np.float16))
    assert not TsvRegions(path, "coco").has_labels


def test_ten_to_a_hundred_boxes_are_read_as_they_come(tmp_path: Path) -> None:
    counts = [10, 57, 100]
    rows = [adaptive_row(number, count) for number, count in enumerate(counts)]
    readings = read(write_lines(tmp_path / "a.tsv", [row.bottom_up_columns() for row in rows]))
    for row, reading in zip(rows, readings, strict=True):
        np.testing.assert_array_equal(reading.record.features, row.features.astype(np.float16))
        np.testing.assert_array_equal(reading.record.boxes, row.boxes)


def test_the_class_scores_of_vilbert_and_volta_are_left_aside(tmp_path: Path) -> None:
    vilbert = write_lines(tmp_path / "7.tsv", [[*Row(3).bottom_up_columns(), CLASSES]])
    volta = write_lines(tmp_path / "13.tsv", [[*Row(3).columns(), CLASSES, CLASSES, CLASSES]])
    lxmert = write_tsv(tmp_path / "10.tsv", [Row(3)])
    assert [TsvRegions(path, "coco").has_labels for path in (vilbert, volta, lxmert)] == [False, True, True]
    [seven], [thirteen], [ten] = read(vilbert), read(volta), read(lxmert)
    np.testing.assert_array_equal(seven.record.features, ten.record.features)
    assert thirteen.record.attribute_scores.tolist() == ten.record.attribute_scores.tolist()
    assert thirteen.record.object_ids.tolist() == [0, 2, -1]


def test_rows_of_another_layout_within_a_file_are_refused(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.tsv", [Row(1).columns(), Row(2).bottom_up_columns()])
    with pytest.raises(InputError, match=r"row 2 \(byte 264\), image coco-2: has 6 columns instead of 10"):
        list(TsvRegions(path, "coco").rows())


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".zst": lambda data: zstandard.ZstdCompressor().compress(data),
}


def pack_in_two(path: Path, ending: str) -> Path:
    """The file as two compressed parts, one behind the other, as parallel packers and `cat` write it."""
    data = path.read_bytes()
    packed = path.with_name(path.name + ending)
    packed.write_bytes(PACKERS[ending](data[:300]) + PACKERS[ending](data[300:]))
    return packed


@pytest.mark.parametrize("ending", PACKERS)
def test_compressed_files_read_as_plain_ones(tmp_path: Path, ending: str) -> None:
    plain = write_tsv(tmp_path / "a.tsv", [Row(number) for number in range(1, 6)])
    regions, packed = TsvRegions(plain, "coco"), TsvRegions(pack_in_two(plain, ending), "coco")
    rows = list(packed.rows())
    assert rows == list(regions.rows())
    # Forwards with gaps, and backwards by way of the start.
    for place in (0, 1, 3, 4, 2, 2):
        expected, found = (one.read(rows[place], LABELS).record for one in (regions, packed))
        assert found.source == expected.source.replace("a.tsv", f"a.tsv{ending}")
        np.testing.assert_array_equal(found.features, expected.features)
    sent = pickle.loads(pickle.dumps(packed))
    assert sent.read(rows[3], LABELS).record.image_id == "coco-4"


@pytest.mark.parametrize("ending", PACKERS)
def test_a_cut_compressed_file_is_named_with_the_row_it_breaks_off_in(tmp_path: Path, ending: str) -> None:
    packed = pack_in_two(write_tsv(tmp_path / "a.tsv", [Row(number) for number in range(1, 40)]), ending)
    packed.write_bytes(packed.read_bytes()[:-9])
    with pytest.raises(InputError, match=rf"a.tsv{ending} row \d+ \(byte \d+\): cannot be read from here on"):
        list(TsvRegions(packed, "coco").rows())
    faults = Faults("skip")
    found = list(TsvRegions(packed, "coco").rows(faults))
    assert [row.number for row in found] == list(range(1, len(found) + 1))
    assert [skipped.row for skipped in faults.skipped] == [len(found) + 1]


@pytest.mark.parametrize("rest", [b"\0" * 512 + b"signature", b"\x1e", b"garbage\n" * 40_000])
@pytest.mark.parametrize("ending", PACKERS)
def test_what_follows_the_last_frame_is_ignored_with_one_warning(
    tmp_path: Path, ending: str, rest: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    plain = write_tsv(tmp_path / "a.tsv", [Row(number) for number in range(1, 6)])
    packed = pack_in_two(plain, ending)
    packed.write_bytes(packed.read_bytes() + rest)
    assert list(TsvRegions(packed, "coco").rows()) == list(TsvRegions(plain, "coco").rows())
    assert caplog.messages == [f"{packed}: the bytes behind the end of its compressed content are ignored"]


@pytest.mark.parametrize("ending", PACKERS)
def test_the_start_of_one_more_frame_is_a_cut_file(tmp_path: Path, ending: str) -> None:
    packed = pack_in_two(write_tsv(tmp_path / "a.tsv", [Row(1), Row(2)]), ending)
    packed.write_bytes(packed.read_bytes() + packed.read_bytes()[:2])
    with pytest.raises(InputError, match=r"row 3 .* cannot be read from here on"):
        list(TsvRegions(packed, "coco").rows())


def test_a_zst_file_without_zstandard_names_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = pack_in_two(write_tsv(tmp_path / "a.tsv", [Row(1)]), ".zst")
    monkeypatch.setattr(byte_streams, "zstandard", None)
    with pytest.raises(InputError, match=r"a.tsv.zst needs the package zstandard .* pip install zstandard$"):
        read(packed)


@pytest.mark.parametrize("ending", PACKERS)
def test_what_is_not_compressed_as_its_name_says_is_refused(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a.tsv{ending}"
    write_tsv(path, [Row(1)])
    with pytest.raises(InputError, match=rf"a.tsv{ending} cannot be read from here on"):
        read(path)


def test_carriage_returns_at_the_line_ends_are_no_part_of_the_features(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.tsv", [Row(1).columns(), Row(2).columns()], end=b"\r\n")
    np.testing.assert_array_equal(read(path)[1].record.features, Row(2).features.astype(np.float16))


def test_missing_padding_is_put_back(tmp_path: Path) -> None:
    # Four floats are 16 bytes, 22 characters and two of padding.
    columns = Row(
        1, num_boxes=1, features=np.ones((1, 4), "<f4"), boxes=np.array([[0, 0, 9, 9]], "<f4")
    ).bottom_up_columns()
    assert columns[5].endswith(b"==")
    path = write_lines(tmp_path / "a.tsv", [[column.rstrip(b"=") for column in columns]])
    [reading] = read(path)
    assert reading.record.boxes.tolist() == [[0, 0, 9, 9]]
    assert reading.record.features.tolist() == [[1, 1, 1, 1]]


def test_a_lost_character_is_no_matter_of_padding(tmp_path: Path) -> None:
    columns = Row(2).columns()
    columns[9] = columns[9][:30] + columns[9][31:]
    path = write_lines(tmp_path / "a.tsv", [Row(1).columns(), columns])
    with pytest.raises(InputError, match=r"row 2 \(byte 264\), image coco-2: column features"):
        read(path)


def test_a_last_row_cut_in_its_last_column_is_found_without_reading_the_arrays(tmp_path: Path) -> None:
    whole = b"\t".join(Row(1).columns())
    # 12 of the features' 48 bytes are lost, so that their number still fits three boxes.
    (tmp_path / "a.tsv").write_bytes(whole + b"\n" + b"\t".join(Row(2).columns())[:-8])
    with pytest.raises(InputError, match=r"row 2 \(byte 264\), image coco-2: column features holds 42 bytes"):
        list(TsvRegions(tmp_path / "a.tsv", "coco").rows())


def test_features_of_another_width_are_a_fault_of_their_row(tmp_path: Path) -> None:
    path = write_tsv(tmp_path / "a.tsv", [Row(1), Row(2, features=np.ones((3, 3), "<f4"))])
    with pytest.raises(RowError, match=r"row 2 .* features are 3 wide, those of the images before 4"):
        read(path)


def test_a_row_that_an_append_was_glued_to_is_left_out_and_the_next_one_read(tmp_path: Path) -> None:
    one, two, three = (b"\t".join(Row(number).columns()) + b"\n" for number in (1, 2, 3))
    (tmp_path / "a.tsv").write_bytes(one + two[:100] + two + three)
    faults = Faults("skip")
    rows = list(TsvRegions(tmp_path / "a.tsv", "coco").rows(faults))
    assert [row.image_id for row in rows] == ["coco-1", "coco-3"]
    [skipped] = faults.skipped
    assert (skipped.source, skipped.row, skipped.offset, skipped.image_id) == ("a.tsv", 2, 264, "coco-2")


def test_a_damaged_first_row_does_not_hide_the_layout(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.tsv", [[b"1", b"2"], Row(2).bottom_up_columns()])
    faults = Faults("skip")
    assert [row.image_id for row in TsvRegions(path, "coco").rows(faults)] == ["coco-2"]
    assert [skipped.reason for skipped in faults.skipped] == [
        "has 2 columns instead of 6; the row is cut off or of another layout"
    ]


def test_a_file_without_lines_is_refused_in_bounded_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("msp_ds.preparation.region_features.region_tsv._LONGEST_ROW", 1000)
    (tmp_path / "a.tsv").write_bytes(bytes(5000))
    with pytest.raises(InputError, match="has more than 1000 bytes"):
        list(TsvRegions(tmp_path / "a.tsv", "coco").rows())
