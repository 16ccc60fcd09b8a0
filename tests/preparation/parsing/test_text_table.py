"""Texts by image."""

from __future__ import annotations

import errno
import os
import tracemalloc

import pytest

from msp_ds.errors import InputError
from msp_ds.preparation.parsing import text_table
from msp_ds.preparation.parsing.text_table import TextTable


def test_texts_are_kept_by_image_in_order() -> None:
    table = TextTable()
    table.add("coco-7", ["a dog", "a ball"])
    table.add("coco-8", [])
    table.add("coco-9", ["x"])
    table.add("coco-7", ["a dog"])
    assert table == {"coco-7": ["a dog", "a ball", "a dog"], "coco-9": ["x"]}
    assert (len(table), "coco-8" in table, table.get("coco-8", [])) == (2, False, [])


def test_texts_on_the_disk_are_kept_as_those_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_table, "_BUFFER_BYTES", 64)
    table = TextTable()
    for round_ in range(3):
        for number in range(20):
            table.add(f"vg-{number}", [f"ärmel {round_}", f"{number}"])
    expected = {
        f"vg-{number}": ["ärmel 0", f"{number}", "ärmel 1", f"{number}", "ärmel 2", f"{number}"] for number in range(20)
    }
    assert table == expected
    assert dict(table.drain()) == expected


def test_a_full_disk_is_an_error_that_names_the_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(text_table, "_BUFFER_BYTES", 64)
    monkeypatch.setattr(os, "write", full)
    with pytest.raises(InputError, match=r"cannot hold the texts \(No space left on device\); free its disk"):
        TextTable().add("vg-1", ["a dog"] * 20)


def test_a_list_of_the_table_is_a_copy() -> None:
    table = TextTable()
    table.add("coco-7", ["a dog"])
    table["coco-7"].append("a ball")
    assert table["coco-7"] == ["a dog"]


def test_drained_images_leave_the_table_and_others_stay() -> None:
    table = TextTable()
    table.add("coco-9", ["x"])
    table.add("coco-7", ["a dog", "a ball"])
    drained = table.drain()
    assert next(drained) == ("coco-9", ["x"])
    assert table == {"coco-7": ["a dog", "a ball"]}
    assert list(drained) == [("coco-7", ["a dog", "a ball"])]
    assert not table


def test_the_memory_of_a_table_does_not_grow_with_its_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_table, "_BUFFER_BYTES", 1 << 14)
    tracemalloc.start()
    table = TextTable()
    for number in range(1000):
        table.add(f"vg-{number}", [f"phrase {number} {place}" for place in range(50)])
    size = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    characters = sum(len(text) for texts in table.values() for text in texts)
    assert size < 0.5 * characters
