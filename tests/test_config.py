"""Configuration survives JSON unchanged, and everything that is not exactly right is refused by name."""

from __future__ import annotations

import dataclasses
import os
import socket
from pathlib import Path
from typing import Any

import pytest

from msp_ds.config import (
    ModelConfig,
    OptimConfig,
    RunConfig,
    StageSchedule,
    TaskOptions,
    from_json,
    read_json,
    to_json,
    write_atomically,
    write_json,
)
from msp_ds.errors import InputError
from msp_ds.presets import PRESETS


def a_run(**changes: Any) -> RunConfig:
    preset = PRESETS["tiny"]
    run = RunConfig(
        curriculum="tps",
        preset="tiny",
        model=preset.model,
        optim=preset.optim,
        schedule=preset.schedule,
        shards="shards/demo",
        vocabulary_sha256="0" * 64,
    )
    return dataclasses.replace(run, **changes)


def refusal(kind: type, value: Any, *, where: str = "run.json") -> str:
    with pytest.raises(InputError) as caught:
        from_json(kind, value, where=where)
    return str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"drop": ("mlm", "ifrs"), "init": "runs/t"},
        {"tasks": TaskOptions(moc_target="all", itm_probability=0.25), "seed": 0},
    ],
    ids=["defaults", "with a tuple and an optional", "with task options"],
)
def test_a_run_survives_the_file(tmp_path: Path, changes: dict[str, Any]) -> None:
    run = a_run(**changes)
    write_json(tmp_path / "run.json", run)
    assert from_json(RunConfig, read_json(tmp_path / "run.json", what="a run"), where="run.json") == run


def test_whole_numbers_serve_as_floats() -> None:
    assert from_json(OptimConfig, {"lr": 1, "betas": [0, 0.5]}, where="").betas == (0.0, 0.5)


@pytest.mark.parametrize(
    ("kind", "value", "part"),
    [
        (
            ModelConfig,
            {"hiden_size": 768},
            "run.json: unknown key hiden_size; known are hidden_size, num_layers",
        ),
        (StageSchedule, {"epochs": 1}, "run.json: missing key batch_size"),
        (StageSchedule, [1, 2], "run.json: expected a table, got [1, 2]"),
        (ModelConfig, {"num_layers": "5"}, "run.json.num_layers: expected int, got '5'"),
        (ModelConfig, {"num_layers": 5.0}, "run.json.num_layers: expected int, got 5.0"),
        (ModelConfig, {"num_layers": True}, "run.json.num_layers: expected int, got True"),
        (ModelConfig, {"num_layers": None}, "run.json.num_layers: expected int, got None"),
        (TaskOptions, {"topic_attributes": 1}, "run.json.topic_attributes: expected bool, got 1"),
        (TaskOptions, {"mlm_unit": "words"}, "run.json.mlm_unit: 'words' is none of piece, word"),
        (TaskOptions, {"mlm_unit": ["word"]}, "run.json.mlm_unit: ['word'] is none of piece, word"),
        (OptimConfig, {"lr": "auto"}, "run.json.lr: expected float, got 'auto'"),
        (OptimConfig, {"betas": 0.9}, "run.json.betas: expected a list, got 0.9"),
        (OptimConfig, {"betas": [0.9]}, "run.json.betas: expected 2 values, got [0.9]"),
        (OptimConfig, {"betas": ["a", 0.9]}, "run.json.betas: expected float, got 'a'"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(kind: type, value: Any, part: str) -> None:
    assert part in refusal(kind, value)


def test_a_fault_deep_inside_says_where_it_is() -> None:
    plain = to_json(a_run())
    plain["schedule"]["phrase"]["epochs"] = "many"
    assert refusal(RunConfig, plain) == "run.json.schedule.phrase.epochs: expected int, got 'many'"


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (ModelConfig, {"hidden_size": 100, "num_heads": 12}),
        (ModelConfig, {"dropout": 1.0}),
        (OptimConfig, {"lr": 0.0}),
        (OptimConfig, {"lr": float("nan")}),
        (OptimConfig, {"warmup_ratio": 1.0}),
        (OptimConfig, {"clip_norm": -1.0}),
        (TaskOptions, {"itm_probability": 1.5}),
        (TaskOptions, {"topic_min_score": -0.1}),
        (TaskOptions, {"moc_target": "all", "region_probability": 0.0}),
        (ModelConfig, {"num_heads": 0}),
        (ModelConfig, {"language_layers": -1}),
        (OptimConfig, {"betas": (0.9, 1.0)}),
        (StageSchedule, {"epochs": 0, "batch_size": 64}),
    ],
)
def test_numbers_out_of_range_are_refused(kind: type, values: dict[str, float]) -> None:
    with pytest.raises(InputError):
        kind(**values)


@pytest.mark.parametrize("name", ["language_layers", "region_layers"])
def test_layers_of_one_modality_below_a_single_stream_are_refused_in_a_line(name: str) -> None:
    with pytest.raises(
        InputError, match=rf"^{name} is 2, but a single-stream encoder has no .* set it to 0, or encoder"
    ):
        ModelConfig(**{"encoder": "single-stream", name: 2})


def test_a_missing_file_and_a_broken_one_say_what_they_should_be(tmp_path: Path) -> None:
    (tmp_path / "broken.json").write_text("{")
    for name, part in (("missing.json", "is missing"), ("broken.json", "is not valid JSON")):
        with pytest.raises(InputError, match=part) as caught:
            read_json(tmp_path / name, what="a run's settings")
        assert "a run's settings" in str(caught.value)
        assert "\n" not in str(caught.value)


def test_an_interrupted_write_leaves_the_old_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run.json"
    write_atomically(path, b"old")

    def power_cut(_descriptor: int) -> None:
        raise OSError("power cut")

    monkeypatch.setattr(os, "fsync", power_cut)
    with pytest.raises(OSError, match="power cut"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_only_a_plain_file_is_ever_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # the name of a socket may have a hundred letters
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("folder")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket")
    before = {path: path.lstat() for path in tmp_path.iterdir()}
    for path in (*before, Path("/dev/null")):
        with pytest.raises(InputError, match=f"{path} is a (folder|pipe, socket or device); name a plain file"):
            write_atomically(path, b"new")
    assert {path: path.lstat() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("there", [True, False])
def test_a_link_to_a_file_is_written_through(tmp_path: Path, there: bool) -> None:
    (tmp_path / "far").mkdir()
    if there:
        (tmp_path / "far" / "file").write_bytes(b"old")
    (tmp_path / "link").symlink_to("far/file")
    write_atomically(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "far" / "file").read_bytes() == b"new"


def test_numbers_that_are_none_become_null() -> None:
    assert to_json({"loss": float("nan"), "rates": (float("inf"), 0.5)}) == {"loss": None, "rates": [None, 0.5]}


def test_a_column_of_plain_numbers_is_taken_as_it_is_and_a_mixed_one_is_refused() -> None:
    assert from_json(tuple[int, ...], [1, 2, 3], where="index.json") == (1, 2, 3)
    for wrong in ([1, True], [1, 2.0], [1, None]):
        with pytest.raises(InputError, match=r"index.json: expected int, got"):
            from_json(tuple[int, ...], wrong, where="index.json")


class Unspelled(list[int]):
    """Numbers of which there are too many to be spelled."""

    def __repr__(self) -> str:
        raise RuntimeError("a million numbers were spelled")


def test_values_are_spelled_only_where_they_are_wrong() -> None:
    assert from_json(tuple[int, ...], Unspelled([1, 2]), where="index.json") == (1, 2)
    with pytest.raises(RuntimeError, match="were spelled"):
        from_json(dict[str, int], Unspelled([1, 2]), where="index.json")
