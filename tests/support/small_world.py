"""A demo world of 80 images and its shards, small enough that a stage of it trains in a second."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from msp_ds.curriculum import BENCHMARKS
from msp_ds.data.format.set_layout import STAGE_NAMES
from msp_ds.demo_world import make_world
from msp_ds.preparation.recipe import BenchmarkRecipe, Recipe
from msp_ds.preparation.writing.shard_building import build_shards

IMAGES, FEATURE_WIDTH, HOLDOUT = 80, 64, 16


def recipe_of(world: Path, **changes: Any) -> Recipe:
    """The recipe of a world's raw files, with some of its fields changed."""
    recipe = Recipe(
        regions=(str(world / "regions.tsv"),),
        objects_vocab=str(world / "objects_vocab.txt"),
        attributes_vocab=str(world / "attributes_vocab.txt"),
        captions=(str(world / "captions.json"),),
        phrases=(str(world / "region_descriptions.json"),),
        image_data=str(world / "image_data.json"),
        hard_negatives=str(world / "hard_negatives.npz"),
        vocab="trained",
        holdout=HOLDOUT,
        extractor="tests",
        preset="tiny",
    )
    return dataclasses.replace(recipe, **changes)


def write_shards(folder: Path, *, images: int = IMAGES, seed: int = 0, **changes: Any) -> Path:
    """`folder`/shards with all three stages of a new world in `folder`/world; keywords change its recipe."""
    make_world(folder / "world", images=images, seed=seed, feature_width=FEATURE_WIDTH)
    for stage in STAGE_NAMES:
        build_shards(recipe_of(folder / "world", **changes), stage=stage, out=folder / "shards")
    return folder / "shards"


def write_benchmarks(folder: Path, *, images: int = 24) -> Path:
    """`folder`/shards with all stages and benchmarks of a new world."""
    world = folder / "world"
    make_world(world, images=images, seed=0, feature_width=FEATURE_WIDTH)
    benchmarks = {
        "vqa": BenchmarkRecipe(
            questions=(str(world / "vqa_questions.json"),), annotations=(str(world / "vqa_annotations.json"),)
        ),
        "gqa": BenchmarkRecipe(questions=(str(world / "gqa_questions.json"),)),
        "nlvr2": BenchmarkRecipe(questions=(str(world / "nlvr2.json"),)),
    }
    for name in (*STAGE_NAMES, *BENCHMARKS):
        build_shards(recipe_of(world, holdout=8, benchmarks=benchmarks), stage=name, out=folder / "shards")  # type: ignore[arg-type]
    return folder / "shards"


def write_twelve_tars(folder: Path) -> Path:
    """`folder`/shards with the sentence stage of a new world: 72 images in 12 tars, 5 texts each; 8 held out."""
    make_world(folder / "world", images=IMAGES, seed=0, feature_width=FEATURE_WIDTH)
    recipe = recipe_of(folder / "world", holdout=8, images_per_shard=6)
    build_shards(recipe, stage="sentence", out=folder / "shards")
    return folder / "shards"


def files_below(folder: Path) -> set[str]:
    """Every file below a folder, by its path from there."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
