"""The policy for rows that cannot be used."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from msp_ds.data.format.faults import Faults, RowAt, RowError, SkippedRow
from msp_ds.errors import InputError

ERROR = RowError(RowAt(Path("folder/a.tsv"), 3, 700, "coco-9"), "column boxes is broken")


def test_the_first_fault_ends_the_work_and_names_the_fix() -> None:
    faults = Faults()
    with pytest.raises(InputError) as caught:
        faults.add(ERROR)
    assert str(caught.value) == (
        "folder/a.tsv row 3 (byte 700), image coco-9: column boxes is broken; "
        "leave out and list such rows with --on-error skip"
    )
    assert faults.skipped == []


def test_faults_are_listed_when_they_may_be_skipped() -> None:
    faults = Faults("skip")
    faults.add(ERROR)
    faults.add(RowError(RowAt(Path("b.npz")), "is cut"))
    assert faults.skipped == [
        SkippedRow(source="a.tsv", row=3, offset=700, image_id="coco-9", reason="column boxes is broken"),
        SkippedRow(source="b.npz", row=0, offset=0, image_id="", reason="is cut"),
    ]
    assert faults.counts() == {"rows_skipped": 2, "rows_repeated": 0}


def test_a_fault_travels_between_processes() -> None:
    sent = pickle.loads(pickle.dumps(ERROR))
    assert str(sent) == str(ERROR)
    assert sent.place == ERROR.place


@pytest.mark.parametrize(
    ("place", "text"),
    [
        (RowAt(Path("a.npz")), "a.npz"),
        (RowAt(Path("a.npz"), 0), "a.npz row 0"),
        (RowAt(Path("a.npz"), 4, image_id="vg-1"), "a.npz row 4, image vg-1"),
        (RowAt(Path("a.tsv"), 1, 0), "a.tsv row 1 (byte 0)"),
    ],
)
def test_a_place_shows_its_known_fields(place: RowAt, text: str) -> None:
    assert str(place) == text
