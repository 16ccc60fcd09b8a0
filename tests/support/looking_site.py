"""A world of 24 images with captions and questions, and weights folders of untrained models that know its words."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import small_world
import torch

from msp_ds.data.format.shards import ShardSet, open_set
from msp_ds.demo_world import make_world
from msp_ds.model.encoder import Backbone
from msp_ds.model.heads import build_heads
from msp_ds.model.weights.conversion import untied
from msp_ds.preparation.recipe import BenchmarkRecipe
from msp_ds.preparation.writing.shard_building import build_shards
from msp_ds.presets import get_preset
from msp_ds.training.checkpointing.run_folder import model_for
from msp_ds.training.checkpointing.weights_folder import StoredWeights, WeightsCard, write_card, write_weights

WIDTH = 16


def make_site(folder: Path) -> Path:
    """`folder`/shards/{sentence,vqa}/val and, as if they were runs, `folder`/runs/{s,tps,vqa}."""
    world = folder / "world"
    make_world(world, images=24, seed=0, feature_width=WIDTH)
    questions = BenchmarkRecipe(
        questions=(str(world / "vqa_questions.json"),),
        annotations=(str(world / "vqa_annotations.json"),),
        least_questions=3,
    )
    recipe = small_world.recipe_of(world, holdout=8, benchmarks={"vqa": questions})
    for name in ("sentence", "vqa"):
        build_shards(recipe, stage=name, out=folder / "shards")  # type: ignore[arg-type]
    captions, questions = (open_set(folder / "shards" / name / "val") for name in ("sentence", "vqa"))
    write_model(folder / "runs" / "s", captions, "match", seed=1)
    write_model(folder / "runs" / "tps", captions, "match", seed=2)
    write_model(folder / "runs" / "vqa", questions, "answer", seed=3)
    return folder


def write_model(path: Path, shards: ShardSet, head: str, *, seed: int, preset: str = "tiny", **changes: Any) -> Path:
    """A weights folder of random weights for a set, lively enough for scores to differ."""
    preset_model = dataclasses.replace(get_preset(preset).model, init_std=0.2)
    model = dataclasses.replace(model_for(preset_model, shards), **changes)
    torch.manual_seed(seed)
    backbone = Backbone(model)
    heads = build_heads([head], model, backbone)
    weights = {f"backbone.{name}": tensor.detach() for name, tensor in backbone.state_dict().items()}
    weights |= {f"heads.{name}": tensor.detach() for name, tensor in heads.state_dict().items()}
    words = shards.vocab_path.read_bytes()
    card = WeightsCard(model=model, vocabulary_sha256=hashlib.sha256(words).hexdigest(), source="a test")
    stored = StoredWeights(card=card, weights=untied(weights, where="a test"), vocabulary=words)
    path.mkdir(parents=True)
    write_weights(path, stored)
    write_card(path, stored)
    return path
