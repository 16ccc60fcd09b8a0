"""`msp-ds demo`: the whole method on a small generated world, from raw files to zero-shot retrieval, in minutes."""

import time
from collections.abc import Callable
from pathlib import Path

from msp_ds.curriculum import curriculum
from msp_ds.data.format.set_layout import STAGE_NAMES
from msp_ds.data.format.shards import open_set
from msp_ds.errors import InputError
from msp_ds.evaluation.retrieval_evaluation import report_retrieval, retrieval_table, score_retrieval
from msp_ds.preparation.recipe import load_recipe
from msp_ds.preparation.writing.overwrite_guard import require_own_sets
from msp_ds.preparation.writing.shard_building import build_shards
from msp_ds.presets import DEFAULT_PRESET, get_preset
from msp_ds.progress import bars, clock
from msp_ds.report.curriculum import results_table, stage_table
from msp_ds.terminal import Terminal
from msp_ds.training.checkpointing.inference import load_trained
from msp_ds.training.options import RunOptions

CAPTIONS_PER_IMAGE = 1
"""Held-out captions of each image that the demo ranks; all five would take five times as long."""


def run_demo(recipe_path: Path, *, shards: Path, train: Callable[[RunOptions], Path], show: Terminal) -> None:
    """Make the world and its shards, train t, p and s with `train`, grade retrieval, and show the results.

    Raises InputError, before anything is written, when the recipe holds out no images, or when `shards` has sets of
    another recipe.
    """
    began = time.monotonic()
    recipe = load_recipe(recipe_path)
    if not recipe.holdout:
        raise InputError(f"{recipe_path} holds out no images to grade the demo on; set holdout in it")
    for stage in STAGE_NAMES:
        require_own_sets(shards / stage, recipe, fix="name another folder with --shards")
    preset = recipe.preset or DEFAULT_PRESET
    show.print(stage_table(curriculum("tps"), get_preset(preset).schedule, preset=preset))
    with bars() as progress:
        for stage in STAGE_NAMES:
            for written in build_shards(recipe, stage=stage, out=shards, progress=progress).values():
                show.print(written.describe(), soft_wrap=True)
    run = train(RunOptions(curriculum="tps", shards=str(shards), preset=preset))
    held_out = open_set(shards / "sentence" / "val")
    model = load_trained(run, shards=held_out, needed_heads=("match",), preset=None)
    scored = score_retrieval(model, held_out, num_images=None, captions_per_image=CAPTIONS_PER_IMAGE, out=run)
    show.print(results_table(run))
    show.print(retrieval_table(report_retrieval(scored)))
    show.print(f"Done in {clock(time.monotonic() - began)}. The curves: tensorboard --logdir {run.parent}")
