"""A checkpoint is used when it is whole, runs no code when it is read, and fits its model or an error says why not."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from lessons import MODEL, OPTIM, a_batch, a_learner, a_save, an_engine, an_engine_from, one_step
from safetensors.torch import save_file

from msp_ds.config import RunConfig, TaskOptions, to_json, write_json
from msp_ds.curriculum import curriculum
from msp_ds.errors import CheckpointError, InputError
from msp_ds.model.encoder import Backbone
from msp_ds.model.heads import build_heads
from msp_ds.presets import get_preset
from msp_ds.training.assembly.building import build_pretraining_model, newest_checkpoint, resume
from msp_ds.training.checkpointing.checkpoint import (
    BEST,
    MANIFEST,
    OPTIMIZER,
    WEIGHTS,
    checkpoints,
    find_corruption,
    latest_valid,
    load_backbone,
    load_heads,
    load_part,
    read_manifest,
    read_weights,
)
from msp_ds.training.checkpointing.run_folder import RUN_FILE, find_checkpoint, run_of_checkpoint
from msp_ds.training.distributed.runtime import Runtime


def fake(folder: Path, step: int) -> Path:
    """A whole checkpoint of two files that hold nothing."""
    path, files = folder / f"step-{step:08d}", {}
    path.mkdir(parents=True)
    for name, size in (("a", 10), ("b", 20)):
        (path / name).write_bytes(bytes(size))
        files[name] = {"bytes": size, "sha256": hashlib.sha256(bytes(size)).hexdigest()}
    write_json(path / MANIFEST, {"step": step, "files": files, "state": {"seed": 1}, "loss_scale": None})
    return path


@pytest.fixture(scope="module")
def trained(runtime: Runtime, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of the token stage after two steps."""
    engine = an_engine(a_learner(), runtime)
    one_step(engine, runtime, a_batch(1))
    one_step(engine, runtime, a_batch(2))
    path = a_save(tmp_path_factory.mktemp("trained"), engine, runtime, step=2, seed=9)
    engine.close()
    return path


def test_whole_checkpoints_are_listed_oldest_first(tmp_path: Path) -> None:
    paths = [fake(tmp_path, step) for step in (5, 100, 20)]
    assert checkpoints(tmp_path) == [paths[0], paths[2], paths[1]]
    assert checkpoints(tmp_path / "nowhere") == []


# The damaged file, the reported reason, and its content afterwards: None deletes it.
DAMAGES = [
    (MANIFEST, "manifest.json is missing", None),
    (MANIFEST, "manifest.json should be a checkpoint's manifest, but is not valid JSON", b'{"step": 3'),
    (MANIFEST, "manifest.json should be a checkpoint's manifest, but is not valid JSON", b""),
    (MANIFEST, "manifest.json is not a manifest of this version of msp-ds", b"[]"),
    (MANIFEST, "manifest.json is not a manifest of this version of msp-ds", b'{"files": 3}'),
    (MANIFEST, "is not a manifest of this version", b'{"step": 1, "files": {"a": 10}, "state": {}}'),
    (MANIFEST, "a: expected a table, got 10", b'{"step": 1, "files": {"a": 10}, "state": {}, "loss_scale": null}'),
    (
        MANIFEST,
        "scale: expected float, got 'x'",
        b'{"step": 1, "files": {}, "state": {}, "loss_scale": {"scale": "x"}}',
    ),
    ("b", "b is missing", None),
    ("b", "b has 19 bytes instead of 20", bytes(19)),
    ("b", "b has 21 bytes instead of 20", bytes(21)),
]


@pytest.mark.parametrize(("name", "reason", "content"), DAMAGES)
def test_an_incomplete_checkpoint_is_passed_over_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, reason: str, content: bytes | None
) -> None:
    good, bad = fake(tmp_path, 5), fake(tmp_path, 10)
    (bad / name).unlink() if content is None else (bad / name).write_bytes(content)
    with caplog.at_level(logging.WARNING):
        assert checkpoints(tmp_path) == [good]
    (message,) = caplog.messages
    assert message.startswith(f"{bad} is incomplete (")
    assert reason in message
    assert message.endswith("); it is not used")
    assert "\n" not in message


def test_a_byte_that_changed_is_noticed_and_the_checkpoint_before_is_taken(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    good, bad = fake(tmp_path, 5), fake(tmp_path, 10)
    (bad / "b").write_bytes(bytes(19) + b"!")
    assert find_corruption(bad) == ""
    assert find_corruption(bad, thorough=True) == "b is not what was written"
    assert latest_valid(tmp_path) == good
    assert caplog.messages == [f"{bad} is damaged (b is not what was written); it is not used"]
    (good / "a").write_bytes(bytes(9) + b"!")
    assert latest_valid(tmp_path) is None


def test_a_stage_starts_from_its_beginning_only_where_no_checkpoint_was(tmp_path: Path, runtime: Runtime) -> None:
    assert newest_checkpoint(tmp_path, runtime) is None
    path = fake(tmp_path, 5)
    assert newest_checkpoint(tmp_path, runtime) == path
    write_json(path / MANIFEST, {"step": 5, "files": {"a": 10, "b": 20}, "state": {}})  # of another version
    with pytest.raises(
        InputError, match=r"no checkpoint in \S+ is whole; remove them to train this stage from its start"
    ):
        newest_checkpoint(tmp_path, runtime)


def test_the_newest_whole_checkpoint_of_a_run_is_found_in_its_last_stage_that_has_one(tmp_path: Path) -> None:
    (tmp_path / RUN_FILE).write_text("{}")
    token = fake(tmp_path / "1-token" / "checkpoints", 5)
    phrase = fake(tmp_path / "2-phrase" / "checkpoints", 3)
    (tmp_path / "3-sentence" / "checkpoints").mkdir(parents=True)
    assert find_checkpoint(tmp_path) == phrase
    assert find_checkpoint(tmp_path / "1-token") == token
    assert find_checkpoint(token) == token
    (token.parent / BEST).write_text(f"{token.name}\n")
    assert find_checkpoint(token.parent / BEST) == token
    assert run_of_checkpoint(token) == tmp_path


def test_a_folder_without_a_checkpoint_is_named(tmp_path: Path) -> None:
    (tmp_path / "1-token" / "checkpoints" / "step-00000001").mkdir(parents=True)
    (tmp_path / RUN_FILE).write_text("{}")
    with pytest.raises(CheckpointError, match="holds no complete checkpoint; give the folder of a run"):
        find_checkpoint(tmp_path)


def test_weights_come_back_as_they_were(trained: Path) -> None:
    model = a_learner()
    weights = read_weights(trained)
    assert weights.keys() == model.state_dict().keys()
    assert all(tensor.dtype == torch.float32 for tensor in weights.values())
    assert torch.equal(weights["heads.token.decoder.weight"], weights["backbone.text.word.weight"])
    assert not torch.equal(weights["backbone.text.word.weight"], model.backbone.text.word.weight)


def test_reading_weights_imports_no_deepspeed(trained: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from msp_ds.training.checkpointing.checkpoint import read_weights\n"
        f"read_weights(Path({str(trained)!r}))\n"
        "sys.exit('deepspeed' in sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


class Trap:
    """Code that runs where a file is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (pytest.fail, ("the checkpoint's code was run",))


@pytest.mark.parametrize("name", [WEIGHTS, OPTIMIZER])
def test_reading_a_checkpoint_runs_no_code_of_it(trained: Path, tmp_path: Path, runtime: Runtime, name: str) -> None:
    path = tmp_path / trained.name
    shutil.copytree(trained, path)
    torch.save({"module": {}, "trap": Trap()}, path / name)
    content, manifest = (path / name).read_bytes(), json.loads((path / MANIFEST).read_text())
    manifest["files"][name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    write_json(path / MANIFEST, manifest)
    assert find_corruption(path, thorough=True) == "", "the manifest fits the file"
    with pytest.raises(CheckpointError, match=rf"is damaged \({name}: .*header"):
        an_engine_from(path, runtime)


def test_no_file_of_a_checkpoint_is_a_pickle(trained: Path) -> None:
    assert sorted(path.name for path in trained.iterdir()) == [MANIFEST, OPTIMIZER, WEIGHTS]


def test_weights_in_a_folder_without_a_run_are_read(tmp_path: Path) -> None:
    save_file({"backbone.a": torch.ones(2, dtype=torch.bfloat16)}, tmp_path / WEIGHTS)
    (read,) = read_weights(tmp_path).values()
    assert read.dtype == torch.float32
    assert torch.equal(read, torch.ones(2))


def test_weights_of_an_earlier_version_are_named_as_such(tmp_path: Path) -> None:
    save_file({"trunk.a": torch.ones(2)}, tmp_path / WEIGHTS)
    with pytest.raises(CheckpointError, match="was written by an earlier version of msp-ds"):
        read_weights(tmp_path)


def test_an_incomplete_checkpoint_is_not_read(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is not a complete checkpoint; give a run folder"):
        read_weights(tmp_path)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda weights: weights.pop("backbone.text.norm.bias"), "it has no tensor backbone.text.norm.bias"),
        (lambda weights: weights.update({"backbone.extra": torch.zeros(1)}), "it has an unknown tensor backbone.extra"),
        (
            lambda weights: weights.update({"backbone.regions.feature.weight": torch.zeros(8, 7)}),
            r"backbone.regions.feature.weight is \(8, 7\) there and \(8, 6\) here",
        ),
    ],
    ids=["missing", "left over", "another shape"],
)
def test_weights_of_another_model_are_refused_by_name(change: object, complaint: str) -> None:
    model = a_learner()
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    change(weights)  # type: ignore[operator]
    before = model.backbone.text.word.weight.clone()
    weights["backbone.text.word.weight"] = torch.zeros_like(before)
    with pytest.raises(CheckpointError, match=f"^some/run is of another model: .*{complaint}; check --preset"):
        load_part(model.backbone, weights, "backbone.", where=Path("some/run"))
    assert torch.equal(model.backbone.text.word.weight, before), "nothing is filled in before everything is checked"


def test_a_checkpoint_of_a_larger_model_does_not_fill_a_smaller_one(trained: Path) -> None:
    fewer = Backbone(dataclasses.replace(MODEL, num_layers=1))
    with pytest.raises(CheckpointError, match=r"it has an unknown tensor backbone.layers.1\."):
        load_backbone(fewer, trained)


@pytest.mark.parametrize("name", [name for name in tiny.FAMILY if name != "LXMERT-S"])
def test_a_checkpoint_of_another_encoder_is_refused_by_name(name: str) -> None:
    weights, other = a_learner().state_dict(), Backbone(tiny.FAMILY[name])
    with pytest.raises(CheckpointError, match=r"^some/run is of another model: it has .* tensor backbone\.\S+; check"):
        load_part(other, weights, "backbone.", where=Path("some/run"))


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


def test_the_next_stage_starts_from_the_backbone_bit_for_bit_under_fresh_heads(trained: Path) -> None:
    saved = read_weights(trained)
    phrase = curriculum("p")[0]
    context = a_learner().context
    started = build_pretraining_model(a_config(), phrase, context, start_from=trained).state_dict()
    fresh = build_pretraining_model(a_config(), phrase, context, start_from=None).state_dict()
    for name, tensor in started.items():
        if name.startswith("backbone."):
            assert torch.equal(tensor, saved[name]), name
        elif name != "heads.token.decoder.weight":  # tied to the backbone's words
            assert torch.equal(tensor, fresh[name]), name
    assert torch.equal(started["heads.token.decoder.weight"], saved["backbone.text.word.weight"])
    for name in ("heads.token.transform.dense.weight", "heads.region.feature_decoder.weight"):
        assert not torch.equal(started[name], saved[name]), f"{name} is not fresh"
    assert "heads.topic.dense.weight" in started


@pytest.mark.parametrize("options", [{"heads": "carried"}, {"heads_of": {"phrase": "carried"}}])
def test_a_stage_can_carry_the_heads_that_the_one_before_has_too(trained: Path, options: dict[str, Any]) -> None:
    saved, phrase, context = read_weights(trained), curriculum("p")[0], a_learner().context
    config = a_config(tasks=TaskOptions(**options))
    carried = build_pretraining_model(config, phrase, context, start_from=trained).state_dict()
    fresh = build_pretraining_model(a_config(), phrase, context, start_from=None).state_dict()
    for name, tensor in carried.items():  # the token stage has no topic head
        assert torch.equal(tensor, fresh[name] if name.startswith("heads.topic.") else saved[name]), name
    assert carried.keys() - saved.keys() == {name for name in carried if name.startswith("heads.topic.")}


@pytest.mark.parametrize("options", [{}, {"heads": "carried", "heads_of": {"phrase": "fresh"}}])
def test_heads_are_initialised_again_unless_the_stage_carries_them(trained: Path, options: dict[str, Any]) -> None:
    config, phrase = a_config(tasks=TaskOptions(**options)), curriculum("p")[0]
    started = build_pretraining_model(config, phrase, a_learner().context, start_from=trained)
    name = "heads.region.feature_decoder.weight"
    assert not torch.equal(started.state_dict()[name], read_weights(trained)[name])


def test_a_carried_token_head_stays_tied_to_the_words(trained: Path) -> None:
    config = a_config(tasks=TaskOptions(heads="carried"))
    model = build_pretraining_model(config, curriculum("s")[0], a_learner().context, start_from=trained)
    assert model.heads["token"].decoder.weight is model.backbone.text.word.weight


def test_carried_and_fresh_heads_are_named(trained: Path) -> None:
    heads = build_heads(["region", "match"], MODEL, Backbone(MODEL))
    assert load_heads(heads, trained) == "heads carried: region; fresh: match"


def test_heads_of_another_size_are_refused_by_name(trained: Path) -> None:
    config = dataclasses.replace(MODEL, num_objects=7)
    with pytest.raises(CheckpointError, match=r"of another model: heads\.region\.object_decoder\.\w+ is"):
        load_heads(build_heads(["region"], config, Backbone(config)), trained)


def test_a_learner_depends_on_the_seed_alone() -> None:
    context, stage = a_learner().context, curriculum("t")[0]
    torch.manual_seed(1)
    one = build_pretraining_model(a_config(), stage, context, start_from=None).state_dict()
    torch.manual_seed(2)
    same = build_pretraining_model(a_config(), stage, context, start_from=None).state_dict()
    other = build_pretraining_model(a_config(seed=1), stage, context, start_from=None).state_dict()
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["backbone.text.word.weight"], other["backbone.text.word.weight"])
    later = build_pretraining_model(a_config(), curriculum("p")[0], context, start_from=None).state_dict()
    assert torch.equal(one["backbone.text.word.weight"], later["backbone.text.word.weight"])
    name = "heads.token.transform.dense.weight"
    assert not torch.equal(one[name], later[name]), "a stage's heads are its own"


@pytest.mark.parametrize(
    ("state", "complaint"),
    [
        ({"seed": 8}, "was saved with seed 9, now it is 8"),
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
    manifest = read_manifest(trained)
    assert (manifest.step, manifest.state, manifest.loss_scale) == (2, {"seed": 9}, None)


def test_a_configuration_survives_its_file(tmp_path: Path) -> None:
    from msp_ds.training.checkpointing.run_folder import read_run_config

    config = a_config(drop=("mlm",), init="old", max_steps=3)
    write_json(tmp_path / RUN_FILE, {"config": to_json(config)})
    assert read_run_config(tmp_path) == config


def test_weights_that_are_not_what_was_written_are_refused(trained: Path, tmp_path: Path) -> None:
    path = tmp_path / trained.name
    shutil.copytree(trained, path)
    (path / WEIGHTS).write_bytes(bytes((path / WEIGHTS).stat().st_size))
    complaint = rf"{path.name} is damaged \({WEIGHTS} is not what was written\); remove it to continue from the"
    with pytest.raises(CheckpointError, match=complaint):
        read_weights(path)


def test_a_checkpoint_folder_near_the_root_is_in_no_run() -> None:
    with pytest.raises(CheckpointError, match="is not in a run folder"):
        run_of_checkpoint(Path("/step-00000001"))
