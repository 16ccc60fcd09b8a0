"""An ablation resumes where it stopped, names failed nodes, and runs the others."""

from __future__ import annotations

import dataclasses
import logging
import shutil
from pathlib import Path

import pytest
from ablations import Pretender, a_study, leave_run
from small_world import write_shards

from msp_ds.ablation.plan import AblationRequest, Plan, plan_ablation
from msp_ds.ablation.rows import chosen_rows
from msp_ds.ablation.runner import (
    CommandResult,
    Results,
    duration_text,
    finished_nodes,
    read_grades,
    read_record,
    run_ablation,
    study_of,
)
from msp_ds.config import write_json
from msp_ds.errors import InputError

HASHES = {"sentence/train": "abc"}


def ablated(plan: Plan, pretender: Pretender) -> Results:
    return run_ablation(plan, read_record(plan.study, HASHES), launch=pretender)


def test_every_node_runs_once_and_its_grades_are_kept(tmp_path: Path) -> None:
    plan = plan_ablation(a_study(tmp_path, rows="s,ts", benchmarks=("zero-shot-retrieval", "vqa")))
    pretender = Pretender()
    results = ablated(plan, pretender)
    assert pretender.commands == [" ".join(node.words) for node in plan.nodes]
    assert not results.failures
    assert results.nodes["seed-1/zero-shot-retrieval/s90"].grades == {"ZS-IR": 40.0, "ZS-TR": 50.0}
    assert results.nodes["seed-1/vqa-grades/t45_s45"].grades == {"VQA": 60.0}


def test_a_second_run_trains_nothing_and_returns_all_grades(tmp_path: Path) -> None:
    plan = plan_ablation(a_study(tmp_path, rows="ts"))
    first, pretender = ablated(plan, Pretender()), Pretender()
    assert ablated(plan, pretender) == first
    assert pretender.commands == []


def test_a_run_that_is_gone_is_trained_again_and_its_grades_stay(tmp_path: Path) -> None:
    plan, pretender = plan_ablation(a_study(tmp_path, rows="ts")), Pretender()
    ablated(plan, Pretender())
    shutil.rmtree(tmp_path / "seed-1/t45")
    ablated(plan, pretender)
    assert [line.split()[2] for line in pretender.commands] == ["t"]


def test_an_interrupted_run_is_resumed(tmp_path: Path) -> None:
    plan, pretender = plan_ablation(a_study(tmp_path, rows="s")), Pretender(failing="nothing")
    (tmp_path / "seed-1/s90").mkdir(parents=True)
    write_json(tmp_path / "seed-1/s90/run.json", {})
    ablated(plan, pretender)
    assert pretender.commands[0] == " ".join(plan.nodes[0].words) + " --resume"


def test_a_finished_run_without_a_record_is_not_started_again(tmp_path: Path) -> None:
    plan, pretender = plan_ablation(a_study(tmp_path, rows="s")), Pretender()
    leave_run(tmp_path / "seed-1/s90", "sentence", steps=90)
    results = ablated(plan, pretender)
    assert [line.split()[0] for line in pretender.commands] == ["evaluate"]
    assert results.nodes["seed-1/s90"].seconds == 0.0


def test_what_fails_is_named_and_the_rest_goes_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    plan = plan_ablation(a_study(tmp_path, rows="s,ts"))
    with caplog.at_level(logging.ERROR):
        results = ablated(plan, Pretender(failing="--curriculum t"))
    log = tmp_path / "logs/seed-1/t45.log"
    assert results.failures == {
        "seed-1/t45": f"exit code 2: error: the disk is full (all of it: {log})",
        "seed-1/t45_s45": "not reached: seed-1/t45 failed",
        "seed-1/zero-shot-retrieval/t45_s45": "not reached: seed-1/t45_s45 failed",
    }
    assert "seed-1/t45 failed" in caplog.text
    assert "seed-1/zero-shot-retrieval/s90" in results.nodes


def test_what_failed_is_tried_again(tmp_path: Path) -> None:
    plan, pretender = plan_ablation(a_study(tmp_path, rows="s")), Pretender()
    ablated(plan, Pretender(failing="evaluate"))
    assert not ablated(plan, pretender).failures
    assert [line.split()[0] for line in pretender.commands] == ["evaluate"]


def test_a_run_of_fewer_steps_than_planned_is_a_failure(tmp_path: Path) -> None:
    def lazy(words: object, log_file: Path) -> int:
        leave_run(tmp_path / "seed-1/s90", "sentence", steps=60)
        return 0

    plan = plan_ablation(a_study(tmp_path, rows="s"))
    failures = run_ablation(plan, read_record(plan.study, HASHES), launch=lazy).failures
    assert "trained 60 steps instead of 90" in failures["seed-1/s90"]


def test_a_folder_of_another_ablation_is_refused(tmp_path: Path) -> None:
    study = a_study(tmp_path, rows="s")
    ablated(plan_ablation(study), Pretender())
    with pytest.raises(InputError, match="holds an ablation with preset tiny, not small"):
        read_record(a_study(tmp_path, preset="small"), HASHES)
    with pytest.raises(InputError, match="shard set sentence/train has changed"):
        read_record(study, {"sentence/train": "xyz"})
    with pytest.raises(InputError, match="holds an ablation with settings none, not heads=carried"):
        read_record(a_study(tmp_path, setting=("heads=carried",)), HASHES)
    moved = read_record(a_study(tmp_path, rows="s", shards=Path("elsewhere")), HASHES)
    assert (moved.shards, moved.nodes.keys()) == ("elsewhere", read_record(study, HASHES).nodes.keys())
    more = read_record(study, {**HASHES, "vqa/train": "new"})
    assert more.index_sha256 == {"sentence/train": "abc", "vqa/train": "new"}


def test_finished_evaluations_need_no_files(tmp_path: Path) -> None:
    plan = plan_ablation(a_study(tmp_path, rows="s"))
    outcomes = {node.name: CommandResult(seconds=1) for node in plan.nodes}
    record = dataclasses.replace(read_record(plan.study, HASHES), nodes=outcomes)
    assert finished_nodes(plan, record) == {"seed-1/zero-shot-retrieval/s90"}


def test_a_score_that_is_not_official_is_called_so(tmp_path: Path) -> None:
    study = a_study(tmp_path, rows="none", benchmarks=("vqa",))
    node = plan_ablation(study).nodes[-1]
    (tmp_path / node.name).mkdir(parents=True)
    with pytest.raises(InputError, match="holds 0 files of grades instead of one"):
        read_grades(study, node)
    write_json(tmp_path / node.name / "a.json", {"grades": {"lookup": {"percent": 50.0}}})
    assert read_grades(study, node) == ({"VQA": 50.0}, "VQA: LXMERT's look-up score, not the official one")
    write_json(tmp_path / node.name / "a.json", {"grades": {}})
    with pytest.raises(InputError, match="holds no grade called 'lookup'"):
        read_grades(study, node)


def test_durations_are_shown_in_words() -> None:
    assert [duration_text(seconds) for seconds in (45, 720, 11_100)] == ["45 s", "12 min", "3 h 5 min"]


def test_a_study_takes_its_steps_from_the_preset_and_its_batches_from_the_shards(small_shards: Path) -> None:
    request = AblationRequest(
        out=Path("out"), shards=small_shards, rows=chosen_rows("s"), benchmarks=("zero-shot-retrieval",), seeds=(1,)
    )
    study, hashes = study_of(request, preset=None, steps=None)
    # tiny: batches of 64; 8, 4 and 5 epochs. 64 images are trained on, with one token text and five captions each.
    assert (study.preset, study.batches["token"], study.batches["sentence"]) == ("tiny", 1, 5)
    assert study.steps == 8 + 4 * study.batches["phrase"] + 25
    assert sorted(hashes) == ["phrase/train", "sentence/train", "sentence/val", "token/train"]
    short, _ = study_of(request, preset="small", steps=7)
    assert (short.preset, short.steps, dict(short.batches)) == ("small", 7, {"sentence": 2})  # batches of 128


def test_a_study_of_shards_that_are_missing_or_less_than_a_batch_is_refused(tmp_path: Path) -> None:
    request = AblationRequest(
        out=Path("out"), shards=tmp_path / "shards", rows=chosen_rows("ts"), benchmarks=(), seeds=(1,)
    )
    with pytest.raises(InputError, match="no shards for stage token"):
        study_of(request, preset=None, steps=10)
    write_shards(tmp_path, images=70)  # 16 of them held out
    with pytest.raises(InputError, match=r"token/train holds 54 pairs, less than one batch of 64"):
        study_of(request, preset=None, steps=10)
