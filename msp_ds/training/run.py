"""A run: the stages of a curriculum in order, each from the last checkpoint of the one before."""

import logging
import platform
import subprocess
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import deepspeed
import torch

from msp_ds.config import to_json, write_json
from msp_ds.curriculum import Stage, curriculum
from msp_ds.errors import InputError, writing
from msp_ds.storage.locks import lock_folder
from msp_ds.training.assembly.building import carries_heads
from msp_ds.training.assembly.checks import check_agreement, check_requirements, check_stage
from msp_ds.training.assembly.inputs import StageData, open_stage_data
from msp_ds.training.checkpointing import run_folder
from msp_ds.training.distributed.agreement import check_ranks_agree, code_version, facts_of
from msp_ds.training.stage import Job, train_stage

log = logging.getLogger(__name__)


def train(job: Job) -> Path:
    """Train what is left of the run; return the last stage's checkpoint."""
    stages = job.planned
    _check_stages(job)
    # Whatever can be found wrong is found before anything is written. A check runs on all ranks, or its error is sent
    # to them: a rank that left alone would leave the others waiting.
    limits: dict[str, Any] = {"max_pairs": job.config.max_pairs, "seed": job.config.seed}
    data = job.runtime.on_all_ranks(lambda: [open_stage_data(job.shards, stage, **limits) for stage in stages])
    _check_same_run(job, data)
    is_resumed = (job.folder / run_folder.RUN_FILE).exists()
    job.runtime.on_rank_zero(lambda: run_folder.check_same_data(job.folder, index_hashes(data)) if is_resumed else None)
    job.runtime.on_all_ranks(lambda: _check_stage_data(job, stages, data))
    folders = run_folder.stage_folders(job.folder, stages)
    checkpoint = job.runtime.on_all_ranks(lambda: _parent(job, stages[0], folders[0], is_resumed=is_resumed))
    with ExitStack() as held:
        job.runtime.on_rank_zero(lambda: held.enter_context(lock_folder(job.folder, flag="--run-dir")))
        job.runtime.on_rank_zero(lambda: write_run_file(job, data, checkpoint))
        for folder, stage, sets in zip(folders, stages, data, strict=True):
            if run_folder.is_finished(folder):
                log.info("%s: finished before", stage.name)
            else:
                train_stage(job, stage, sets, folder=folder, start_from=checkpoint)
            checkpoint = run_folder.stage_checkpoint(folder)
    if checkpoint is None:
        raise InputError("the curriculum has no stage")
    return checkpoint


def _check_stages(job: Job) -> None:
    """Raise InputError where stages that were passed as values have other names than the configuration's.

    Commands that read the run's folder later know its stages from the configuration alone.
    """
    names = [stage.name for stage in job.planned]
    expected = [stage.name for stage in curriculum(job.config.curriculum, drop=job.config.drop)]
    if names != expected:
        raise InputError(
            f"the stages given are {', '.join(names)}, but curriculum {job.config.curriculum} has "
            f"{', '.join(expected)}; give the same stages in the same order, with tasks added or removed"
        )


def _check_same_run(job: Job, data: Sequence[StageData]) -> None:
    """Raise InputError unless all ranks were started for the same run."""
    if job.runtime.world_size == 1:
        return
    sets = [one for stage in data for one in (*stage.train, *stage.validation)]
    flags = {name: getattr(job, name) for name in ("save_every", "save_total_limit", "fits_micro_batch")}
    flags |= {**to_json(job.limits), "cache_limit": job.cache.limit_gb if job.cache else None}
    code = code_version(Path(__file__).parents[1])
    check_ranks_agree(facts_of(job.config, job.execution, flags, sets, code=code), job.runtime)


def _check_stage_data(job: Job, stages: Sequence[Stage], data: Sequence[StageData]) -> None:
    check_agreement([one for sets in data for one in (*sets.train, *sets.validation)], job.config)
    for stage, sets in zip(stages, data, strict=True):
        check_stage(job.config, job.execution, job.runtime, stage, sets)
    check_requirements(job.config, stages, data)


def _parent(job: Job, stage: Stage, folder: Path, *, is_resumed: bool) -> Path | None:
    """Return the checkpoint that the first stage is about to start from, None for none. Raises InputError.

    It is not looked for once the stage has begun: it may have been moved, or trained further, since.
    """
    init_changed = is_resumed and job.config.init != run_folder.read_run_config(job.folder).init
    if not job.config.init or (run_folder.has_begun(folder) and not init_changed):
        return None
    checkpoint = run_folder.find_parent(job.folder, job.config.init)
    heads = {head for task in stage.tasks for head in task.heads}
    run_folder.check_same_backbone(checkpoint, job.config, heads=heads if carries_heads(job.config, stage) else ())
    return checkpoint


def write_run_file(job: Job, data: list[StageData], parent: Path | None) -> None:
    """Write run.json before the first step.

    The file of a resumed run stays as it is, except for the places of its shards and its parent, and for one more
    entry about this start. parent: the checkpoint that the first stage is about to start from, None for none.

    Raises InputError when the folder cannot be written.
    """
    circumstances = {
        "execution": to_json(job.execution),
        "cache": to_json(job.cache),
        "world_size": job.runtime.world_size,
        "device": str(job.runtime.device.type),
        "git_commit": git_commit(),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "deepspeed": deepspeed.__version__,
        },
    }
    card: dict[str, Any] = {"config": to_json(job.config), "index_sha256": index_hashes(data), **circumstances}
    if parent is not None:
        card["init_sha256"] = run_folder.weights_sha256(parent)
    if (job.folder / run_folder.RUN_FILE).exists():
        card = run_folder.read_run_card(job.folder)
        entry = {"time": datetime.now(UTC).isoformat(timespec="seconds"), **circumstances}
        card["resumed"] = [*card.get("resumed", []), entry]
        card["config"] |= {name: getattr(job.config, name) for name in run_folder.LOCATIONS}
    with writing(job.folder, fix="name another --run-dir"):
        write_json(job.folder / run_folder.RUN_FILE, card)


def index_hashes(data: Sequence[StageData]) -> dict[str, str]:
    """Return the sha256 of the index of every set, by its name: `token/train`."""
    return {
        f"{one.index.stage}/{one.index.split}": one.index_sha256
        for stage in data
        for one in (*stage.train, *stage.validation)
    }


def git_commit() -> str:
    """Return the commit of this code, `unknown` outside a checkout; `+` marks uncommitted changes."""
    here = Path(__file__).parents[1]

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=here, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "--untracked-files=no", ".") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
