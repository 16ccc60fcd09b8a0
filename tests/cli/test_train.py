"""What a user can get wrong when starting or resuming a run: one line on stderr, exit code 2, nothing written."""

from __future__ import annotations

import dataclasses
import json
import logging
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from command_line import refusal, run
from small_world import recipe_of
from typer.testing import CliRunner

from msp_ds.config import RunConfig, to_json, write_json
from msp_ds.data.format.set_layout import STAGE_NAMES
from msp_ds.data.format.shards import open_set
from msp_ds.errors import InputError
from msp_ds.preparation.writing.shard_building import build_shards
from msp_ds.presets import PRESETS, get_preset
from msp_ds.train import app
from msp_ds.training.checkpointing.run_folder import MANIFEST, RUN_FILE, fresh_folder, newest_run
from msp_ds.training.distributed import runtime
from msp_ds.training.engine.execution import Execution
from msp_ds.training.options import RunOptions
from msp_ds.training.planning import (
    ShardCache,
    available_shards,
    cache_of,
    changed_schedule,
    new_config,
    resumed_config,
    with_flags,
)


@pytest.fixture(autouse=True)
def _clean_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No process group, and logging as it was: these runs end before their first step."""
    alone = runtime.Runtime(rank=0, world_size=1, device=torch.device("cpu"))
    monkeypatch.setattr(runtime, "start_runtime", lambda environment: alone)
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused_run(shards: Path, *flags: object, log_lines: int = 0) -> str:
    """The error of `msp-ds train --shards SHARDS --run-dir run FLAGS`; no run folder may come of it."""
    line = refusal("train", "--shards", shards, "--run-dir", "run", *flags, log_lines=log_lines)
    assert not Path("run").exists(), line
    assert not Path("runs").exists()
    return line


def a_run(folder: Path, shards: Path, *, preset: str = "tiny", **options: object) -> RunConfig:
    """Writes the run.json of a run with a checkpoint that is never read."""
    config = new_config(RunOptions(shards=str(shards), preset=preset, **options))
    checkpoint = folder / "1-token" / "checkpoints" / "step-00000001"
    checkpoint.mkdir(parents=True)
    write_json(checkpoint / MANIFEST, {"step": 1, "files": {}, "state": {}, "loss_scale": None})
    execution = Execution(precision="bf16", micro_batch=8)
    write_json(folder / RUN_FILE, {"config": to_json(config), "execution": to_json(execution)})
    return config


def test_addresses_that_run_programs_are_refused(here: Path) -> None:
    assert "pipe:cat shards: give a folder" in refused_run(Path("pipe:cat shards"))


def test_rewritten_addresses_are_refused(small_shards: Path, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOPEN_REWRITE", "a=b")
    assert "run: unset GOPEN_REWRITE" in refused_run(small_shards)


def test_shards_at_an_address_are_brought_here_and_named_by_it(small_shards: Path, tmp_path: Path) -> None:
    address = small_shards.as_uri().replace("file://", "local://")
    with (
        pytest.raises(InputError, match="shards cannot be read from local://"),
        available_shards(RunOptions(shards=address), None, cache=ShardCache(folder=str(tmp_path))),
    ):
        pass
    with available_shards(
        RunOptions(shards=str(small_shards), curriculum="s"), None, cache=ShardCache(folder=str(tmp_path))
    ) as here:
        assert here == small_shards


def test_a_resumed_run_has_the_cache_that_it_had_last_unless_a_flag_says_otherwise(tmp_path: Path) -> None:
    first, last = {"folder": "one", "limit_gb": 3.0}, {"folder": "two", "limit_gb": 0.5}
    card = {"cache": first, "resumed": [{"cache": last}, {"cache": None}]}
    (tmp_path / RUN_FILE).write_text(json.dumps(card))
    assert cache_of(None, None, resumed=tmp_path) == ShardCache(folder="two", limit_gb=0.5)
    assert cache_of(Path("three"), None, resumed=tmp_path) == ShardCache(folder="three", limit_gb=0.5)
    assert cache_of(None, 7.0, resumed=tmp_path) == ShardCache(folder="two", limit_gb=7.0)
    (tmp_path / RUN_FILE).write_text("{}")  # of a run from before
    assert cache_of(None, None, resumed=tmp_path) == cache_of(None, None) == ShardCache()


def test_length_buckets_come_from_the_preset_unless_a_flag_says_otherwise(small_shards: Path) -> None:
    shards = str(small_shards)
    assert new_config(RunOptions(shards=shards, preset="tiny")).length_buckets == "off"
    assert new_config(RunOptions(shards=shards, preset="paper")).length_buckets == "auto"
    assert new_config(RunOptions(shards=shards, preset="tiny", length_buckets="on")).length_buckets == "on"


@pytest.mark.parametrize(
    ("flags", "parts"),
    [
        (["--curriculum", "txs"], ["'txs'", "t token, p phrase, s sentence"]),
        (["--curriculum", "tt"], ["'tt'", "once"]),
        (["--curriculum", ""], ["''"]),
        (["--curriculum", "t+"], ["'t+'"]),
        (["--preset", "huge"], ["'huge'", "paper, small, tiny"]),
        (["--set", "moc_aim=all"], ["moc_aim", "moc_target"]),
        (["--set", "topic_min_score=1.5"], ["topic_min_score 1.5"]),
        (["--set", "moc_target=all", "--set", "region_probability=0"], ["region_probability above 0"]),
        (["--set", "moc_target=some"], ["'some'", "masked, all"]),
        (["--set", "moc_target"], ["name=value"]),
        (["--set", "token_probability=much"], ["token_probability", "float"]),
        (["--set", "token_probability=1.5"], ["token_probability 1.5"]),
        (["--set", 'weights={"mlm": -1}'], ["negative"]),
        (["--set", 'weights={"mml": 2.0}'], ["'mml'", "mlm, "]),
        (["--epochs", "x=3"], ["x=3", "t=4,p=4,s=12"]),
        (["--epochs", "t=few"], ["t=few"]),
        (["--epochs", "-1"], ["-1"]),
        (["--epochs", "²"], ["²"]),
        (["--epochs", "0"], ["positive"]),
        (["--batch-size", "0"], ["positive"]),
        (["--lr", "0"], ["lr 0.0"]),
        (["--lr", "nan"], ["lr: nan is not a finite number"]),
        (["--max-steps", "0"], ["max_steps 0"]),
        (["--save-every", "0"], ["--save-every 0"]),
        (["--seed", str(2**63)], ["seed: the number does not fit into 64 bits"]),
        (["--drop", "sleep"], ["'sleep'", "mlm, "]),
        (["--curriculum", "s", "--drop", "ifrs"], ["--drop ifrs: no stage of s trains it"]),
        (["--drop", "mlm", "--drop", "mrfr", "--drop", "moc", "--drop", "ifrs"], ["no task for stage token"]),
        (["--ds-config", "fast.json"], ["fast.json is missing", "cpu_fp32.json"]),
    ],
)
def test_a_flag_that_cannot_be_used_is_named(
    here: Path, small_shards: Path, flags: list[str], parts: list[str]
) -> None:
    line = refused_run(small_shards, *flags)
    assert all(part in line for part in parts), line


def test_without_shards_the_command_that_writes_them_is_named(here: Path) -> None:
    assert refused_run(Path("shards")) == (
        "no shards for stage token in shards/token/train; write them with: msp-ds shard --stage token"
    )


def test_a_stage_without_shards_is_named_before_the_first_stage_trains(here: Path, small_shards: Path) -> None:
    shutil.copytree(small_shards / "token", here / "shards" / "token")
    assert "msp-ds shard --stage phrase" in refused_run(Path("shards"))


def test_a_batch_larger_than_the_shards_is_refused_before_the_first_stage_trains(
    here: Path, small_shards: Path
) -> None:
    line = refused_run(small_shards, "--batch-size", "100", log_lines=1)  # 64 pairs of tokens, 320 sentences
    assert line.startswith("a batch of 100 pairs cannot be drawn from 64; make the batch smaller (--batch-size)")


def test_a_micro_batch_that_does_not_divide_the_batch_is_refused(here: Path, small_shards: Path) -> None:
    Path("mine.json").write_text('{"precision": "fp32", "micro_batch": 5}')
    line = refused_run(small_shards, "--ds-config", "mine.json", "--batch-size", "16", log_lines=1)
    assert line.startswith("micro_batch 5 does not divide the 16 pairs")


def test_stages_written_with_different_vocabularies_are_refused(here: Path, small_shards: Path) -> None:
    shutil.copytree(small_shards, here / "shards")
    recipe = recipe_of(small_shards.parent / "world", captions=())
    build_shards(recipe, stage="token", out=here / "shards")
    line = refused_run(Path("shards"), "--batch-size", "16", log_lines=1)
    assert "shards/token/train and shards/phrase/train were written with different vocab.txt" in line
    assert "msp-ds shard --stage phrase --recipe FILE" in line


def test_itm_hs_without_hard_negatives_is_refused(here: Path, small_shards: Path) -> None:
    shutil.copytree(small_shards, here / "shards")
    recipe = recipe_of(small_shards.parent / "world", hard_negatives=None)
    build_shards(recipe, stage="sentence", out=here / "shards")
    line = refused_run(Path("shards"), "--curriculum", "s", "--batch-size", "16", log_lines=1)
    assert line.startswith("shards/sentence/train has no hard negatives, which task itm_hs needs; ")
    assert line.endswith(
        "msp-ds hard-negatives --shards shards/sentence/train --attach, or train with --set itm_negatives=random"
    )


def test_tasks_about_labels_are_refused_without_labels_with_the_whole_fix(here: Path, small_shards: Path) -> None:
    shutil.copytree(small_shards, "shards")
    path = Path("shards/sentence/train/index.json")
    index = json.loads(path.read_text())
    del index["files"]["hard_negatives.npz"]
    path.write_text(json.dumps({**index, "has_labels": False}))
    line = refused_run(Path("shards"), "--curriculum", "s", log_lines=1)
    assert line.startswith("shards/sentence/train was written from regions without labels, which tasks moc, ")
    drops = ["--drop", "moc", "--drop", "tits"]
    assert f"train without them: {' '.join(drops)}, or write it" in line
    # Without these tasks the run gets as far as the next refusal.
    assert "has no hard negatives" in refused_run(Path("shards"), "--curriculum", "s", *drops, log_lines=1)


def test_a_start_from_nothing_is_refused(here: Path, small_shards: Path) -> None:
    line = refused_run(small_shards, "--init", "elsewhere", "--batch-size", "16", log_lines=1)
    assert line.startswith("elsewhere holds no complete checkpoint")


def test_a_start_from_a_run_with_another_model_is_refused(here: Path, small_shards: Path) -> None:
    a_run(here / "old", small_shards, preset="small")
    line = refused_run(small_shards, "--init", "old", "--batch-size", "16", log_lines=1)
    assert line.startswith("old/1-token/checkpoints/step-00000001 is of another model: its hidden_size is 384, here ")
    assert "--preset (it was trained with small)" in line


@pytest.mark.parametrize(("name", "there", "here_it_is"), [("num_heads", 2, 4), ("positions", "pieces", "words")])
def test_a_start_from_weights_of_the_same_shapes_and_another_meaning_is_refused(
    here: Path, small_shards: Path, name: str, there: object, here_it_is: object
) -> None:
    config = a_run(here / "old", small_shards)
    other = dataclasses.replace(config, model=dataclasses.replace(config.model, **{name: there}))
    write_json(here / "old" / RUN_FILE, {"config": to_json(other)})
    assert f"its {name} is {there}, here it is {here_it_is}" in refused_run(
        small_shards, "--init", "old", "--batch-size", "16", log_lines=1
    )


def test_heads_of_another_kind_are_refused_only_where_they_are_carried(here: Path, small_shards: Path) -> None:
    a_run(here / "old", small_shards)  # nothing lies at its checkpoint: the backbone alone is refused for that
    flags = [
        "--init",
        "old",
        "--batch-size",
        "16",
        "--set",
        "model.region_gate=pair",
        "--set",
        "heads_of.token=carried",
    ]
    assert "its region_gate is none, here it is pair" in refused_run(small_shards, *flags, log_lines=1)
    run("train", "--shards", small_shards, "--run-dir", "run", *flags[:-2])
    assert Path("run", RUN_FILE).exists()


def test_a_start_from_a_run_with_other_words_is_refused(here: Path, small_shards: Path) -> None:
    config = a_run(here / "old", small_shards)
    write_json(here / "old" / RUN_FILE, {"config": to_json(dataclasses.replace(config, vocabulary_sha256="0" * 64))})
    line = refused_run(small_shards, "--init", "old", "--batch-size", "16", log_lines=1)
    assert "was trained on another vocabulary" in line


def test_a_run_folder_that_cannot_be_made_is_named(here: Path, small_shards: Path) -> None:
    Path("taken").write_text("a file")
    line = refusal("train", "--shards", small_shards, "--run-dir", "taken/run", "--batch-size", "16", log_lines=1)
    assert line.startswith("taken/run cannot be written (")
    assert "name another --run-dir" in line


def test_the_signals_are_as_before_once_a_run_has_ended(here: Path, small_shards: Path) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    refused_run(small_shards, "--init", "elsewhere", "--batch-size", "16", log_lines=1)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_an_error_that_every_rank_meets_is_reported_once_a_machine(
    here: Path, small_shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    result = run("train", "--shards", small_shards, "--curriculum", "x")
    assert (result.exit_code, result.output) == (2, "")


def test_the_help_of_the_script_is_that_of_the_command() -> None:
    def options(text: str) -> str:
        return text[text.index("Options:") :]

    of_script = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "200"}).stdout
    assert options(of_script) == options(run("train", "--help").stdout)
    assert "[the preset's]" in of_script


def test_a_run_folder_that_is_a_file_is_named(here: Path) -> None:
    Path("taken").write_text("a file")
    assert refusal("train", "--resume", "--run-dir", "taken").startswith("taken/run.json should be a run's config")


def test_a_start_that_is_no_longer_needed_is_not_looked_for(here: Path, small_shards: Path) -> None:
    config = a_run(here / "run", small_shards, curriculum="t", init="moved", batch_size=16)
    saved = json.loads((here / "run" / RUN_FILE).read_text())
    write_json(here / "run" / RUN_FILE, {**saved, "index_sha256": {}})
    assert config.init == "moved"
    line = refusal("train", "--resume", "--run-dir", "run", log_lines=1)
    assert line.startswith("shard set token/train is new since run was started")  # not: moved holds no checkpoint


def test_a_folder_that_holds_a_run_is_not_overwritten(here: Path, small_shards: Path) -> None:
    a_run(here / "run", small_shards)
    before = (here / "run" / RUN_FILE).read_bytes()
    line = refusal("train", "--shards", small_shards, "--run-dir", "run")
    assert line == "run already holds a run; continue it with --resume, or choose another --run-dir"
    assert (here / "run" / RUN_FILE).read_bytes() == before


def test_nothing_to_resume_names_the_way_to_start(here: Path) -> None:
    assert refusal("train", "--resume") == (
        "there is no run in runs to resume; start one with: msp-ds train --curriculum tps"
    )


def test_a_folder_without_a_run_cannot_be_resumed(here: Path) -> None:
    assert refusal("train", "--resume", "--run-dir", "run").startswith("run/run.json is missing")
    assert not Path("run").exists()


@pytest.mark.parametrize("text", ["{}", "[]", "null", '{"config": {}}', '{"config": 3}', "{"])
def test_a_damaged_run_file_is_named(here: Path, text: str) -> None:
    Path("run").mkdir()
    Path("run/run.json").write_text(text)
    assert refusal("train", "--resume", "--run-dir", "run").startswith("run/run.json")


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--curriculum", "tp"),
        ("--preset", "small"),
        ("--init", "old"),
        ("--seed", "1"),
        ("--max-steps", "5"),
        ("--drop", "mlm"),
        ("--set", "moc_target=all"),
        ("--epochs", "9"),
        ("--epochs", "t=9"),
        ("--batch-size", "8"),
        ("--lr", "0.1"),
    ],
)
def test_a_flag_that_contradicts_the_run_is_refused(here: Path, small_shards: Path, flag: str, value: str) -> None:
    a_run(here / "run", small_shards)
    line = refusal("train", "--resume", "--run-dir", "run", flag, value)
    assert line.startswith(f"run was not started with {flag} {value}; leave the flag out to continue it")


def test_flags_that_agree_with_the_run_change_nothing(here: Path, small_shards: Path) -> None:
    stated = {
        "curriculum": "ts",
        "seed": 5,
        "lr": 0.25,
        "epochs": "t=2,s=3",
        "batch_size": 16,
        "drop": ("mlm",),
        "settings": ("moc_target=all", 'weights={"moc": 2}'),
    }
    config = a_run(here / "run", small_shards, **stated)
    assert resumed_config(here / "run", RunOptions(**stated, shards=str(small_shards), preset="tiny")) == config


def test_a_run_goes_on_as_it_was_executed(here: Path, small_shards: Path) -> None:
    from msp_ds.training.planning import execution_of

    a_run(here / "run", small_shards)
    assert execution_of(None, resumed=here / "run")[1] == Execution(precision="bf16", micro_batch=8)
    Path("mine.json").write_text('{"precision": "fp32"}')
    assert execution_of(Path("mine.json"), resumed=here / "run")[1] == Execution(precision="fp32")


def test_what_the_flags_leave_open_comes_from_the_preset_and_the_shards(small_shards: Path) -> None:
    config = new_config(RunOptions(shards=str(small_shards), lr=0.5, settings=("itm_probability=0.25",)))
    tiny = get_preset("tiny")  # the small world's recipe suggests it
    assert (config.preset, config.curriculum, config.seed) == ("tiny", "tps", 9595)
    assert config.optim == dataclasses.replace(tiny.optim, lr=0.5)
    assert config.tasks == dataclasses.replace(tiny.tasks, itm_probability=0.25)
    index = open_set(small_shards / "token" / "train").index
    assert (config.model.vocab_size, config.model.feature_width) == (index.vocab_size, 64)
    assert config.model.hidden_size == tiny.model.hidden_size
    assert config.vocabulary_sha256 == index.vocabulary_sha256


def test_epochs_are_given_for_all_stages_or_by_initial() -> None:
    rows = {name: PRESETS["tiny"].schedule[name] for name in STAGE_NAMES}
    assert [row.epochs for row in changed_schedule(rows, epochs="6", batch_size=None).values()] == [6, 6, 6]
    assert [row.epochs for row in changed_schedule(rows, epochs="t=1,s=12", batch_size=None).values()] == [1, 4, 12]
    assert [row.batch_size for row in changed_schedule(rows, epochs=None, batch_size=8).values()] == [8, 8, 8]


def test_no_flags_change_nothing(small_shards: Path) -> None:
    config = new_config(RunOptions(shards=str(small_shards)))
    assert with_flags(config, RunOptions()) == config


def test_a_new_run_does_not_take_the_folder_of_an_old_one(tmp_path: Path) -> None:
    assert fresh_folder(tmp_path / "tps") == tmp_path / "tps"
    for name in ("tps", "tps-2"):
        (tmp_path / name).mkdir()
        (tmp_path / name / RUN_FILE).write_text("{}")
    assert fresh_folder(tmp_path / "tps") == tmp_path / "tps-3"


def test_the_run_to_resume_is_the_one_started_last(tmp_path: Path) -> None:
    import os

    for age, name in ((30, "a"), (10, "b"), (20, "c")):
        (tmp_path / name).mkdir()
        (tmp_path / name / RUN_FILE).write_text("{}")
        os.utime(tmp_path / name / RUN_FILE, (1e9 - age, 1e9 - age))
    assert newest_run(tmp_path) == tmp_path / "b"


def test_evaluating_with_another_preset_is_refused(here: Path, small_shards: Path) -> None:
    a_run(here / "run", small_shards)
    words = ["evaluate", "--checkpoint", "run", "--shards", small_shards / "sentence" / "val"]
    line = refusal(*words, "--preset", "small")
    assert line.startswith("run/1-token/checkpoints/step-00000001 is of preset tiny, not small")


def test_a_set_option_of_the_model_does_not_make_it_another_preset(here: Path, small_shards: Path) -> None:
    a_run(here / "run", small_shards, settings=("model.topic_head=plain",))
    words = ["evaluate", "--checkpoint", "run", "--shards", small_shards / "sentence" / "val", "--preset", "tiny"]
    assert "is of preset" not in refusal(*words)


def test_a_checkpoint_outside_of_a_run_is_named(here: Path, small_shards: Path) -> None:
    a_run(here / "run", small_shards)
    shutil.copytree(here / "run" / "1-token" / "checkpoints" / "step-00000001", here / "step")
    line = refusal("evaluate", "--checkpoint", "step", "--shards", small_shards / "sentence" / "val")
    assert line.startswith("step is not in a run folder")


def test_evaluating_on_other_words_is_refused(here: Path, small_shards: Path) -> None:
    config = a_run(here / "run", small_shards)
    write_json(here / "run" / RUN_FILE, {"config": to_json(dataclasses.replace(config, vocabulary_sha256="0" * 64))})
    line = refusal("evaluate", "--checkpoint", "run", "--shards", small_shards / "sentence" / "val")
    assert "was written with another vocabulary" in line


def test_evaluating_nothing_is_refused(here: Path, small_shards: Path) -> None:
    line = refusal("evaluate", "--checkpoint", "run", "--shards", small_shards / "sentence" / "val")
    assert line.startswith("run holds no complete checkpoint")


def test_input_errors_are_value_errors_of_our_own() -> None:
    with pytest.raises(InputError):
        new_config(RunOptions(curriculum="x"))
