"""A checkpoint counts when it is whole, is read without foreign code, and fits its model or says why not."""

from __future__ import annotations

import dataclasses
import logging
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from lessons import MODEL, OPTIM, a_batch, a_learner, an_engine, one_step

from msp_ds.config import RunConfig, TaskOptions, to_json, write_json
from msp_ds.curriculum import curriculum
from msp_ds.errors import CheckpointError
from msp_ds.model.encoder import Trunk
from msp_ds.model.heads import build_heads
from msp_ds.presets import get_preset
from msp_ds.training.checkpoint import (
    MANIFEST,
    checkpoints,
    is_complete,
    load_checkpoint,
    load_heads,
    load_part,
    load_trunk,
    read_state,
    read_weights,
    save_checkpoint,
)
from msp_ds.training.run_folder import RUN_FILE, find_checkpoint, run_of_checkpoint
from msp_ds.training.runtime import Runtime
from msp_ds.training.stage import build_learner, resume

WEIGHTS = "mp_rank_00_model_states.pt"


def fake(folder: Path, step: int) -> Path:
    """A whole checkpoint of two files that hold nothing."""
    path = folder / f"step-{step:08d}"
    path.mkdir(parents=True)
    for name, size in (("a.pt", 10), ("b.pt", 20)):
        (path / name).write_bytes(bytes(size))
    write_json(path / MANIFEST, {"step": step, "files": {"a.pt": 10, "b.pt": 20}, "state": {"seed": 1}})
    return path


@pytest.fixture(scope="module")
def trained(runtime: Runtime, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of the token stage after two steps."""
    engine = an_engine(a_learner(), runtime)
    one_step(engine, runtime, a_batch(1))
    one_step(engine, runtime, a_batch(2))
    path = save_checkpoint(
        tmp_path_factory.mktemp("trained"), engine, step=2, state={"step": 2, "seed": 9}, runtime=runtime
    )
    engine.close()
    return path


def test_whole_checkpoints_are_listed_oldest_first(tmp_path: Path) -> None:
    paths = [fake(tmp_path, step) for step in (5, 100, 20)]
    assert checkpoints(tmp_path) == [paths[0], paths[2], paths[1]]
    assert checkpoints(tmp_path / "nowhere") == []


@pytest.mark.parametrize("damage", ["no manifest", "a file is missing", "a file is cut short", "a file grew"])
def test_an_incomplete_checkpoint_is_passed_over_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    good, bad = fake(tmp_path, 5), fake(tmp_path, 10)
    if damage == "no manifest":
        (bad / MANIFEST).unlink()
    elif damage == "a file is missing":
        (bad / "b.pt").unlink()
    else:
        (bad / "b.pt").write_bytes(bytes(19 if damage == "a file is cut short" else 21))
    with caplog.at_level(logging.WARNING):
        assert checkpoints(tmp_path) == [good]
    assert f"{bad} is incomplete" in caplog.text
    assert not is_complete(bad)


def test_the_newest_whole_checkpoint_of_a_run_is_found_in_its_last_stage_that_has_one(tmp_path: Path) -> None:
    (tmp_path / RUN_FILE).write_text("{}")
    token = fake(tmp_path / "1-token" / "checkpoints", 5)
    phrase = fake(tmp_path / "2-phrase" / "checkpoints", 3)
    (tmp_path / "3-sentence" / "checkpoints").mkdir(parents=True)
    assert find_checkpoint(tmp_path) == phrase
    assert find_checkpoint(tmp_path / "1-token") == token
    assert find_checkpoint(token) == token
    assert run_of_checkpoint(token) == tmp_path


def test_a_folder_without_a_checkpoint_is_named(tmp_path: Path) -> None:
    (tmp_path / "1-token" / "checkpoints" / "step-00000001").mkdir(parents=True)
    (tmp_path / RUN_FILE).write_text("{}")
    with pytest.raises(CheckpointError, match="holds no complete checkpoint; give the folder of a run"):
        find_checkpoint(tmp_path)


def test_only_the_last_two_are_kept(runtime: Runtime, tmp_path: Path) -> None:
    engine = an_engine(a_learner(), runtime)
    for step in (1, 2, 3, 4):
        save_checkpoint(tmp_path, engine, step=step, state={}, runtime=runtime)
        kept = sorted(path.name for path in tmp_path.iterdir())
        assert kept == [f"step-{one:08d}" for one in range(max(1, step - 1), step + 1)]
    engine.close()


def test_a_half_written_folder_of_the_same_step_is_replaced(runtime: Runtime, tmp_path: Path) -> None:
    rest = tmp_path / "step-00000003" / "left over"
    rest.parent.mkdir()
    rest.write_text("from a save that was killed")
    engine = an_engine(a_learner(), runtime)
    path = save_checkpoint(tmp_path, engine, step=3, state={}, runtime=runtime)
    assert is_complete(path)
    assert not rest.exists()
    engine.close()


def test_weights_come_back_as_they_were(trained: Path) -> None:
    learner = a_learner()
    weights = read_weights(trained)
    assert weights.keys() == learner.state_dict().keys()
    assert all(tensor.dtype == torch.float32 for tensor in weights.values())
    assert torch.equal(weights["heads.token.decoder.weight"], weights["trunk.text.word.weight"])
    assert not torch.equal(weights["trunk.text.word.weight"], learner.trunk.text.word.weight)


def test_an_engine_goes_on_from_a_checkpoint_as_if_it_had_never_stopped(runtime: Runtime, trained: Path) -> None:
    unbroken, resumed = a_learner(), a_learner(seed=5)
    engines = [an_engine(unbroken, runtime), an_engine(resumed, runtime)]
    for seed in (1, 2):
        one_step(engines[0], runtime, a_batch(seed))
    assert load_checkpoint(trained, engines[1]) == {"step": 2, "seed": 9}
    for engine in engines:
        one_step(engine, runtime, a_batch(3))
    for name, tensor in unbroken.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name
    for engine in engines:
        engine.close()


def test_reading_weights_imports_no_deepspeed(trained: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from msp_ds.training.checkpoint import read_weights\n"
        f"read_weights(Path({str(trained)!r}))\n"
        "sys.exit('deepspeed' in sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


class Trap:
    """Code that runs where a pickle is read without care."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (pytest.fail, ("the checkpoint's code was run",))


def test_reading_weights_runs_no_code_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "step-00000001"
    path.mkdir()
    torch.save({"module": {}, "trap": Trap()}, path / WEIGHTS)
    write_json(path / MANIFEST, {"step": 1, "files": {WEIGHTS: (path / WEIGHTS).stat().st_size}, "state": {}})
    with pytest.raises(CheckpointError, match="damaged \\(it is no plain table of tensors\\)"):
        read_weights(path)


def test_an_incomplete_checkpoint_is_not_read(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is no complete checkpoint; give a run folder"):
        read_weights(tmp_path)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda weights: weights.pop("trunk.text.norm.bias"), "it has no tensor trunk.text.norm.bias"),
        (lambda weights: weights.update({"trunk.extra": torch.zeros(1)}), "it has an unknown tensor trunk.extra"),
        (
            lambda weights: weights.update({"trunk.regions.feature.weight": torch.zeros(8, 7)}),
            r"trunk.regions.feature.weight is \(8, 7\) there and \(8, 6\) here",
        ),
    ],
    ids=["missing", "left over", "another shape"],
)
def test_weights_of_another_model_are_refused_by_name(change: object, complaint: str) -> None:
    learner = a_learner()
    weights = {name: tensor.clone() for name, tensor in learner.state_dict().items()}
    change(weights)  # type: ignore[operator]
    before = learner.trunk.text.word.weight.clone()
    weights["trunk.text.word.weight"] = torch.zeros_like(before)
    with pytest.raises(CheckpointError, match=f"^some/run is of another model: .*{complaint}; check --preset"):
        load_part(learner.trunk, weights, "trunk.", where=Path("some/run"))
    assert torch.equal(learner.trunk.text.word.weight, before), "nothing is filled in before everything is checked"


def test_a_checkpoint_of_a_larger_model_does_not_fill_a_smaller_one(trained: Path) -> None:
    fewer = Trunk(dataclasses.replace(MODEL, num_layers=1))
    with pytest.raises(CheckpointError, match=r"it has an unknown tensor trunk.layers.1\."):
        load_trunk(fewer, trained)


@pytest.mark.parametrize("name", [name for name in tiny.FAMILY if name != "LXMERT-S"])
def test_a_checkpoint_of_another_encoder_is_refused_by_name(name: str) -> None:
    weights, other = a_learner().state_dict(), Trunk(tiny.FAMILY[name])
    with pytest.raises(CheckpointError, match=r"^some/run is of another model: it has .* tensor trunk\.\S+; check"):
        load_part(other, weights, "trunk.", where=Path("some/run"))


def a_config(**changes: object) -> RunConfig:
    config = RunConfig(
        curriculum="tp",
        preset="tiny",
        model=MODEL,
        optim=OPTIM,
        schedule=get_preset("tiny").schedule,
        shards="shards",
        vocabulary_sha256="",
    )
    return dataclasses.replace(config, **changes)  # type: ignore[arg-type]


def test_the_next_stage_starts_from_the_trunk_bit_for_bit_under_fresh_heads(trained: Path) -> None:
    saved = read_weights(trained)
    phrase = curriculum("p")[0]
    context = a_learner().context
    started = build_learner(a_config(), phrase, context, start_from=trained).state_dict()
    fresh = build_learner(a_config(), phrase, context, start_from=None).state_dict()
    for name, tensor in started.items():
        if name.startswith("trunk."):
            assert torch.equal(tensor, saved[name]), name
        elif name != "heads.token.decoder.weight":  # tied to the trunk's words
            assert torch.equal(tensor, fresh[name]), name
    assert torch.equal(started["heads.token.decoder.weight"], saved["trunk.text.word.weight"])
    for name in ("heads.token.transform.dense.weight", "heads.region.feature_decoder.weight"):
        assert not torch.equal(started[name], saved[name]), f"{name} is not fresh"
    assert "heads.topic.dense.weight" in started


@pytest.mark.parametrize("options", [{"heads": "carried"}, {"heads_of": {"phrase": "carried"}}])
def test_a_stage_can_carry_the_heads_that_the_one_before_has_too(trained: Path, options: dict[str, Any]) -> None:
    saved, phrase, context = read_weights(trained), curriculum("p")[0], a_learner().context
    config = a_config(tasks=TaskOptions(**options))
    carried = build_learner(config, phrase, context, start_from=trained).state_dict()
    fresh = build_learner(a_config(), phrase, context, start_from=None).state_dict()
    for name, tensor in carried.items():  # the token stage has no topic head
        assert torch.equal(tensor, fresh[name] if name.startswith("heads.topic.") else saved[name]), name
    assert carried.keys() - saved.keys() == {name for name in carried if name.startswith("heads.topic.")}


@pytest.mark.parametrize("options", [{}, {"heads": "carried", "heads_of": {"phrase": "fresh"}}])
def test_heads_are_fresh_unless_the_stage_says_otherwise(trained: Path, options: dict[str, Any]) -> None:
    config, phrase = a_config(tasks=TaskOptions(**options)), curriculum("p")[0]
    started = build_learner(config, phrase, a_learner().context, start_from=trained)
    name = "heads.region.feature_decoder.weight"
    assert not torch.equal(started.state_dict()[name], read_weights(trained)[name])


def test_a_carried_token_head_stays_tied_to_the_words(trained: Path) -> None:
    config = a_config(tasks=TaskOptions(heads="carried"))
    learner = build_learner(config, curriculum("s")[0], a_learner().context, start_from=trained)
    assert learner.heads["token"].decoder.weight is learner.trunk.text.word.weight


def test_carried_heads_are_told_from_fresh_ones(trained: Path) -> None:
    heads = build_heads(["region", "match"], MODEL, Trunk(MODEL))
    assert load_heads(heads, trained) == "heads carried: region; fresh: match"


def test_heads_of_another_size_are_refused_by_name(trained: Path) -> None:
    config = dataclasses.replace(MODEL, num_objects=7)
    with pytest.raises(CheckpointError, match=r"of another model: heads\.region\.object_decoder\.\w+ is"):
        load_heads(build_heads(["region"], config, Trunk(config)), trained)


def test_a_learner_depends_on_the_seed_alone() -> None:
    context, stage = a_learner().context, curriculum("t")[0]
    torch.manual_seed(1)
    one = build_learner(a_config(), stage, context, start_from=None).state_dict()
    torch.manual_seed(2)
    same = build_learner(a_config(), stage, context, start_from=None).state_dict()
    other = build_learner(a_config(seed=1), stage, context, start_from=None).state_dict()
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["trunk.text.word.weight"], other["trunk.text.word.weight"])
    later = build_learner(a_config(), curriculum("p")[0], context, start_from=None).state_dict()
    assert torch.equal(one["trunk.text.word.weight"], later["trunk.text.word.weight"])
    name = "heads.token.transform.dense.weight"
    assert not torch.equal(one[name], later[name]), "a stage's heads are its own"


@pytest.mark.parametrize(
    ("state", "complaint"),
    [
        ({"step": 2, "seed": 8}, "was saved with seed 9, now it is 8"),
        ({"seed": 9, "indexes": ["ab"]}, r"was saved with indexes None, now it is \['ab'\]"),
    ],
)
def test_a_checkpoint_of_other_data_is_refused_before_it_is_loaded(
    trained: Path, state: dict[str, object], complaint: str
) -> None:
    never_touched: object = None
    with pytest.raises(CheckpointError, match=f"{complaint}; bring back what changed"):
        resume(trained, never_touched, state)  # type: ignore[arg-type]


def test_the_state_of_a_checkpoint_can_be_read_alone(trained: Path) -> None:
    assert read_state(trained) == {"step": 2, "seed": 9}


def test_a_configuration_survives_its_file(tmp_path: Path) -> None:
    from msp_ds.training.run_folder import read_run_config

    config = a_config(drop=("mlm",), init="old", max_steps=3)
    write_json(tmp_path / RUN_FILE, {"config": to_json(config)})
    assert read_run_config(tmp_path) == config


def damaged(trained: Path, folder: Path) -> Path:
    """A copy of a checkpoint whose weights are zeros, as many bytes as they were."""
    path = folder / trained.name
    shutil.copytree(trained, path)
    (path / WEIGHTS).write_bytes(bytes((path / WEIGHTS).stat().st_size))
    assert is_complete(path)
    return path


def test_a_damaged_checkpoint_of_the_right_size_is_named(trained: Path, tmp_path: Path, runtime: Runtime) -> None:
    path = damaged(trained, tmp_path)
    complaint = rf"{path.name} is damaged \(.+\); remove it to continue from the checkpoint before"
    with pytest.raises(CheckpointError, match=complaint):
        read_weights(path)
    engine = an_engine(a_learner(), runtime)
    with pytest.raises(CheckpointError, match=complaint):
        load_checkpoint(path, engine)
    engine.close()


def test_a_checkpoint_folder_near_the_root_is_in_no_run() -> None:
    with pytest.raises(CheckpointError, match="lies in no run folder"):
        run_of_checkpoint(Path("/step-00000001"))
