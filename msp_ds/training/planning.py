"""From the flags of a command line to what a run is: its configuration, its shards, how it is executed."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from msp_ds.config import RunConfig, StageSchedule, from_json
from msp_ds.curriculum import BENCHMARKS, STAGES, Stage, curriculum
from msp_ds.data.format.shards import open_set
from msp_ds.data.remote.remote_files import is_remote
from msp_ds.data.remote.staging import DEFAULT_LIMIT_GB, local_shards
from msp_ds.errors import InputError
from msp_ds.presets import DEFAULT_PRESET, get_preset
from msp_ds.progress import bars
from msp_ds.training.checkpointing.run_folder import (
    LOCATIONS,
    RUN_FILE,
    find_checkpoint,
    model_for,
    origin_of,
    read_run_card,
    read_run_config,
    read_run_execution,
    require_shards,
)
from msp_ds.training.engine.compiling import require_compiler
from msp_ds.training.engine.execution import Execution, choose_execution, read_execution
from msp_ds.training.settings import with_settings

CACHE = Path("~/.cache/msp-ds")
"""Where shards that came from an address are kept by default."""

_LARGEST_CACHE_GB = 10**9
"""An exabyte, which no disk holds."""

AUTO = "auto"
"""For --micro-batch: as many pairs as fit."""


@dataclass(frozen=True, kw_only=True)
class ShardCache:
    """Where shards from an address are kept, and how much of them."""

    folder: str = str(CACHE)
    limit_gb: float = DEFAULT_LIMIT_GB
    """Where it is less than a run needs, it decides the order of pairs: a resumed run keeps to it."""

    def __post_init__(self) -> None:
        if not 0 < self.limit_gb <= _LARGEST_CACHE_GB:
            raise InputError(f"--cache-limit {self.limit_gb} is not in 0 to {_LARGEST_CACHE_GB:,} GB")


def cache_of(folder: Path | None, limit_gb: float | None, *, resumed: Path | None = None) -> ShardCache:
    """The cache that the flags name; what they leave open is as the run in folder `resumed` had it last."""
    card = read_run_card(resumed) if resumed is not None else {}
    known = [entry["cache"] for entry in (card, *card.get("resumed", [])) if entry.get("cache")]
    cache = from_json(ShardCache, known[-1], where=f"{resumed}/{RUN_FILE}") if known else ShardCache()
    return ShardCache(
        folder=cache.folder if folder is None else str(folder),
        limit_gb=cache.limit_gb if limit_gb is None else limit_gb,
    )


@contextmanager
def shards_at_hand(given: dict[str, Any], saved: RunConfig | None, *, cache: ShardCache) -> Iterator[Path]:
    """The shards of a new or saved run on this machine, fetched first where they are named by an address."""
    address = saved.shards if saved else str(given.get("shards", "shards"))
    spelling = saved.curriculum if saved else given.get("curriculum", "tps")
    stages = curriculum(spelling, drop=saved.drop if saved else given.get("drop", ()))
    names = list(dict.fromkeys(part.name for stage in stages for part in stage.parts))
    with ExitStack() as held:
        with bars() as progress:
            shards = held.enter_context(
                local_shards(address, names, cache=Path(cache.folder), limit_gb=cache.limit_gb, progress=progress)
            )
        yield shards


def new_config(given: dict[str, Any]) -> RunConfig:
    """The configuration that the flags describe; what they leave open comes from the preset and the shards."""
    spelling, shards = given.get("curriculum", "tps"), Path(given.get("shards", "shards"))
    stages = curriculum(spelling, drop=given.get("drop", ()))
    sets = [open_set(shards / part.name / "train") for stage in stages for part in stage.parts]
    parent = _parent(given)
    name = given.get("preset") or (parent.preset if parent else sets[0].index.preset) or DEFAULT_PRESET
    config = preset_config(name, given)
    fitted = dataclasses.replace(
        config,
        model=model_for(parent.model if parent and parent.preset == name else config.model, sets[0]),
        vocabulary_sha256=sets[0].index.vocabulary_sha256,
        answers_sha256=sets[0].index.answers_sha256,
    )
    return with_flags(fitted, given)


def preset_config(name: str, given: dict[str, Any]) -> RunConfig:
    """What a preset says of a run, before flags change it and shards decide the rest."""
    preset, spelling = get_preset(name), given.get("curriculum", "tps")
    # Retrieval starts from the match head of pre-training (docs/evaluation.md); the other benchmarks' heads are new.
    tasks = dataclasses.replace(preset.tasks, heads="carried") if spelling in BENCHMARKS else preset.tasks
    return RunConfig(
        curriculum=spelling,
        preset=name,
        model=preset.model,
        optim=preset.fine_tuning if spelling in BENCHMARKS else preset.optim,
        schedule=preset.schedule,
        tasks=tasks,
        length_buckets=preset.length_buckets,
        shards=str(Path(given.get("shards", "shards"))),
        vocabulary_sha256="",
    )


def fine_tuning_flags(
    task: str, *, init: Path | None, from_scratch: bool, few_shot: int | None, subset: float | None, shards: str
) -> dict[str, Any]:
    """The flags of `new_config` that fine-tuning adds.

    Raises InputError unless exactly one start is named, and at most one size.
    """
    if (init is None) != from_scratch:
        raise InputError("say what fine-tuning starts from: --init RUN, or --from-scratch")
    if few_shot is not None and subset is not None:
        raise InputError("--few-shot counts questions and --subset takes a share of them; give one of the two")
    if few_shot is not None and few_shot < 1:
        raise InputError(f"--few-shot {few_shot} leaves no question to train on; write 64 for so many")
    given: dict[str, Any] = {"curriculum": task}
    if init is not None:
        given["init"] = str(init)
    if subset is not None:
        if not 0 < subset <= 1:
            raise InputError(f"--subset {subset} is no share; write 0.1 for a tenth of the questions")
        few_shot = max(1, round(subset * open_set(Path(shards) / task / "train").index.num_pairs))
    return given if few_shot is None else {**given, "max_pairs": few_shot}


def _parent(given: dict[str, Any]) -> RunConfig | None:
    """The configuration of the run that fine-tuning starts from: it has its model, unless a preset is named.

    None for a weights folder, which has no run.
    """
    init = given.get("init") if given.get("curriculum") in BENCHMARKS else None
    return origin_of(find_checkpoint(Path(init))).config if init else None


@dataclass(frozen=True, kw_only=True)
class PlannedSchedule:
    """What a command line would train, and for how long."""

    stages: tuple[Stage, ...]
    rows: dict[str, StageSchedule]
    """By the name of a part."""
    preset: str
    """Its name, and why it is that where shards cannot tell."""


def planned_schedule(given: dict[str, Any]) -> PlannedSchedule:
    """The stages of `new_config`; of the preset that is named, or of the default one, where shards are missing."""
    spelling, shards = given.get("curriculum", "tps"), Path(given.get("shards", "shards"))
    stages = curriculum(spelling, drop=given.get("drop", ()))
    missing = [part.name for stage in stages for part in stage.parts if not (shards / part.name / "train").is_dir()]
    if not missing:
        config = new_config(given)
        return PlannedSchedule(stages=stages, rows=config.schedule, preset=config.preset)
    name = given.get("preset") or DEFAULT_PRESET
    rows = with_flags(preset_config(name, given), given).schedule
    return PlannedSchedule(stages=stages, rows=rows, preset=f"{name} (no shards for stage {missing[0]} in {shards})")


def with_flags(config: RunConfig, given: dict[str, Any]) -> RunConfig:
    """`config` with what the flags say in place of what it says."""
    plain = {name: value for name, value in given.items() if name in RunConfig.__dataclass_fields__}
    config = with_settings(config, given.get("setting", ()))
    return dataclasses.replace(
        config,
        optim=dataclasses.replace(config.optim, lr=given.get("lr", config.optim.lr)),
        schedule=changed_schedule(config.schedule, epochs=given.get("epochs"), batch_size=given.get("batch_size")),
        **plain,
    )


def resumed_config(folder: Path, given: dict[str, Any]) -> RunConfig:
    """The configuration in a run's folder; a flag that says otherwise is an error, unless it says where files are now.

    Raises ShardError when the shards are not there.
    """
    config = read_run_config(folder)
    moved = {name: given[name] for name in LOCATIONS if name in given and getattr(config, name)}
    for name, value in given.items():
        if name not in moved and with_flags(config, {name: value}) != config:
            flag = "set" if name == "setting" else name.replace("_", "-")
            said = " ".join(value) if isinstance(value, tuple) else value
            raise InputError(
                f"{folder} was not started with --{flag} {said}; leave the flag out to continue it, "
                "or start a new run without --resume"
            )
    config = dataclasses.replace(config, **moved)
    if not is_remote(config.shards):
        require_shards(folder, config)
    return config


def execution_of(ds_config: Path | None, *, resumed: Path | None) -> tuple[str, Execution]:
    """Name and content of how to execute: the file's, else as the run in folder `resumed` did, else by the hardware."""
    if ds_config is not None:
        return str(ds_config), read_execution(ds_config)
    if resumed is not None:
        return "executed as before", read_run_execution(resumed)
    return choose_execution()


def with_micro_batch(how: tuple[str, Execution], micro_batch: str | None) -> tuple[str, Execution]:
    """A way to execute with the micro batch of --micro-batch; AUTO is left to the stages. Raises InputError."""
    name, execution = how
    if micro_batch is None or micro_batch == AUTO:
        return how
    if not micro_batch.isdecimal():
        raise InputError(f"--micro-batch {micro_batch} is not a number of pairs; write 16, or {AUTO} for what fits")
    count = _count("--micro-batch", micro_batch)
    return f"{name} in micro batches of {count}", dataclasses.replace(execution, micro_batch=count)


def with_compile(how: tuple[str, Execution], compiles: bool) -> tuple[str, Execution]:
    """A way to execute with what --compile says. Raises InputError for one that cannot be compiled."""
    name, execution = how
    if compiles and not execution.compile:
        name, execution = f"{name}, compiled", dataclasses.replace(execution, compile=True)
    if execution.compile:
        require_compiler()
    return name, execution


def _count(flag: str, digits: str) -> int:
    """The number that digits spell. Raises: InputError for more of them than any count has."""
    if len(digits) > 18:
        raise InputError(f"{flag} {digits[:18]}... is not a number that fits into 64 bits")
    return int(digits)


def changed_schedule(
    rows: dict[str, StageSchedule], *, epochs: str | None, batch_size: int | None
) -> dict[str, StageSchedule]:
    """The preset's schedule with other epochs (`6`, or `t=4,p=4,s=12`) and another batch size."""
    counts = dict.fromkeys(rows, epochs) if epochs and epochs.isdecimal() else {}
    if epochs and not counts:
        names = {part.initial: part.name for part in STAGES}
        for item in epochs.split(","):
            initial, _, count = item.partition("=")
            if initial not in names or not count.isdecimal():
                raise InputError(f"--epochs {epochs} is not understood; write it 6 for all stages, or t=4,p=4,s=12")
            counts[names[initial]] = count
    changed = {
        name: dataclasses.replace(row, epochs=_count("--epochs", counts[name])) if name in counts else row
        for name, row in rows.items()
    }
    if batch_size is None:
        return changed
    return {name: dataclasses.replace(row, batch_size=batch_size) for name, row in changed.items()}
