"""Ranks that were started for different runs are refused before the first step."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from msp_ds.data.format.shards import open_set
from msp_ds.errors import InputError, ShardError
from msp_ds.training.distributed.agreement import check_ranks_agree, code_version, facts_of
from msp_ds.training.distributed.runtime import Runtime
from msp_ds.training.engine.execution import Execution
from msp_ds.training.options import RunOptions
from msp_ds.training.planning import new_config


def some_facts(shards: Path, **flags: object) -> dict[str, str]:
    config = new_config(RunOptions(curriculum="t", shards=str(shards), **flags))
    return facts_of(
        config, Execution(precision="fp32"), {"save_total_limit": 2}, [open_set(shards / "token" / "train")], code="1"
    )


def disagreement(
    ours: dict[str, str], theirs: dict[str, str], runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> str:
    """The error for ranks with these facts; empty where they agree."""
    texts = [json.dumps({"host": f"node{rank}", "facts": facts}) for rank, facts in enumerate((ours, ours, theirs))]
    monkeypatch.setattr(Runtime, "gather", lambda one, value: texts)
    try:
        check_ranks_agree(ours, runtime)
    except InputError as error:
        return str(error)
    return ""


def test_ranks_of_the_same_run_agree(runtime: Runtime, small_shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert disagreement(some_facts(small_shards), some_facts(small_shards), runtime, monkeypatch) == ""


@pytest.mark.parametrize(
    ("name", "theirs", "fix"),
    [
        ("code", "2", "install the same version on every machine"),
        ("torch", "2.6.0", "install the same version on every machine"),
        ("config.optim.lr", "0.5", "start every rank with the same flags"),
        ("execution.zero_stage", "2", "start every rank with the same --ds-config and flags"),
        ("flags.save_total_limit", "3", "start every rank with the same flags"),
        ("vocabulary", "f" * 64, "copy the same shards to every machine"),
        ("index of token/train", "0" * 64, "copy the same shards to every machine"),
    ],
)
def test_what_differs_is_named_with_its_rank_and_a_fix(
    runtime: Runtime, small_shards: Path, monkeypatch: pytest.MonkeyPatch, name: str, theirs: str, fix: str
) -> None:
    ours = some_facts(small_shards)
    message = disagreement(ours, {**ours, name: theirs}, runtime, monkeypatch)
    assert message.startswith(f"rank 2 on node2 has {name} {theirs[:60]}")
    assert f", rank 0 on node0 has {ours[name][:60]}" in message
    assert message.endswith(f"; {fix}")


def test_a_set_that_only_one_rank_has_is_named(
    runtime: Runtime, small_shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = some_facts(small_shards)
    message = disagreement(ours, {**ours, "index of token/val": "1"}, runtime, monkeypatch)
    assert message.startswith("rank 2 on node2 has index of token/val 1, rank 0 on node0 has nothing; copy ")


def test_a_flag_of_one_rank_is_found_by_its_name_in_the_configuration(
    runtime: Runtime, small_shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    message = disagreement(some_facts(small_shards), some_facts(small_shards, seed=5), runtime, monkeypatch)
    assert message.startswith("rank 2 on node2 has config.seed 5, rank 0 on node0 has 9595; ")


def test_shards_may_lie_elsewhere_on_each_machine(
    runtime: Runtime, small_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").symlink_to(small_shards)
    assert disagreement(some_facts(small_shards), some_facts(tmp_path / "elsewhere"), runtime, monkeypatch) == ""


def test_any_change_of_a_source_file_is_another_code(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    file = tmp_path / "inner" / "module.py"
    file.write_text("x = 1\n")
    before = code_version(tmp_path)
    assert code_version(tmp_path) == before
    (tmp_path / "notes.txt").write_text("no code")
    assert code_version(tmp_path) == before
    file.write_text("x = 2\n")
    changed = code_version(tmp_path)
    file.rename(tmp_path / "module.py")
    assert len({before, changed, code_version(tmp_path)}) == 3


def test_an_error_of_one_rank_is_raised_on_all(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    two = dataclasses.replace(runtime, world_size=2)
    monkeypatch.setattr(Runtime, "any_error", lambda one, message: message or "shards are missing, says rank 1")
    with pytest.raises(InputError, match="shards are missing, says rank 1"):
        two.on_all_ranks(lambda: 3)

    def fail() -> None:
        raise ShardError("missing here")

    with pytest.raises(InputError, match="missing here"):
        two.on_all_ranks(fail)
    with pytest.raises(ShardError, match="missing here"):
        runtime.on_all_ranks(fail)
