"""Whole runs, each in a process of its own: killed, stopped, resumed, on two ranks, mixed, from another run."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from command_line import refusal, run
from small_world import recipe_of
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from msp_ds.config import read_json
from msp_ds.curriculum import BENCHMARKS
from msp_ds.preparation.writing.shard_building import build_shards
from msp_ds.presets import PRESETS
from msp_ds.training.assembly.summary import COLUMNS
from msp_ds.training.checkpointing.checkpoint import BEST, OPTIMIZER, WEIGHTS, checkpoints, read_manifest, read_weights
from msp_ds.training.checkpointing.run_folder import RUN_FILE, STAGE_FILE, find_checkpoint

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[3]
TRAIN = [sys.executable, str(ROOT / "msp_ds" / "train.py")]
SHORT = ["--batch-size", "16", "--max-steps", "12", "--save-every", "2"]
STAGES = ["1-token", "2-phrase", "3-sentence"]
RANK_VARIABLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
RUN_TIMEOUT = 180.0
"""Seconds to wait for runs that take ten on an idle machine."""


def alone() -> dict[str, str]:
    """The environment without the variables that make this process a rank."""
    return {name: value for name, value in os.environ.items() if name not in RANK_VARIABLES}


def finished(command: Sequence[object], *, code: int = 0) -> str:
    """The stderr of a command, which must end with `code`."""
    done = subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, timeout=RUN_TIMEOUT, env=alone()
    )
    assert done.returncode == code, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stderr


def interrupted(command: Sequence[object], *, at: Path, by: signal.Signals) -> tuple[int, str]:
    """Start a command and send it a signal as soon as the file `at` is there; return its exit code and stderr."""
    with subprocess.Popen([str(word) for word in command], stderr=subprocess.PIPE, text=True, env=alone()) as process:
        deadline = time.monotonic() + RUN_TIMEOUT
        while not at.is_file() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.002)
        process.send_signal(by)
        _, output = process.communicate(timeout=RUN_TIMEOUT)
    return process.returncode, output


def saved(run: Path, stage: str) -> list[str]:
    """The sha256 of weights and moments at a stage's end: pytest would take hours to show megabytes that differ."""
    path = find_checkpoint(run / stage)
    return [hashlib.sha256((path / name).read_bytes()).hexdigest() for name in (WEIGHTS, OPTIMIZER)]


def scalars(stage: Path) -> dict[str, dict[int, float]]:
    """The curves of a stage in TensorBoard: name -> step -> value. A step must not come twice."""
    events = EventAccumulator(str(stage))
    events.Reload()
    curves = {}
    for name in events.Tags()["scalars"]:
        points = events.Scalars(name)
        curves[name] = {point.step: point.value for point in points}
        assert len(points) == len(curves[name]), f"{name} has a step twice"
    return curves


def assert_same_end(run: Path, whole: Path) -> None:
    """The same weights, moments, last validation, and the same curves but for speed and memory."""
    for stage in STAGES:
        assert saved(run, stage) == saved(whole, stage)
        assert (run / stage / STAGE_FILE).read_bytes() == (whole / stage / STAGE_FILE).read_bytes()
        curves, wanted = scalars(run / stage), scalars(whole / stage)
        timed = [name for name in wanted if name.startswith(("speed/", "memory/"))]
        assert timed, "speed and memory are shown"
        for name in timed:
            assert curves.pop(name).keys() == wanted.pop(name).keys()
        assert json.dumps(curves, sort_keys=True) == json.dumps(wanted, sort_keys=True)  # text, since nan != nan


@pytest.fixture(scope="module")
def whole(small_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of all three stages without interruption."""
    folder = tmp_path_factory.mktemp("whole") / "tps"
    finished([*TRAIN, "--shards", small_shards, "--run-dir", folder, *SHORT])
    return folder


def test_a_run_killed_in_its_second_stage_ends_like_one_that_was_not(
    small_shards: Path, whole: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    marker = folder / "2-phrase" / "checkpoints" / "step-00000004" / "manifest.json"
    command = [*TRAIN, "--shards", small_shards, "--run-dir", folder, *SHORT]
    code, _ = interrupted(command, at=marker, by=signal.SIGKILL)
    assert code == -signal.SIGKILL
    assert not (folder / "2-phrase" / STAGE_FILE).exists(), "the kill came too late to prove anything"
    output = finished([*TRAIN, "--run-dir", folder, "--resume", "--save-every", "2"])
    assert "token: finished before" in output
    assert re.search(r"phrase: .* continued after step \d+", output)
    assert_same_end(folder, whole)


@pytest.mark.full
def test_a_run_that_receives_sigterm_saves_and_can_be_resumed(small_shards: Path, whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    marker = folder / "1-token" / "checkpoints" / "step-00000002" / "manifest.json"
    command = [*TRAIN, "--shards", small_shards, "--run-dir", folder, *SHORT]
    code, output = interrupted(command, at=marker, by=signal.SIGTERM)
    assert code == 128 + signal.SIGTERM
    stopped = re.search(r"stopped after step (\d+); (\S+) is saved, --resume continues$", output, re.MULTILINE)
    assert stopped is not None, output
    assert "Traceback" not in output
    assert checkpoints(Path(stopped[2]).parent)[-1] == Path(stopped[2])
    assert "token: finished before" not in finished([*TRAIN, "--run-dir", folder, "--resume", "--save-every", "2"])
    assert_same_end(folder, whole)


def test_resuming_a_finished_run_changes_nothing(whole: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in whole.rglob("*.safetensors")}
    assert before
    output = finished([*TRAIN, "--run-dir", whole, "--resume"])
    assert output.count("finished before") == 3
    assert {path: path.stat().st_mtime_ns for path in whole.rglob("*.safetensors")} == before


@pytest.mark.full
def test_a_stage_killed_after_its_last_step_is_still_validated(small_shards: Path, whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    finished([*TRAIN, "--shards", small_shards, "--run-dir", folder, "--curriculum", "t", *SHORT])
    written = (folder / "1-token" / STAGE_FILE).read_bytes()
    (folder / "1-token" / STAGE_FILE).unlink()
    finished([*TRAIN, "--run-dir", folder, "--resume"])
    assert (folder / "1-token" / STAGE_FILE).read_bytes() == written
    assert written == (whole / "1-token" / STAGE_FILE).read_bytes()  # nor do later stages matter to the first


@pytest.mark.full
def test_a_run_whose_shards_changed_does_not_go_on(small_shards: Path, tmp_path: Path) -> None:
    world, shards = small_shards.parent / "world", tmp_path / "shards"
    build_shards(recipe_of(world), stage="token", out=shards)
    folder = tmp_path / "run"
    finished([*TRAIN, "--shards", shards, "--run-dir", folder, "--curriculum", "t", *SHORT])
    (folder / "1-token" / STAGE_FILE).unlink()
    build_shards(recipe_of(world, holdout=20), stage="token", out=shards)
    output = finished([*TRAIN, "--run-dir", folder, "--resume"], code=2)
    assert "error: shard set token/train has changed since" in output.splitlines()[-1]


@pytest.mark.full
def test_two_ranks_train_on_the_same_batches_as_one(small_shards: Path, tmp_path: Path) -> None:
    launcher = Path(sys.executable).with_name("deepspeed")
    if not launcher.is_file():
        pytest.skip("the deepspeed launcher is not beside this interpreter")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    flags = ["--shards", small_shards, "--curriculum", "t", *SHORT[:2], "--max-steps", "2", "--save-every", "1"]
    flags += ["--set", "region_normaliser=expected"]
    finished([*TRAIN, *flags, "--run-dir", tmp_path / "one"])
    launched = [launcher, "--num_accelerators", "2", "--master_port", port, TRAIN[1]]
    finished([*launched, *flags, "--run-dir", tmp_path / "two"])
    assert read_json(tmp_path / "two" / RUN_FILE, what="a run")["world_size"] == 2
    one, two = (scalars(tmp_path / name / "1-token") for name in ("one", "two"))
    assert one.keys() == two.keys()
    # Sums over the pairs divided by numbers that do not depend on the ranks.
    for name in ("loss/mrfr", "accuracy/mlm", "accuracy/moc_object", "error/mrfr", "error/ifrs"):
        assert two[name][1] == pytest.approx(one[name][1], rel=1e-4, abs=1e-6), name
    # A mean over masked pieces is taken on each rank, then over the ranks.
    for name in ("loss/mlm", "loss/total"):
        assert two[name][1] == pytest.approx(one[name][1], rel=0.02), name
    for name in one:
        if name.startswith("validation/accuracy"):
            assert 0 <= two[name][2] <= 1


def test_what_the_first_of_two_ranks_cannot_write_is_reported_once(small_shards: Path, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    launched = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", TRAIN[1]]
    output = finished([*launched, "--shards", small_shards, "--run-dir", tmp_path / "taken" / "run", *SHORT], code=1)
    assert [line.split(";")[1] for line in output.splitlines() if line.startswith("error: ")] == [
        " name another --run-dir"
    ]
    assert "DistBackendError" not in output


@pytest.mark.full
@pytest.mark.parametrize("zero_stage", [1, 2, 3])
def test_a_run_with_zero_learns_the_same_and_goes_on_in_any_way(
    small_shards: Path, whole: Path, tmp_path: Path, zero_stage: int
) -> None:
    way, folder = tmp_path / "way.json", tmp_path / "run"
    way.write_text(json.dumps({"precision": "fp32", "zero_stage": zero_stage, "bucket_elements": 1000000}))
    flags = ["--curriculum", "tp", "--ds-config", way, *SHORT]
    finished([*TRAIN, "--shards", small_shards, "--run-dir", folder, *flags])
    for stage in STAGES[:2]:
        weights, expected = (read_weights(find_checkpoint(one / stage)) for one in (folder, whole))
        assert weights.keys() == expected.keys()
        for name in weights:
            if not name.endswith("key.bias"):  # softmax does not feel it: rounding, which AdamW blows up
                torch.testing.assert_close(weights[name].detach(), expected[name], atol=5e-4, rtol=0)
    way.write_text('{"precision": "fp32"}')
    for flags in ([], ["--ds-config", way]):
        (folder / "2-phrase" / STAGE_FILE).unlink()
        output = finished([*TRAIN, "--run-dir", folder, "--resume", *flags])
        assert "continued after step 12" in output


@pytest.mark.full
def test_a_stage_whose_end_was_damaged_is_trained_again_from_the_checkpoint_before(
    small_shards: Path, whole: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    first = folder / "1-token" / "checkpoints" / "step-00000012"
    (first / WEIGHTS).write_bytes(bytes(100))
    shutil.rmtree(folder / "2-phrase")
    shutil.rmtree(folder / "3-sentence")
    output = finished([*TRAIN, "--run-dir", folder, "--resume", "--save-every", "2"])
    assert f"1-token was finished, but {WEIGHTS} has 100 bytes instead of" in output
    assert re.search(r"token: .* continued after step 10", output)
    for stage in STAGES:
        assert saved(folder, stage) == saved(whole, stage)


def curve(stage: Path) -> dict[int, float]:
    return scalars(stage)["loss/total"]


@pytest.mark.full
def test_ranks_and_zero_stages_may_change_within_a_run(small_shards: Path, tmp_path: Path) -> None:
    """1, 2, 1 and 2 ranks with ZeRO 0, 2, 0 and 3: the same global batches and curve as a run that never changed."""
    straight, folder = tmp_path / "straight", tmp_path / "run"
    ways = [tmp_path / f"zero{stage}.json" for stage in (0, 2, 3)]
    for way in ways:  # halves of the batch in each way: a mean over masked pieces is taken per forward pass
        way.write_text(json.dumps({"precision": "fp32", "zero_stage": int(way.stem[4:]), "micro_batch": 8}))
    flags = ["--shards", small_shards, "--curriculum", "t", *SHORT[:4], "--save-every", "1"]
    finished([*TRAIN, *flags, "--run-dir", straight, "--ds-config", ways[0]])
    two = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", TRAIN[1]]
    parts = [(TRAIN, ways[0], 2), (two, ways[1], 5), (TRAIN, ways[0], 8), (two, ways[2], 12)]
    for program, way, until in parts:
        begun = ["--resume", "--save-every", "1"] if folder.exists() else flags
        command = [*program, *begun, "--run-dir", folder, "--ds-config", way]
        if until == 12:
            finished(command)
        else:
            at = folder / "1-token" / "checkpoints" / f"step-{until:08d}" / "manifest.json"
            interrupted(command, at=at, by=signal.SIGTERM)
    assert [entry["world_size"] for entry in read_json(folder / RUN_FILE, what="a run")["resumed"]] == [2, 1, 2]
    expected, found = curve(straight / "1-token"), curve(folder / "1-token")
    assert found.keys() == expected.keys() == set(range(1, 13))
    for step, loss in expected.items():
        assert found[step] == pytest.approx(loss, abs=1e-3), step


@pytest.mark.full
def test_all_stages_train_together_from_the_backbone_of_another_run(
    small_shards: Path, whole: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    flags = ["--curriculum", "t+p+s", "--init", whole, *SHORT[:2], "--max-steps", "12"]
    output = finished([*TRAIN, "--shards", small_shards, "--run-dir", folder, *flags])
    assert f"backbone tensors from {whole}/3-sentence/checkpoints/step-00000012; heads left behind: match," in output
    assert "fresh heads: match, region, token, topic" in output
    stage = read_json(folder / "1-token+phrase+sentence" / STAGE_FILE, what="a stage")
    assert {"loss/ifrs", "loss/titp", "loss/tits", "loss/itm_hs"} <= stage["validation"].keys()


def test_a_rate_that_is_far_too_high_ends_in_one_line_and_leaves_the_last_good_checkpoint(
    small_shards: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    flags = ["--curriculum", "t", "--lr", "1e30", *SHORT[:4], "--save-every", "1"]
    output = finished([*TRAIN, "--shards", small_shards, "--run-dir", folder, *flags], code=1)
    assert "Traceback" not in output
    assert re.search(r"(is|are) not finite by step \d+ of stage token", output.splitlines()[-1])
    for path in checkpoints(folder / "1-token" / "checkpoints"):
        assert all(bool(tensor.isfinite().all()) for tensor in read_weights(path).values())


def test_a_stage_leaves_its_last_two_checkpoints_and_its_best(whole: Path) -> None:
    for stage in STAGES:
        folder = whole / stage / "checkpoints"
        best = (folder / BEST).read_text().strip()
        losses = scalars(whole / stage)["validation/loss/total"]
        assert best == f"step-{min(losses, key=lambda step: losses[step]):08d}"
        names = {path.name for path in folder.iterdir()}
        assert names == {BEST, best, "step-00000010", "step-00000012"}


def test_a_checkpoint_records_position_and_configuration(small_shards: Path, whole: Path) -> None:
    last = whole / "1-token" / "checkpoints" / "step-00000012"
    state = read_manifest(last).state
    card = read_json(whole / RUN_FILE, what="a run")
    assert (state["stage"], state["step"], state["seed"], state["ranks"]) == ("token", 12, card["config"]["seed"], 1)
    assert state["position"] == {"epoch": 3, "batch": 0, "pairs": 12 * 16}  # of 64 pairs
    assert state["config"] == card["config"]
    assert state["execution"] == card["execution"]
    assert state["indexes"] == [card["index_sha256"]["token/train"]]
    assert state["validated"]["loss/total"] > 0


def test_a_run_records_its_configuration_and_versions(small_shards: Path, whole: Path) -> None:
    card = read_json(whole / RUN_FILE, what="a run")
    assert card["config"]["curriculum"] == "tps"
    assert card["config"]["max_steps"] == 12
    epochs = PRESETS["tiny"].schedule["token"].epochs
    assert card["config"]["schedule"]["token"] == {"epochs": epochs, "batch_size": 16}
    for name, digest in card["index_sha256"].items():
        assert hashlib.sha256((small_shards / name / "index.json").read_bytes()).hexdigest() == digest
    assert len(card["index_sha256"]) == 6
    assert card["versions"]["torch"] == torch.__version__
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    assert card["git_commit"].rstrip("+") == (head.stdout.strip() if head.returncode == 0 else "unknown")


def test_every_stage_reports_its_held_out_metrics(whole: Path) -> None:
    last_task = {"1-token": "ifrs", "2-phrase": "titp", "3-sentence": "itm_hs"}
    for stage, task in last_task.items():
        done = read_json(whole / stage / STAGE_FILE, what="a stage")
        assert (done["steps"], done["checkpoint"]) == (12, "step-00000012")
        assert {"loss/mlm", "accuracy/mlm", "loss/moc", "error/mrfr", f"loss/{task}"} <= done["validation"].keys()


def test_the_columns_of_the_table_of_runs_are_there_in_one_stage_or_another(whole: Path) -> None:
    measured = {name for stage in whole.glob("[0-9]-*") for name in scalars(stage)}
    benchmarks = {f"accuracy/{name}" for name in BENCHMARKS}  # each names its measure so
    assert set(COLUMNS) == {name for name in COLUMNS if f"validation/{name}" in measured} | benchmarks


def test_tensorboard_shows_losses_metrics_rate_norm_scale_and_speed(whole: Path) -> None:
    curves = scalars(whole / "3-sentence")
    expected = {"loss/mlm", "loss/total", "accuracy/mlm", "accuracy/itm_hs", "f1/tits", "error/mrfr"}
    expected |= {"rate/lr", "norm/grad", "scale/loss", "speed/pairs_per_s", "validation/loss/mlm"}
    assert expected <= curves.keys()
    assert list(curves["loss/mlm"]) == [2, 4, 6, 8, 10, 12]
    assert set(curves["scale/loss"].values()) == {1.0}
    assert all(norm > 0 for norm in curves["norm/grad"].values())
    peak = read_json(whole / RUN_FILE, what="a run")["config"]["optim"]["lr"]
    assert curves["rate/lr"][2] == pytest.approx(peak * 11 / 11)  # one step of warm-up, then down over eleven
    assert curves["rate/lr"][12] == pytest.approx(peak / 11)
    assert list(curves["validation/loss/mlm"]) == [12]


def test_a_trained_run_can_be_evaluated_from_any_folder_of_it(
    small_shards: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["evaluate", "--shards", small_shards / "sentence" / "val", "--captions-per-image", "1"]
    assert run(*words, "--checkpoint", whole, "--out", tmp_path / "a").exit_code == 0
    monkeypatch.chdir(whole / "3-sentence" / "checkpoints" / "step-00000012")
    result = run(*words, "--checkpoint", ".")
    assert result.exit_code == 0, result.output
    assert "16 held-out images" in result.stdout
    name = "retrieval-3-sentence-step-00000012-on-sentence-val-16x1.json"
    grades = [read_json(folder / name, what="grades")["grades"] for folder in (whole, tmp_path / "a")]
    assert grades[0] == grades[1]


def test_a_stage_that_never_matched_cannot_be_evaluated(small_shards: Path, whole: Path) -> None:
    words = ["evaluate", "--shards", small_shards / "sentence" / "val", "--checkpoint", whole / "1-token"]
    assert "has heads region, token but no match head" in refusal(*words)


def test_evaluation_needs_no_deepspeed(small_shards: Path, whole: Path) -> None:
    script = (
        "import sys; from pathlib import Path\n"
        "from msp_ds.data.format.shards import open_set\n"
        "from msp_ds.training.checkpointing.inference import load_trained\n"
        f"shards = open_set(Path({str(small_shards / 'sentence' / 'val')!r}))\n"
        f"load_trained(Path({str(whole)!r}), shards=shards, needed_heads=('match',), preset='tiny')\n"
        "sys.exit('deepspeed' in sys.modules)\n"
    )
    finished([sys.executable, "-c", script])
