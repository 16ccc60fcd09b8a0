"""The files of a retrieval evaluation; an interrupted or divided evaluation gives the same result."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_world import files_below
from torch import Tensor

from msp_ds.data.format.shards import ShardSet, open_set
from msp_ds.data.loading.reader import Reader
from msp_ds.errors import InputError
from msp_ds.evaluation.ranking import PairScorer, Pool
from msp_ds.evaluation.retrieval_evaluation import (
    RetrievalPlan,
    report_retrieval,
    retrieval_table,
    score_retrieval,
)
from msp_ds.evaluation.score_cache import ScoringPart
from msp_ds.model.encoder import Backbone
from msp_ds.model.heads import build_heads
from msp_ds.training.checkpointing.inference import TrainedModel
from msp_ds.training.options import RunOptions
from msp_ds.training.planning import new_config

NAME = "retrieval-3-sentence-step-00000012-on-sentence-val"


@pytest.fixture(scope="module")
def held_out(small_shards: Path) -> ShardSet:
    return open_set(small_shards / "sentence" / "val")


@pytest.fixture
def model(small_shards: Path, tmp_path: Path) -> TrainedModel:
    torch.manual_seed(1)
    config = new_config(RunOptions(shards=str(small_shards)))
    backbone = Backbone(config.model)
    checkpoint = tmp_path / "run" / "3-sentence" / "checkpoints" / "step-00000012"
    return TrainedModel(
        checkpoint=checkpoint,
        config=config,
        curriculum="tps",
        backbone=backbone,
        heads=build_heads(["match"], config.model, backbone),
    )


def scored(model: TrainedModel, shards: ShardSet, out: Path, **plan: Any) -> Any:
    """Three images with two captions each."""
    return score_retrieval(model, shards, num_images=3, captions_per_image=2, out=out, plan=RetrievalPlan(**plan))


def test_only_a_model_that_was_not_fine_tuned_for_it_retrieves_zero_shot(
    model: TrainedModel, held_out: ShardSet, tmp_path: Path
) -> None:
    tuned = dataclasses.replace(model, curriculum="retrieval")
    for name, one, title in (("a", model, "Zero-shot retrieval"), ("b", tuned, "Retrieval")):
        report = report_retrieval(scored(one, held_out, tmp_path / name))
        assert str(retrieval_table(report).title).startswith(f"{title}: 3 held-out images")
        assert json.loads(report.path.read_text())["task"] == title.lower()


def test_grades_go_into_a_folder(model: TrainedModel, held_out: ShardSet, tmp_path: Path) -> None:
    for images, captions, size in ((3, 1, "3x1"), (4, None, "4xall")):
        pool = score_retrieval(model, held_out, num_images=images, captions_per_image=captions, out=tmp_path / "grades")
        report = report_retrieval(pool)
        assert report.path.name == f"{NAME}-{size}.json"
        facts = json.loads(report.path.read_text())
        assert (facts["num_images"], facts["index_sha256"]) == (images, held_out.index_sha256)
        assert facts["precision"] == "fp32"
    one = (f"{NAME}-3x1.json", f"{NAME}-3x1.npz", f"{NAME}-3x1-scores/scores.npy", f"{NAME}-3x1-scores/scoring.json")
    assert set(files_below(tmp_path / "grades")) == {*one, *(name.replace("3x1", "4xall") for name in one)}


def test_a_folder_that_cannot_be_written_is_refused(model: TrainedModel, held_out: ShardSet, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(InputError, match=r"taken cannot be written .* name another folder with --out"):
        scored(model, held_out, tmp_path / "taken")


def test_parts_come_to_the_same_scores_as_one_process(model: TrainedModel, held_out: ShardSet, tmp_path: Path) -> None:
    whole = scored(model, held_out, tmp_path / "whole").kept.scores()
    missing = [
        scored(model, held_out, tmp_path / "parts", part=ScoringPart(index=index, count=2)).kept.num_missing()
        for index in (1, 0)
    ]
    assert 0 < missing[0] < 6
    assert missing[1] == 0
    assert torch.equal(scored(model, held_out, tmp_path / "parts").kept.scores(), whole)


def test_scores_that_are_kept_are_not_computed_again(
    model: TrainedModel, held_out: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = scored(model, held_out, tmp_path)
    matrix = np.load(first.kept.folder / "scores.npy", mmap_mode="r+")
    before, matrix[4, 1] = first.kept.scores(), np.nan
    columns_scored: list[int] = []
    compute = PairScorer.score_blocks

    def counted(self: PairScorer, reader: Reader, pool: Pool, blocks: list[Tensor], **rest: Any) -> Iterator[Any]:
        columns_scored.extend(column for block in blocks for column in block.tolist())
        return compute(self, reader, pool, blocks, **rest)

    monkeypatch.setattr(PairScorer, "score_blocks", counted)
    assert torch.equal(scored(model, held_out, tmp_path).kept.scores(), before)
    assert 4 in columns_scored
    assert len(columns_scored) < 6
    columns_scored.clear()
    scored(model, held_out, tmp_path)
    assert not columns_scored


def change_weights(model: TrainedModel) -> None:
    with torch.no_grad():
        model.backbone.text_pooler.bias.add_(1)


def test_scores_of_other_weights_are_refused_in_one_line(
    model: TrainedModel, held_out: ShardSet, tmp_path: Path
) -> None:
    scored(model, held_out, tmp_path)
    change_weights(model)
    with pytest.raises(InputError, match=r"another evaluation \(weights_sha256 differ\); delete it"):
        scored(model, held_out, tmp_path)


def test_scores_in_bf16_lie_beside_those_in_fp32(model: TrainedModel, held_out: ShardSet, tmp_path: Path) -> None:
    exact = scored(model, held_out, tmp_path)
    rounded = scored(model, held_out, tmp_path, precision="bf16")
    assert rounded.kept.folder.name == f"{NAME}-3x2-bf16-scores"
    report = report_retrieval(rounded)
    assert report.precision == "bf16"
    assert "In bf16" in str(retrieval_table(report).caption)
    assert not torch.equal(exact.kept.scores(), rounded.kept.scores())


def test_an_unfinished_matrix_is_not_graded(model: TrainedModel, held_out: ShardSet, tmp_path: Path) -> None:
    half = scored(model, held_out, tmp_path, part=ScoringPart(index=0, count=2))
    with pytest.raises(InputError, match="retrieval scores are NaN"):
        report_retrieval(half)


def test_equal_scores_for_all_pairs_have_no_recall(model: TrainedModel, held_out: ShardSet, tmp_path: Path) -> None:
    for parameter in model.heads["match"].parameters():
        torch.nn.init.zeros_(parameter)
    report = report_retrieval(scored(model, held_out, tmp_path))
    assert report.grades.image_retrieval.recall_1 == report.grades.text_retrieval.recall_1 == 0
    assert report.intervals["ir/recall_1"] == (0, 0)


def test_a_model_that_has_diverged_is_named(model: TrainedModel, held_out: ShardSet, tmp_path: Path) -> None:
    with torch.no_grad():
        model.backbone.text_pooler.bias.fill_(torch.nan)
    with pytest.raises(InputError, match="scores are not finite, it has diverged"):
        scored(model, held_out, tmp_path)


def test_an_image_with_too_few_captions_is_named(model: TrainedModel, held_out: ShardSet, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=rf"2 of 2 images do not have 6 captions: {held_out.keys[0]} has 5"):
        score_retrieval(model, held_out, num_images=2, captions_per_image=6, out=tmp_path)


def test_the_first_caption_protocol_writes_a_separate_report_that_names_it(
    model: TrainedModel, held_out: ShardSet, tmp_path: Path
) -> None:
    standard = report_retrieval(scored(model, held_out, tmp_path))
    plan = RetrievalPlan(protocol="first-caption")
    first = report_retrieval(scored(model, held_out, tmp_path), plan)
    assert first.path.name == f"{NAME}-3x2-first-caption.json"
    assert "as the released code: not standard" in json.loads(first.path.read_text())["protocol"]
    assert first.grades.image_retrieval == standard.grades.image_retrieval
    assert first.grades.text_retrieval.chance_1 == pytest.approx(100 / 3)


def test_every_grade_lies_in_its_interval(model: TrainedModel, held_out: ShardSet, tmp_path: Path) -> None:
    report = report_retrieval(scored(model, held_out, tmp_path))
    flat = report.grades.flat()
    assert report.intervals.keys() == {name for name in flat if "chance" not in name}
    for name, (low, high) in report.intervals.items():
        assert low <= flat[name] <= high, name
