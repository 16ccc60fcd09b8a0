"""JSON files item by item."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from raw_files import write_json

from msp_ds.errors import InputError
from msp_ds.preparation.parsing import json_stream
from msp_ds.preparation.parsing.json_stream import iterate_items, require_mapping


def items(path: Path) -> list[tuple[str, Any]]:
    return [(item.member, item.value) for item in iterate_items(path, what="a test")]


def places(path: Path) -> list[str]:
    return [item.where.removeprefix(str(path)) for item in iterate_items(path, what="a test")]


def test_a_list_gives_its_entries(tmp_path: Path) -> None:
    path = write_json(tmp_path / "a.json", [{"a": 1}, [2], "x", 34, None])
    assert items(path) == [("", {"a": 1}), ("", [2]), ("", "x"), ("", 34), ("", None)]
    assert places(path)[:2] == [" entry 0", " entry 1"]


def test_an_object_gives_the_items_of_its_lists_and_other_members_whole(tmp_path: Path) -> None:
    path = write_json(tmp_path / "a.json", {"info": {"x": []}, "images": [{"id": 7}, 8], "none": [], "dataset": "coco"})
    assert items(path) == [("info", {"x": []}), ("images", {"id": 7}), ("images", 8), ("dataset", "coco")]
    assert places(path) == [" info", " image 0", " image 1", " dataset"]


@pytest.mark.parametrize("name", ["a.json", "a.jsonline"])
def test_lines_give_an_entry_each(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text('{"a": 1}\n{"a": [2]}\n\n{"a": 3}')
    assert items(tmp_path / name) == [("", {"a": 1}), ("", {"a": [2]}), ("", {"a": 3})]
    assert places(tmp_path / name) == [" line 1", " line 2", " line 4"]


@pytest.mark.parametrize("text", ['[{"a": NaN}, {"a": 1}]', '{"a": NaN}\n{"a": 1}\n'])
def test_nan_in_a_field_does_not_keep_a_file_from_being_read(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text)
    (_, first), (_, second) = items(tmp_path / "a.json")
    assert (str(first), second) == ("{'a': nan}", {"a": 1})


def test_a_single_line_is_an_object_unless_the_name_says_lines(tmp_path: Path) -> None:
    for name, expected in (("a.json", [("a", 1), ("b", 2)]), ("a.jsonl", [("", {"a": 1, "b": 2})])):
        (tmp_path / name).write_text('{"a": 1, "b": 2}\n')
        assert items(tmp_path / name) == expected


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 64])
@pytest.mark.parametrize("indent", [None, 1])
def test_the_size_of_the_chunks_does_not_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int, indent: int | None
) -> None:
    value = {"list": [12, 3456, -7.25, 1e30, True, None, 'a "]" \u00e9 [,', {"b": [{}]}], "number": 98765}
    (tmp_path / "a.json").write_text(json.dumps(value, indent=indent), encoding="utf-8")
    monkeypatch.setattr(json_stream, "_CHUNK", chunk)
    assert items(tmp_path / "a.json") == [*(("list", one) for one in value["list"]), ("number", 98765)]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "is not valid JSON, it is empty; it should be"),
        ("7", "is not valid JSON; it should be a test"),
        ("[1, 2", "it ends too early"),
        ("[1 2]", "a comma is missing"),
        ("[1,]", "it is cut off or damaged"),
        ("[,1]", "it is cut off or damaged"),
        ('[{"a": 1}, {"a"', "it is cut off or damaged"),
        ("[1][2]", "text follows its end"),
        ('{"a": [1]', "it ends too early"),
        ('{"a" 1}', "a key is not a string or has no value"),
        ("{1: 1}", "a key is not a string or has no value"),
        ('{"a": }', "it is cut off or damaged"),
        ('{"a": 1}\n{"a": ', "line 2: is not valid JSON"),
        ("[" * 100_000, "it is cut off or damaged"),
        ("[" + "9" * 5000 + "]", "it is cut off or damaged"),
    ],
)
def test_invalid_json_is_refused_with_its_file(tmp_path: Path, text: str, fault: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(InputError) as caught:
        items(tmp_path / "a.json")
    assert str(tmp_path / "a.json") in str(caught.value)
    assert fault in str(caught.value)


def test_files_that_are_missing_or_not_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b'["\xff"]')
    for name, fault in (("b.json", "is missing"), ("a.json", "is not UTF-8 text"), ("", "cannot be read")):
        with pytest.raises(InputError, match=f"{fault}.*; it should be a test"):
            items(tmp_path / name)


def test_a_long_list_takes_little_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_CHUNK", "_LONGEST_LINE"):
        monkeypatch.setattr(json_stream, name, 1 << 16)
    write_json(tmp_path / "a.json", {"annotations": [{"caption": "x" * 1000} for _ in range(5000)]})
    tracemalloc.start()
    count = sum(1 for _ in iterate_items(tmp_path / "a.json", what="a test"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 5000
    assert peak < 1_000_000  # the file has five million characters


def test_an_item_that_lacks_a_key_is_named(tmp_path: Path) -> None:
    path = write_json(tmp_path / "a.json", [{"a": 1}, 7])
    first, second = iterate_items(path, what="a test")
    assert require_mapping(first, "a", what="it") == {"a": 1}
    with pytest.raises(InputError, match=r"a.json entry 0: has no b; it should be it"):
        require_mapping(first, "a", "b", what="it")
    with pytest.raises(InputError, match=r"a.json entry 1: is not an object"):
        require_mapping(second, what="it")
