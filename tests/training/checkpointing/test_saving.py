"""A save runs while training continues, is whole or absent, and keeps the newest and the best checkpoints."""

from __future__ import annotations

import logging
import os
import resource
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from lessons import a_batch, a_learner, a_save, an_engine, one_step

from msp_ds.errors import InputError
from msp_ds.training.checkpointing import saving
from msp_ds.training.checkpointing.checkpoint import (
    BEST,
    MANIFEST,
    OPTIMIZER,
    WEIGHTS,
    checkpoints,
    find_corruption,
    latest_valid,
    read_weights,
)
from msp_ds.training.checkpointing.saving import Saver
from msp_ds.training.distributed.runtime import Runtime
from msp_ds.training.engine.engine import Engine


@pytest.fixture(scope="module")
def engine(runtime: Runtime) -> Iterator[Engine]:
    """An engine after a step, which may step on."""
    made = an_engine(a_learner(), runtime)
    one_step(made, runtime, a_batch(1))
    yield made
    made.close()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def steps(*numbers: int) -> list[str]:
    return [f"step-{number:08d}" for number in numbers]


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_the_newest_are_kept(engine: Engine, runtime: Runtime, tmp_path: Path, keep: int) -> None:
    for step in (1, 2, 3, 4):
        a_save(tmp_path, engine, runtime, step=step, keep=keep)
        assert names(tmp_path) == steps(*range(max(1, step - keep + 1), step + 1))


def test_the_best_is_kept_beside_them_and_pointed_to(engine: Engine, runtime: Runtime, tmp_path: Path) -> None:
    losses = {1: 3.0, 2: 2.0, 3: None, 4: 2.5, 5: None, 6: 1.5, 7: float("nan"), 8: 2.0}
    best = {1: 1, 2: 2, 3: 2, 4: 2, 5: 2, 6: 6, 7: 6, 8: 6}
    for step, loss in losses.items():
        validated = None if loss is None else {"loss/total": loss, "loss/mlm": 0.0}
        a_save(tmp_path, engine, runtime, step=step, validated=validated)
        assert (tmp_path / BEST).read_text() == f"step-{best[step]:08d}\n"
        kept = {best[step], step} | ({step - 1} if step > 1 else set())
        assert names(tmp_path) == [BEST, *steps(*sorted(kept))]


def test_leftovers_of_a_killed_save_are_removed(engine: Engine, runtime: Runtime, tmp_path: Path) -> None:
    for name in (".step-00000002.writing", ".step-00000003.writing", ".step-00000001.going", "step-00000003"):
        (tmp_path / name).mkdir()
        (tmp_path / name / WEIGHTS).write_text("half")
    (tmp_path / ".step-00000003.writing" / ".tmpbJQS6n").write_text("as safetensors leaves it")
    path = a_save(tmp_path, engine, runtime, step=3)
    assert names(tmp_path) == steps(3)
    assert names(path) == [MANIFEST, OPTIMIZER, WEIGHTS]
    assert find_corruption(path, thorough=True) == ""


def test_nothing_but_checkpoints_is_ever_removed(engine: Engine, runtime: Runtime, tmp_path: Path) -> None:
    kept = ["step-backup", "step-00000001", "step-notes.txt", ".step-mine.writing", ".step-00000002.going"]
    for name in kept:
        if not name.endswith(".txt"):
            (tmp_path / name).mkdir()
    for name in (
        "step-backup/x",
        "step-00000001/x",
        "step-notes.txt",
        ".step-mine.writing/x",
        ".step-00000002.going/x",
    ):
        (tmp_path / name).write_text("precious")
    a_save(tmp_path, engine, runtime, step=3)
    assert names(tmp_path) == sorted([*kept, *steps(3)])
    (tmp_path / "step-00000003" / "x").write_text("precious")
    a_save(tmp_path, engine, runtime, step=3)
    assert (tmp_path / "step-00000003" / "x").read_text() == "precious"


@pytest.mark.parametrize("call", ["write_durably", "sync_folder", "replace_folder"])
def test_what_is_not_ours_stays_where_a_save_over_it_fails(
    engine: Engine, runtime: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    path = a_save(tmp_path, engine, runtime, step=3)
    (path / "x").write_text("precious")
    monkeypatch.setattr(saving, call, lambda *_: os.stat("/nowhere"))
    with pytest.raises(InputError, match="could not be saved"):
        a_save(tmp_path, engine, runtime, step=3)
    assert names(tmp_path) == steps(3)
    assert names(path) == [MANIFEST, OPTIMIZER, WEIGHTS, "x"]


def test_nothing_under_a_checkpoints_name_is_ever_half(
    engine: Engine, runtime: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At each of its calls to the system a save could be killed; what is then there is whole."""
    seen = []

    def looking(name: str) -> None:
        right = getattr(saving, name)

        def looked(*arguments: Any, **options: Any) -> Any:
            for moment in ("before", "after"):
                if moment == "after":
                    result = right(*arguments, **options)
                seen.append(
                    (
                        name,
                        moment,
                        [path.name for path in tmp_path.glob("step-*") if find_corruption(path, thorough=True)],
                    )
                )
            return result

        monkeypatch.setattr(saving, name, looked)

    for name in ("write_safetensors", "write_durably", "sync_folder", "replace_folder", "write_atomically"):
        looking(name)
    monkeypatch.setattr(
        saving.shutil,
        "rmtree",
        lambda path, **options: (
            pytest.fail(f"{path} is removed under its name") if Path(path).name.startswith("step-") else None
        ),
    )
    for step in (1, 2, 2, 3):
        a_save(tmp_path, engine, runtime, step=step, validated={"loss/total": 1.0 / step})
    assert len(seen) == 4 * 2 * 6
    assert [found for _, _, found in seen if found] == []


def test_damaged_checkpoints_after_the_one_that_training_continued_from_are_removed(
    engine: Engine, runtime: Runtime, tmp_path: Path
) -> None:
    for step in (2, 4, 6):
        a_save(tmp_path, engine, runtime, step=step, keep=3)
    weights = tmp_path / "step-00000006" / WEIGHTS
    weights.write_bytes(bytes(weights.stat().st_size))
    assert latest_valid(tmp_path) == tmp_path / "step-00000004"  # so training goes on from there
    a_save(tmp_path, engine, runtime, step=5)
    assert names(tmp_path) == steps(4, 5)


def test_training_goes_on_while_a_checkpoint_is_written(
    runtime: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, may_write = an_engine(a_learner(), runtime), threading.Event()
    one_step(engine, runtime, a_batch(1))
    before = {name: tensor.clone() for name, tensor in engine.engine.module.state_dict().items()}
    write = saving.write_checkpoint
    monkeypatch.setattr(saving, "write_checkpoint", lambda *what, **how: may_write.wait(60) and write(*what, **how))
    saver = Saver(tmp_path, keep=2, runtime=runtime)
    saver.save(engine, step=1, state={})
    one_step(engine, runtime, a_batch(2))
    assert checkpoints(tmp_path) == []
    assert not torch.equal(engine.engine.module.backbone.text.word.weight, before["backbone.text.word.weight"])
    may_write.set()
    saver.finish()
    saver.close()
    found = read_weights(saver.path(1))
    assert found.keys() == before.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in before.items()), (
        "the copy is of the moment of the call"
    )
    engine.close()


def test_a_save_waits_for_the_one_before_while_ranks_exchange_signs_of_life(
    engine: Engine, runtime: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    order, turns, may_write = [], [], threading.Event()
    write = saving.write_checkpoint

    def slow(path: Path, *what: Any, **how: Any) -> None:
        may_write.wait(60)
        write(path, *what, **how)
        order.append(path.name)

    def counted(one: Runtime, values: torch.Tensor) -> torch.Tensor:
        turns.append(int(values))
        if turns.count(1) == 3:
            may_write.set()
        return values

    monkeypatch.setattr(saving, "write_checkpoint", slow)
    monkeypatch.setattr(saving, "_TURN", 0.01)
    monkeypatch.setattr(Runtime, "all_reduce_max", counted)
    saver = Saver(tmp_path, keep=2, runtime=runtime)
    saver.save(engine, step=1, state={})
    saver.save(engine, step=2, state={})
    assert turns[:4] == [0, 1, 1, 1], "each wait ends in an exchange with the other ranks"
    assert order == steps(1)
    saver.finish()
    saver.close()
    assert order == steps(1, 2)
    assert f"still writing a checkpoint to {tmp_path}; training waits for it" in caplog.text


@contextmanager
def a_disk_of(num_bytes: int) -> Iterator[None]:
    """No file can grow beyond so many bytes, as on a disk that is full by then."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_is_reported_and_leaves_the_last_checkpoint(
    engine: Engine, runtime: Runtime, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    saver = Saver(tmp_path, keep=1, runtime=runtime)
    saver.save(engine, step=1, state={})
    saver.wait()
    with a_disk_of(2000), caplog.at_level(logging.ERROR):
        saver.save(engine, step=2, state={})
        saver.wait()  # and training goes on
    (message,) = caplog.messages
    assert message.startswith(f"{tmp_path / 'step-00000002'} could not be saved (")
    assert message.endswith("the last whole checkpoint is step-00000001; training goes on")
    assert "File too large" in message
    assert names(tmp_path) == steps(1), "what was half written is removed"
    with pytest.raises(InputError, match=r"step-00000002 could not be saved .*; free disk space, then continue"):
        saver.finish()
    saver.save(engine, step=3, state={})
    saver.finish()  # nothing to complain about any more
    saver.close()
    assert names(tmp_path) == steps(3)


def test_a_fault_of_the_program_is_raised(
    engine: Engine, runtime: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*what: object, **how: object) -> None:
        raise TypeError("a slip")

    monkeypatch.setattr(saving, "write_checkpoint", broken)
    saver = Saver(tmp_path, keep=1, runtime=runtime)
    saver.save(engine, step=1, state={})
    with pytest.raises(TypeError, match="a slip"):
        saver.wait()
    saver.close()
