"""The presets have the sizes of the models that they are called after."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch

from msp_ds.config import from_json, to_json
from msp_ds.curriculum import BENCHMARKS
from msp_ds.errors import InputError
from msp_ds.model.encoder import Backbone, paper_count
from msp_ds.presets import PRESETS, Preset, get_preset


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_survives_json(name: str) -> None:
    text = json.dumps(to_json(PRESETS[name]))
    assert from_json(Preset, json.loads(text), where=name) == PRESETS[name]


def test_the_paper_preset_has_the_papers_numbers() -> None:
    paper = PRESETS["paper"]
    assert (paper.model.hidden_size, paper.model.num_layers, paper.model.num_heads) == (768, 5, 12)
    assert paper.optim.lr == 1e-5
    rows = {name: (row.epochs, row.batch_size) for name, row in paper.schedule.items()}
    stages = {"token": (10, 64), "phrase": (20, 128), "sentence": (20, 128)}
    assert rows == stages | {"vqa": (6, 32), "gqa": (5, 32), "nlvr2": (8, 32), "retrieval": (8, 32)}
    assert (paper.fine_tuning.lr, paper.fine_tuning.warmup_ratio, paper.fine_tuning.clip_norm) == (5e-5, 0.1, 5.0)


@pytest.mark.parametrize("name", ["small", "lxmert", "single-stream"])
def test_the_large_presets_fine_tune_by_the_papers_numbers(name: str) -> None:
    paper, other = PRESETS["paper"], PRESETS[name]
    assert (other.fine_tuning, other.schedule) == (paper.fine_tuning, paper.schedule)


def test_tiny_fine_tunes_at_a_rate_and_for_epochs_of_its_own() -> None:
    tiny = PRESETS["tiny"]
    assert (tiny.fine_tuning.lr, tiny.fine_tuning.warmup_ratio, tiny.fine_tuning.clip_norm) == (1e-3, 0.1, 5.0)
    rows = {name: (tiny.schedule[name].epochs, tiny.schedule[name].batch_size) for name in BENCHMARKS}
    assert rows == {"vqa": (4, 32), "gqa": (4, 32), "nlvr2": (2, 32), "retrieval": (1, 32)}


def sizes(name: str) -> tuple[int, int]:
    """Parameters counted the paper's way, and all of the backbone."""
    with torch.device("meta"):
        backbone = Backbone(PRESETS[name].model)
    return paper_count(backbone), sum(parameter.numel() for parameter in backbone.parameters())


@pytest.mark.parametrize(
    ("name", "paper_way", "backbone"),
    [
        # The backbone: with BERT's embeddings less its type table, 23,835,648, and poolers of 590,592.
        ("paper", 84_278_784, 84_278_784 + 23_835_648 + 2 * 590_592 + 2048),
        ("lxmert", 183_508_992, 183_508_992 + 23_835_648 + 590_592),
        ("single-stream", 12 * 7_087_872 + 1_580_544, 12 * 7_087_872 + 1_580_544 + 23_835_648 + 590_592),
    ],
)
def test_the_large_presets_have_the_published_sizes(name: str, paper_way: int, backbone: int) -> None:
    assert sizes(name) == (paper_way, backbone)


def test_lxmert_is_nine_five_five_with_the_pair_and_the_positions_of_lxmert() -> None:
    model = PRESETS["lxmert"].model
    assert (model.language_layers, model.num_layers, model.region_layers) == (9, 5, 5)
    assert (model.visual_cls, model.positions, model.region_gate) == (False, "pieces", "none")
    assert PRESETS["lxmert"].schedule == PRESETS["paper"].schedule


@pytest.mark.parametrize("name", ["tiny-lxmert", "tiny-single-stream"])
def test_the_small_ones_differ_from_tiny_in_their_layers_only(name: str) -> None:
    tiny, other = PRESETS["tiny"], PRESETS[name]
    large = PRESETS[name.removeprefix("tiny-")].model
    layers = ("encoder", "num_layers", "language_layers", "region_layers", "visual_cls", "positions")
    same = {field: getattr(tiny.model, field) for field in layers}
    assert dataclasses.replace(other, model=dataclasses.replace(other.model, **same)) == tiny
    for field in ("encoder", "visual_cls", "positions", "region_gate"):
        assert getattr(other.model, field) == getattr(large, field)


def test_length_buckets_are_left_to_the_data_but_for_the_demo() -> None:
    assert {name: preset.length_buckets for name, preset in PRESETS.items()} == {
        "paper": "auto",
        "small": "auto",
        "tiny": "off",
        "lxmert": "auto",
        "single-stream": "auto",
        "tiny-lxmert": "off",
        "tiny-single-stream": "off",
    }


def test_an_unknown_preset_is_refused_with_those_there_are() -> None:
    with pytest.raises(
        InputError, match=r"^no preset is called 'huge'; presets are paper, small, tiny, lxmert, single-"
    ):
        get_preset("huge")
