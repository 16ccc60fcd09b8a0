"""Features that stay on the device change neither batches nor weights, are read once, and are kept where they fit."""

from __future__ import annotations

import dataclasses
import logging
import math
import shutil
import subprocess
import sys
import weakref
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from batches import assert_equal, copied
from command_line import refusal, run
from small_world import recipe_of, write_shards
from torch import Tensor

from msp_ds.config import read_json
from msp_ds.curriculum import curriculum
from msp_ds.data.format.shards import ShardSet
from msp_ds.data.loading.order import Order
from msp_ds.data.loading.reader import Reader
from msp_ds.data.loading.resident import FeatureTable, ResidentImages, table_bytes
from msp_ds.errors import InputError
from msp_ds.preparation.recipe import BenchmarkRecipe
from msp_ds.preparation.writing.shard_building import build_shards
from msp_ds.records import Batch
from msp_ds.training.batch_loader import BatchLoader
from msp_ds.training.checkpointing.checkpoint import WEIGHTS
from msp_ds.training.checkpointing.run_folder import RUN_FILE, STAGE_FILE, find_checkpoint
from msp_ds.training.distributed.runtime import Runtime
from msp_ds.training.engine.execution import Execution, Resident, read_execution
from msp_ds.training.guards.interrupt import Interrupted, StopRequest
from msp_ds.training.memory import residency
from msp_ds.training.memory.residency import Residency, Room, step_bytes
from msp_ds.training.planning import new_config, with_resident
from msp_ds.training.stage import Job, StageData, build_context, build_pretraining_model, open_stage_data, residency_of

CPU = torch.device("cpu")
ALONE = Runtime(rank=0, world_size=1, device=CPU)
GIB = 2**30
STAGES = ["t", "p", "s", "t+p+s"]
TRAIN = str(Path(__file__).resolve().parents[3] / "msp_ds" / "train.py")


def a_residency(
    shards: Path, spelling: str, *, wish: Resident = "always", rank: int = 0, of: int = 1, **changes: Any
) -> tuple[Residency, StageData]:
    """That of a stage of the small world in global batches of 16, and the stage's sets."""
    stage = curriculum(spelling)[0]
    config = new_config({"shards": str(shards), "curriculum": spelling, "batch_size": 16})
    alone = Residency(
        stage=stage,
        config=dataclasses.replace(config, **changes),
        execution=Execution(precision="fp32", resident=wish),
        runtime=Runtime(rank=rank, world_size=of, device=CPU),
        tables=[],
    )
    return alone, open_stage_data(shards, stage)


def batches(residency: Residency, data: StageData, readers: list[Reader], *, micro_batch: int) -> list[Batch]:
    """All micro batches of the first nine steps, as this rank's feed gives them."""
    loader = BatchLoader(residency.stage.parts, readers, build_context(residency.config, data), residency.runtime)
    keys, lengths = [reader.keys for reader in readers], [reader.lengths for reader in readers]
    order = Order(keys, lengths=lengths, seed=residency.config.seed, batch_size=16)
    step_batches = loader.step_batches(order, start=0, end=9, micro_batch=micro_batch)
    return [copied(batch) for step_batch in step_batches for batch in step_batch.micro_batches]


@pytest.mark.parametrize("spelling", STAGES)
@pytest.mark.parametrize(("rank", "of", "micro_batch"), [(0, 1, 16), (0, 1, 4), (1, 2, 8), (3, 4, 2)])
def test_the_feed_gives_the_same_bits(small_shards: Path, spelling: str, rank: int, of: int, micro_batch: int) -> None:
    """All tasks with their substitutions and random_regions, in several parts and micro batches, on any rank."""
    alone, data = a_residency(small_shards, spelling)
    readers = alone.readers(data.train)
    assert all(reader.source is not reader.files for reader in readers)
    this, _ = a_residency(small_shards, spelling, rank=rank, of=of)
    plain = batches(this, data, [Reader(one) for one in data.train], micro_batch=micro_batch)
    kept = batches(this, data, readers, micro_batch=micro_batch)
    assert len(plain) == len(kept) == 9 * 16 // of // micro_batch
    for one, other in zip(plain, kept, strict=True):
        assert_equal(one, other)


def test_images_with_fewer_regions_give_the_same_bits_too(tmp_path: Path) -> None:
    shards = write_shards(tmp_path)
    alone, data = a_residency(shards, "s")
    (whole,) = data.train
    fewer = dataclasses.replace(whole, index=dataclasses.replace(whole.index, num_regions=40))  # all have 36
    padded = dataclasses.replace(data, train=(fewer,))
    plain = batches(alone, padded, [Reader(fewer)], micro_batch=8)
    kept = batches(alone, padded, alone.readers([fewer]), micro_batch=8)
    assert plain[0].region_mask.sum(1).tolist() == [36] * 8
    assert plain[0].features.shape[1] == 40
    for one, other in zip(plain, kept, strict=True):
        assert_equal(one, other)


@pytest.fixture(scope="module")
def two_image_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of nlvr2's statements, each about two images."""
    folder = tmp_path_factory.mktemp("nlvr2")
    write_shards(folder)
    benchmark = {"nlvr2": BenchmarkRecipe(questions=(str(folder / "world" / "nlvr2.json"),))}
    build_shards(recipe_of(folder / "world", benchmarks=benchmark), stage="nlvr2", out=folder / "shards")
    return folder / "shards"


def test_statements_about_two_images_give_the_same_bits(two_image_shards: Path) -> None:
    alone, data = a_residency(two_image_shards, "nlvr2")
    plain = batches(alone, data, [Reader(one) for one in data.train], micro_batch=4)
    kept = batches(alone, data, alone.readers(data.train), micro_batch=4)
    assert plain[0].features.shape[0] == 8, "two rows a statement"
    for one, other in zip(plain, kept, strict=True):
        assert_equal(one, other)


def weights(run_dir: Path, stage: str) -> bytes:
    return (find_checkpoint(run_dir / stage) / WEIGHTS).read_bytes()


SHORT = ("--batch-size", 16, "--max-steps", 4, "--set", "model.num_layers=1", "--set", "model.hidden_size=16")
SHORT = (*SHORT, "--set", "model.num_heads=2", "--set", "model.intermediate_size=16", "--save-every", 2)


@pytest.mark.full
def test_a_run_ends_with_the_same_weights_and_reads_its_images_once(
    small_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The images of stage p are among those of t."""
    made, loaded = [], []
    load = ResidentImages.load
    monkeypatch.setattr(
        ResidentImages,
        "load",
        lambda images, start, end, through: (loaded.append(end - start), load(images, start, end, through)),
    )
    monkeypatch.setattr(residency, "FeatureTable", lambda *arguments: made.append(FeatureTable(*arguments)) or made[-1])
    flags = ("--shards", small_shards, "--curriculum", "tp", *SHORT)
    said = {}
    for wish in ("never", "always"):
        done = run("train", *flags, "--run-dir", tmp_path / wish, "--resident", wish)
        assert done.exit_code == 0, done.output
        said[wish] = done.stderr
    for stage in ("1-token", "2-phrase"):
        assert weights(tmp_path / "never", stage) == weights(tmp_path / "always", stage), stage
    assert len(made) == 1
    assert sum(loaded) == 64, "80 images, of which 16 are held out"
    assert "features" not in said["never"]
    assert "token: features are read from the shards, to be in this machine's memory: they take 0.00 GiB, a step" in (
        " ".join(said["always"].split())
    )
    assert "phrase: features of " in said["always"]
    assert said["always"].count("since an earlier stage") == 1


@pytest.mark.full
def test_a_resumed_run_may_keep_its_features_elsewhere(small_shards: Path, tmp_path: Path) -> None:
    flags = ("--shards", small_shards, "--curriculum", "s", *SHORT)
    assert run("train", *flags, "--run-dir", tmp_path, "--resident", "always").exit_code == 0
    whole, last = weights(tmp_path, "1-sentence"), find_checkpoint(tmp_path / "1-sentence")
    shutil.rmtree(last)
    (tmp_path / "1-sentence" / STAGE_FILE).unlink()
    assert find_checkpoint(tmp_path / "1-sentence").name == "step-00000002"
    assert run("train", "--resume", "--run-dir", tmp_path, "--resident", "never").exit_code == 0
    assert weights(tmp_path, "1-sentence") == whole
    card = read_json(tmp_path / RUN_FILE, what="the run")
    assert card["execution"]["resident"] == "always"
    assert card["resumed"][-1]["execution"]["resident"] == "never"
    assert "resident" not in card["config"]


def test_the_flag_stands_in_for_the_key_and_its_absence_leaves_it(tmp_path: Path) -> None:
    how = ("cpu_fp32", Execution(precision="fp32", resident="never"))
    assert with_resident(how, None) == how
    assert with_resident(how, "always") == ("cpu_fp32", Execution(precision="fp32", resident="always"))
    assert Execution(precision="fp32").resident == "auto"
    (tmp_path / "way.json").write_text('{"precision": "fp32", "resident": "sometimes"}', encoding="utf-8")
    with pytest.raises(InputError, match=r"way.json.resident: 'sometimes' is none of auto, always, never"):
        read_execution(tmp_path / "way.json")


def test_there_is_room_up_to_the_last_byte() -> None:
    room = Room(table=10 * GIB, step=4 * GIB, spare=GIB, free=15.0 * GIB)
    assert room.fits
    assert not dataclasses.replace(room, free=15.0 * GIB - 1).fits
    assert room.told() == "they take 10.00 GiB, a step about 4.00, 1.00 are kept to spare, and 15.00 are free"


def on_a_card(monkeypatch: pytest.MonkeyPatch, *, free: float, total: float) -> None:
    """A CPU that is taken for a device with a memory of its own."""
    monkeypatch.setattr(residency, "has_own_memory", lambda runtime: True)
    monkeypatch.setattr(residency, "memory_of", lambda device: (free, total))


@pytest.mark.parametrize("missing", [0, 1])
def test_auto_keeps_features_where_table_step_and_a_twentieth_of_the_memory_fit(
    small_shards: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, missing: int
) -> None:
    auto, data = a_residency(small_shards, "s", wish="auto")
    # 64 images of 36 regions and a region of zeros, 64 numbers of two bytes each
    table = (64 * 36 + 1) * 64 * 2
    assert table_bytes(data.train[0]) == table
    step = step_bytes(auto.stage, data.train, config=auto.config, execution=auto.execution, ranks=1)
    on_a_card(monkeypatch, free=table + step + 1000 - missing, total=20_000)
    with caplog.at_level(logging.INFO):
        (reader,) = auto.readers(data.train)
    assert isinstance(reader.source, ResidentImages) != bool(missing)
    assert len(auto.tables) == 1 - missing
    assert ("sentence: features come from the shards: they take 0.00 GiB, a step about" in caplog.text) == bool(missing)


def test_auto_keeps_nothing_on_a_cpu_nor_for_a_stage_that_reads_less(
    small_shards: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    auto, data = a_residency(small_shards, "s", wish="auto")
    with caplog.at_level(logging.INFO):
        assert [reader.source is reader.files for reader in auto.readers(data.train)] == [True]
    assert not caplog.text, "there it is nothing to tell"
    on_a_card(monkeypatch, free=GIB, total=GIB)
    for steps, kept in ((3, False), (4, True)):  # of 16 pairs; the set has 64 images
        short, _ = a_residency(small_shards, "s", wish="auto", max_steps=steps)
        with caplog.at_level(logging.INFO):
            assert [reader.source is not reader.files for reader in short.readers(data.train)] == [kept]
    assert "sentence: features come from the shards: a rank trains on 48 pairs, of 64 images" in caplog.text


@pytest.mark.parametrize(("steps", "done", "kept"), [(7, 0, False), (8, 0, True), (9, 1, True), (9, 2, False)])
def test_auto_counts_the_pairs_that_a_rank_has_to_go(
    small_shards: Path, monkeypatch: pytest.MonkeyPatch, steps: int, done: int, kept: bool
) -> None:
    """Of two ranks each takes 8 pairs a step; the set has 64 images."""
    auto, data = a_residency(small_shards, "s", wish="auto", of=2, max_steps=steps)
    monkeypatch.setattr(Runtime, "any_error", lambda runtime, said: said)
    monkeypatch.setattr(Runtime, "largest", lambda runtime, values: values)
    monkeypatch.setattr(Runtime, "on_all_ranks", lambda runtime, action: action())
    on_a_card(monkeypatch, free=GIB, total=GIB)
    readers = dataclasses.replace(auto, start=done).readers(data.train)
    assert [reader.source is not reader.files for reader in readers] == [kept]


def step_of(
    residency: Residency, sets: Sequence[ShardSet], micro_batch: int | None, *, batch_size: int = 16, ranks: int = 1
) -> int:
    """Bytes of a step in fp32, without ZeRO."""
    config = dataclasses.replace(
        new_config({"shards": residency.config.shards, "curriculum": "s", "batch_size": batch_size}),
        model=residency.config.model,
    )
    execution = Execution(precision="fp32", micro_batch=micro_batch)
    return step_bytes(residency.stage, sets, config=config, execution=execution, ranks=ranks)


def test_a_step_takes_weights_moments_activations_and_batches_that_wait(small_shards: Path) -> None:
    """Twice the pairs take twice of what is a pair's; a rank more halves the batches that wait, and nothing else."""
    this, data = a_residency(small_shards, "s")
    bytes_of = partial(step_of, this, data.train)
    four_pairs = bytes_of(8) - bytes_of(4)
    assert bytes_of(16) == bytes_of(None)
    assert abs((bytes_of(16) - bytes_of(8)) - 2 * four_pairs) <= 2
    # four portions of 16 pairs, each of 36 regions and 4 random_regions of 64 numbers in two bytes
    waiting = 4 * 16 * (36 + 4) * 64 * 2
    assert bytes_of(8, batch_size=32) - bytes_of(8) == waiting
    assert bytes_of(4) - bytes_of(4, ranks=2) == waiting // 2
    model = build_pretraining_model(this.config, this.stage, build_context(this.config, data), None)
    # fp32 weights, gradients and two moments
    state = 16 * sum(weight.numel() for weight in model.parameters())
    assert abs(bytes_of(4) - four_pairs - waiting - state) <= 2


def test_the_images_of_a_statement_wait_both(two_image_shards: Path) -> None:
    this, data = a_residency(two_image_shards, "nlvr2")
    more = step_of(this, data.train, 4, batch_size=16) - step_of(this, data.train, 4, batch_size=8)
    assert more == 4 * 8 * 2 * 36 * 64 * 2  # without random_regions


def test_the_part_that_takes_most_counts(small_shards: Path) -> None:
    def pairs_of(spelling: str) -> int:
        this, data = a_residency(small_shards, spelling)
        return step_of(this, data.train, 8) - step_of(this, data.train, 4)

    alone = [pairs_of(spelling) for spelling in "tps"]
    assert len(set(alone)) > 1
    assert abs(pairs_of("t+p+s") - max(alone)) <= 2


def a_job(residency: Residency, tmp_path: Path, wish: Resident, **changes: Any) -> Job:
    execution = Execution(precision="fp32", micro_batch=4, resident=wish)
    job = Job(config=residency.config, execution=execution, folder=tmp_path, runtime=ALONE, stop=StopRequest())
    return dataclasses.replace(job, **changes)


def test_a_micro_batch_to_be_found_counts_whole_for_auto_and_as_a_pair_for_always(
    small_shards: Path, tmp_path: Path
) -> None:
    this, _ = a_residency(small_shards, "s")
    for wish, finds, counted in (("auto", False, 4), ("auto", True, None), ("always", False, 4), ("always", True, 1)):
        job = a_job(this, tmp_path, wish, fits_micro_batch=finds)
        found = residency_of(job, this.stage, 3)
        assert found.execution == dataclasses.replace(job.execution, micro_batch=counted)
        assert (found.start, found.stop, found.tables) == (3, job.stop, job.tables)


def test_parts_with_the_same_images_share_the_largest_table(small_shards: Path) -> None:
    alone, data = a_residency(small_shards, "t+p+s")
    alone.readers(data.train)
    assert len(data.train[1].keys) < 64
    assert [len(table.counts) for table in alone.tables] == [64]


@pytest.mark.parametrize("missing", [0, 1])
def test_always_needs_room_for_all_tables_of_a_stage(
    small_shards: Path, monkeypatch: pytest.MonkeyPatch, missing: int
) -> None:
    """Two parts have the same images, the third has others."""
    always, data = a_residency(small_shards, "t+p+s")
    renamed = dataclasses.replace(data.train[0], keys=tuple(f"other {key}" for key in data.train[0].keys))
    sets = [renamed, *data.train[1:]]
    step = step_bytes(always.stage, sets, config=always.config, execution=always.execution, ranks=1)
    on_a_card(monkeypatch, free=table_bytes(sets[0]) + table_bytes(sets[2]) + step - missing, total=0)
    with pytest.raises(InputError, match="do not fit") if missing else nullcontext():
        always.check(sets)


def test_ranks_of_a_machine_without_gpus_share_its_memory(small_shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    this, data = a_residency(small_shards, "s")
    monkeypatch.setattr(residency, "memory_of", lambda device: (8.0 * GIB, 20.0 * GIB))
    both = dataclasses.replace(this, runtime=dataclasses.replace(ALONE, ranks_here=2))
    assert (both.room(0, data.train).free, both.room(0, data.train).spare) == (4 * GIB, GIB // 2)
    monkeypatch.setattr(residency, "has_own_memory", lambda runtime: True)
    assert both.room(0, data.train).free == 8 * GIB


def test_a_request_to_stop_ends_the_reading(small_shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(residency, "IMAGES_AT_ONCE", 16)
    this, data = a_residency(small_shards, "s")
    loaded, load = [], ResidentImages.load

    def then_asked(images: ResidentImages, start: int, end: int, through: Tensor) -> None:
        loaded.append(end)
        load(images, start, end, through)
        this.stop.signal = 15 if end == 32 else 0

    monkeypatch.setattr(ResidentImages, "load", then_asked)
    with pytest.raises(Interrupted, match=r"^stopped before the first step; --resume continues$") as caught:
        this.readers(data.train)
    assert caught.value.exit_code == 143
    assert loaded == [16, 32], "of 64"
    with pytest.raises(Interrupted, match=r"^stopped after step 5, which is saved; --resume continues$"):
        dataclasses.replace(this, start=5, tables=[]).readers(data.train)


def test_nothing_is_read_for_a_run_that_cannot_go_on(
    small_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = ("--shards", small_shards, "--curriculum", "s", *SHORT)
    assert run("train", *flags, "--run-dir", tmp_path, "--resident", "never").exit_code == 0
    (tmp_path / "1-sentence" / STAGE_FILE).unlink()
    for path in (tmp_path / "1-sentence" / "checkpoints").rglob(WEIGHTS):
        path.write_bytes(b"")
    monkeypatch.setattr(ResidentImages, "load", lambda *_: pytest.fail("features were read"))
    done = run("train", "--resume", "--run-dir", tmp_path, "--resident", "always")
    assert done.exit_code == 2, done.output
    assert "no checkpoint in" in done.stderr


def test_what_does_not_fit_is_refused_with_figures_and_the_mend(
    small_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_a_card(monkeypatch, free=0.5 * GIB, total=20 * GIB)
    flags = ("--shards", small_shards, "--curriculum", "s", *SHORT, "--run-dir", tmp_path / "run")
    said = refusal("train", *flags, "--resident", "always", log_lines=1)
    assert said.startswith(
        "--resident always: the features of sentence do not fit in this machine's memory: they take 0.00 GiB, a step "
        "about 0.0"
    )
    assert said.endswith(
        "1.00 are kept to spare, and 0.50 are free; leave it out, or make the step smaller with --micro-batch"
    )
    assert not (tmp_path / "run").exists()


def test_a_memory_in_pieces_is_no_crash(
    small_shards: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*arguments: object) -> None:
        raise MemoryError

    monkeypatch.setattr(residency, "FeatureTable", full)
    on_a_card(monkeypatch, free=GIB, total=GIB)
    auto, data = a_residency(small_shards, "s", wish="auto")
    with caplog.at_level(logging.INFO):
        assert [reader.source is reader.files for reader in auto.readers(data.train)] == [True]
    assert "are free, but the system gives no such piece" in caplog.text
    always, _ = a_residency(small_shards, "s")
    on_a_card(monkeypatch, free=math.inf, total=math.inf)  # a system that does not tell
    with pytest.raises(InputError, match="an unknown number is free, but the system gives no such piece; leave it out"):
        always.readers(data.train)


def test_shards_that_come_by_block_are_refused_or_read_as_they_come(small_shards: Path) -> None:
    always, data = a_residency(small_shards, "s")
    coming = [dataclasses.replace(data.train[0], comes_by_block=True)]
    with pytest.raises(InputError, match=r"^--resident always needs all shards here, but those of sentence come block"):
        always.check(coming)
    auto, _ = a_residency(small_shards, "s", wish="auto")
    auto.check(coming)
    assert [reader.source is reader.files for reader in auto.readers(coming)] == [True]


def test_a_table_that_the_next_stage_has_no_use_or_room_for_is_let_go(
    small_shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    phrases, data = a_residency(small_shards, "p")
    phrases.readers(data.train)
    (table,) = phrases.tables
    sentences, data = a_residency(small_shards, "s", wish="auto")
    sentences.tables.append(table)
    on_a_card(monkeypatch, free=GIB, total=GIB)
    sentences.readers(data.train)  # has more images
    assert [len(one.counts) for one in sentences.tables] == [64]
    phrases = dataclasses.replace(phrases, tables=sentences.tables, execution=sentences.execution)
    kept, is_there = weakref.ref(sentences.tables[0]), []
    monkeypatch.setattr(residency, "memory_of", lambda device: is_there.append(kept() is not None) or (1000, GIB))
    phrases.readers(a_residency(small_shards, "p")[1].train)
    assert sentences.tables == []
    assert is_there == [True, False], "its memory must be free before what is free is looked at again"


@pytest.mark.full
@pytest.mark.slow
def test_two_ranks_end_with_the_weights_of_two_that_read_the_shards(small_shards: Path, tmp_path: Path) -> None:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", TRAIN]
    for wish in ("always", "never"):
        words = ["--shards", small_shards, "--curriculum", "ts", *SHORT, "--run-dir", tmp_path / wish]
        command = [str(word) for word in (*launcher, *words, "--resident", wish)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=400, check=False)
        assert done.returncode == 0, done.stderr
    for stage in ("1-token", "2-sentence"):
        assert weights(tmp_path / "always", stage) == weights(tmp_path / "never", stage)
