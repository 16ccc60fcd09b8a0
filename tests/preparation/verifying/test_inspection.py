"""The figures that `msp-ds inspect` shows."""

from __future__ import annotations

import json

import numpy as np
import pytest
from raw_files import RawFolder, Row

from msp_ds.data.format.shards import open_set
from msp_ds.preparation.verifying.inspection import inspect_set
from msp_ds.preparation.writing.shard_building import build_shards


def test_the_facts_are_those_of_the_raw_files(raw: RawFolder) -> None:
    build_shards(raw.recipe, stage="sentence", out=raw.path / "shards")
    facts = inspect_set(open_set(raw.path / "shards" / "sentence" / "train"))
    frequent = {"dog": 6, "red hat": 6}
    features = np.concatenate([Row(number).features.astype(np.float16) for number in range(1, 7)]).astype(np.float64)
    # "a red dog ." and "the horse on a ball" with [CLS] and [SEP]: six and seven pieces.
    assert facts["texts"]["pieces_histogram"] == {6: 6, 7: 6}
    assert facts["texts"]["texts_per_image"] == 2
    assert facts["texts"]["truncated_ratio"] == 0
    assert facts["labels"]["objects"] == {
        "labelled_ratio": pytest.approx(2 / 3),
        "seen": 2,
        "of": 3,
        "most_frequent": frequent,
    }
    assert facts["regions"]["per_image_histogram"] == {3: 6}
    assert sum(facts["features"]["norm_histogram"]["counts"]) == 18
    assert facts["features"]["mean"] == pytest.approx(features.mean(), rel=1e-6)
    assert facts["features"]["largest"] == features.max()
    assert (facts["set"]["with_labels"], facts["set"]["with_hard_negatives"]) == (True, True)
    assert facts["set"]["skipped_rows"] is None
    assert [sample["image_id"] for sample in facts["samples"]] == ["coco-1", "coco-3", "coco-6"]
    assert facts["samples"][0]["labels"] == ["dog", "red hat", ""]
    assert facts["samples"][0]["attributes"] == ["blue", "", "red"]
    assert facts["samples"][0]["boxes"][1] == [8, 8, 64, 48]
    assert json.loads(json.dumps(facts))["set"]["images"] == 6
