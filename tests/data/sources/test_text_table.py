"""Texts by image."""

from __future__ import annotations

import tracemalloc

from msp_ds.data.sources.text_table import TextTable


def test_texts_are_kept_by_image_in_order() -> None:
    table = TextTable()
    table.add("coco-7", ["a dog", "a ball"])
    table.add("coco-8", [])
    table.add("coco-9", ["x"])
    table.add("coco-7", ["a dog"])
    assert table == {"coco-7": ["a dog", "a ball", "a dog"], "coco-9": ["x"]}
    assert (len(table), "coco-8" in table, table.get("coco-8", [])) == (2, False, [])


def test_a_list_that_was_asked_for_is_a_copy() -> None:
    table = TextTable()
    table.add("coco-7", ["a dog"])
    table["coco-7"].append("a ball")
    assert table["coco-7"] == ["a dog"]


def test_what_is_drained_is_gone_and_the_rest_is_still_there() -> None:
    table = TextTable()
    table.add("coco-9", ["x"])
    table.add("coco-7", ["a dog", "a ball"])
    drained = table.drain()
    assert next(drained) == ("coco-9", ["x"])
    assert table == {"coco-7": ["a dog", "a ball"]}
    assert list(drained) == [("coco-7", ["a dog", "a ball"])]
    assert not table


def test_short_texts_take_little_more_than_their_characters() -> None:
    tracemalloc.start()
    table = TextTable()
    for number in range(1000):
        table.add(f"vg-{number}", [f"phrase {number} {place}" for place in range(50)])
    size = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    characters = sum(len(text) for texts in table.values() for text in texts)
    assert size < 1.5 * characters
