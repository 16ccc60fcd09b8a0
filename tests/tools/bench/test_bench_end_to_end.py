"""The bench of the whole way: rounds of both kinds on the same batches, and a table that adds up."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch

from msp_ds.records import Batch
from msp_ds.training.batch_loader import StepBatch
from tools.bench.common.figures import Clock, Times
from tools.bench.common.replayed_loop import SENTENCE
from tools.bench.common.whole_steps import Round, Rounds, bytes_of
from tools.bench.end_to_end import compared, recipe_in, summary_lines, table


def a_step_batch(step: int, batch: Batch) -> StepBatch:
    return StepBatch(step=step, epoch=0, part=SENTENCE, micro_batches=(batch,), metrics=({},), padded_counts=({},))


class Bare:
    """Notes what it is given, after the batch's memory was used again."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, float]] = []

    def corrupted(self, step_batch: StepBatch) -> Batch:
        return step_batch.micro_batches[0]

    def on_corrupted(self, step_batch: StepBatch, corrupted: Batch) -> None:
        self.seen.append((step_batch.step, float(corrupted.boxes[0, 0, 0])))


def test_bare_steps_follow_on_copies_of_the_same_batches() -> None:
    batch, bare = tiny.a_batch([5, 4], [3, 3], seed=1), Bare()

    def step_batches() -> Any:
        for step in range(4):
            batch.boxes.fill_(step / 10)  # the memory of a batch is the next one's too
            yield a_step_batch(step, batch)

    settled: list[int] = []
    rounds = Rounds(
        step_batches=step_batches(),
        bare=bare,  # type: ignore[arg-type]
        clock=Clock(torch.device("cpu")),
        steps=2,
        settle=lambda: settled.append(len(bare.seen)),
        flops_of=lambda step_batch: 10.0,
    )
    trained = []
    for step_batch in rounds:
        trained.append((step_batch.step, len(bare.seen)))
    assert trained == [(0, 0), (1, 0), (2, 2), (3, 2)]
    assert bare.seen == [(step, pytest.approx(step / 10)) for step in range(4)]
    assert settled == [0, 2]
    assert [(one.pairs, one.flops) for one in rounds.found] == [(4, 20.0), (4, 20.0)]
    assert all(set(one.phases) == {"wait"} for one in rounds.found)


def test_the_bytes_of_a_batch_are_those_of_its_tensors() -> None:
    batch = tiny.a_batch([5], [3], seed=1)
    longer = dataclasses.replace(batch, features=torch.cat((batch.features, batch.features), dim=2))
    assert bytes_of(longer) - bytes_of(batch) == batch.features.nbytes
    assert bytes_of(batch) > batch.features.nbytes + batch.corruption.matched.nbytes


def a_round(whole: float, bare: float, *, save: float = 0.0) -> Round:
    """The loop's own thread takes 1 s less than the process, for 1 s of the clock's reading in the background."""
    phases = {"wait": Times(0.0, 0.5, 0.0), "step": Times(bare, bare, bare), "report": Times(0.25, 0.25, 0.25)}
    if save:
        phases["save"] = Times(save, save, save)
    return Round(
        whole=Times(whole, 10.0, whole - 1.0),
        bare=Times(bare, 5.0, bare),
        corruption=Times(0.5, 0.5, 0.5),
        phases=phases,
        pairs=20,
        flops=100.0,
    )


def test_the_time_of_a_step_is_split_into_its_parts() -> None:
    rounds = [a_round(99.0, 1.0), a_round(6.0, 4.0), a_round(8.0, 4.0, save=2.0), a_round(4.0, 4.0)]
    found = compared(rounds, steps=2)
    assert found["to_bare"] == {"median": 1.5, "least": 1.0, "most": 2.0, "of_sums": 1.5}
    assert found["to_bare_by_the_wall"]["median"] == 2.0
    # three rounds of two steps, in ms a step
    milliseconds = {name: one["cpu"] for name, one in found["milliseconds"].items()}
    assert milliseconds == pytest.approx(
        {
            "whole": 3000,
            "wait": 0,
            "step": 2000,
            "report": 125,
            "save": 1000 / 3,
            "corruption": 250,
            "bare": 2000,
            "background": 500,
        }
    )
    assert found["wait_ratio"] == pytest.approx(1.5 / 30)
    assert (found["pairs_a_second"], found["flops_a_second"]) == (2.0, 10.0)
    assert found["wall_to_cpu"] == 15 / 12


def test_the_table_of_a_gpu_has_no_cpu_times() -> None:
    rounds = [a_round(99.0, 1.0), a_round(6.0, 4.0)]
    found = compared(rounds, steps=2) | {"preset": "tiny", "batch_size": 4, "repeat": 1, "steps": 2}
    assert [table(found, on_gpu=on_gpu).row_count for on_gpu in (False, True)] == [8, 6]
    assert [str(column.header) for column in table(found, on_gpu=True).columns][1:] == [
        "wall",
        "wall, of the bare step",
    ]


def test_the_summary_names_ratio_speed_and_memory() -> None:
    spread = {"median": 1.04, "least": 1.0, "most": 1.1, "of_sums": 1.05}
    found = {
        "to_bare": spread,
        "to_bare_by_the_wall": spread,
        "pairs_a_second": 20_400_000 / 7200,
        "wait_ratio": 0.01,
        "flops_a_second": 30.0,
        "wall_to_cpu": 1.0,
    }
    lines = summary_lines(found, 100.0, most_bytes=2**30, parameters=2**30)
    assert lines[0].endswith("within the bar of 1.05")
    assert lines[1].endswith("wait_ratio 1.00%; the paper's 20.4 M pairs take 2.00 hours")
    assert lines[2] == "MFU 30.0%, peak memory 13.00 GiB beside the bare copy"
    assert len(summary_lines(found, None, most_bytes=0, parameters=1)) == 2


def test_the_recipe_is_the_demos_elsewhere(tmp_path: Path) -> None:
    recipe = recipe_in(tmp_path)
    assert recipe.regions == (str(tmp_path / "world/regions.tsv"),)
    assert recipe.captions == (str(tmp_path / "world/captions.json"),)
    assert recipe.world is None
    assert recipe.preset == "tiny"
