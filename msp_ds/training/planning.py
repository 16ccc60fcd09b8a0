"""From the options of a command line to a run: its configuration, its shards and how it is executed."""

import dataclasses
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

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
from msp_ds.training.options import CACHE, RunOptions, flag_name
from msp_ds.training.settings import with_settings

_LARGEST_CACHE_GB = 10**9
"""An exabyte, which no disk holds."""

AUTO = "auto"
"""Value of --micro-batch: as many pairs as fit."""


@dataclass(frozen=True, kw_only=True)
class ShardCache:
    """Folder for copies of shards that lie at an address, and its limit."""

    folder: str = str(CACHE)
    limit_gb: float = DEFAULT_LIMIT_GB
    """A limit below what a run needs decides the order of pairs, so that a resumed run keeps it."""

    def __post_init__(self) -> None:
        if not 0 < self.limit_gb <= _LARGEST_CACHE_GB:
            raise InputError(f"--cache-limit {self.limit_gb} is not in 0 to {_LARGEST_CACHE_GB:,} GB")


def cache_of(folder: Path | None, limit_gb: float | None, *, resumed: Path | None = None) -> ShardCache:
    """Return the cache that the flags name; what they leave open is as in the last start of the run `resumed`."""
    card = read_run_card(resumed) if resumed is not None else {}
    known = [entry["cache"] for entry in (card, *card.get("resumed", [])) if entry.get("cache")]
    cache = from_json(ShardCache, known[-1], where=f"{resumed}/{RUN_FILE}") if known else ShardCache()
    return ShardCache(
        folder=cache.folder if folder is None else str(folder),
        limit_gb=cache.limit_gb if limit_gb is None else limit_gb,
    )


@contextmanager
def available_shards(options: RunOptions, saved: RunConfig | None, *, cache: ShardCache) -> Iterator[Path]:
    """Yield the local folder of the shards of a new or saved run; those at an address are fetched first."""
    address = saved.shards if saved else options.shards_folder
    stages = curriculum(
        saved.curriculum if saved else options.curriculum_name, drop=saved.drop if saved else options.drop
    )
    names = list(dict.fromkeys(part.name for stage in stages for part in stage.parts))
    with ExitStack() as held:
        with bars() as progress:
            shards = held.enter_context(
                local_shards(address, names, cache=Path(cache.folder), limit_gb=cache.limit_gb, progress=progress)
            )
        yield shards


def new_config(options: RunOptions) -> RunConfig:
    """Return the configuration of a new run; what the options leave open comes from the preset and the shards."""
    stages = curriculum(options.curriculum_name, drop=options.drop)
    folders = [Path(options.shards_folder) / part.name / "train" for stage in stages for part in stage.parts]
    first, *others = [open_set(folder) for folder in folders]
    parent = _parent(options)
    name = options.preset or (parent.preset if parent else first.index.preset) or DEFAULT_PRESET
    config = preset_config(name, options)
    fitted = dataclasses.replace(
        config,
        model=model_for(parent.model if parent and parent.preset == name else config.model, first),
        vocabulary_sha256=first.index.vocabulary_sha256,
        answers_sha256=first.index.answers_sha256,
        detector=next((one.index.detector for one in (first, *others) if one.index.detector), None),
    )
    return with_flags(fitted, options)


def preset_config(name: str, options: RunOptions) -> RunConfig:
    """Return a preset's configuration, before options change it and the shards decide the rest."""
    preset, is_benchmark = get_preset(name), options.curriculum_name in BENCHMARKS
    # Retrieval starts from the match head of pre-training (docs/evaluation.md); the other benchmarks' heads are new.
    tasks = dataclasses.replace(preset.tasks, heads="carried") if is_benchmark else preset.tasks
    return RunConfig(
        curriculum=options.curriculum_name,
        preset=name,
        model=preset.model,
        optim=preset.fine_tuning if is_benchmark else preset.optim,
        schedule=preset.schedule,
        tasks=tasks,
        length_buckets=preset.length_buckets,
        shards=str(Path(options.shards_folder)),
        vocabulary_sha256="",
    )


def fine_tuning_options(options: RunOptions) -> RunOptions:
    """Return the options of a run on a benchmark; one that is resumed keeps the start and the size that it has.

    Raises InputError unless a benchmark, exactly one start and at most one size are named.
    """
    task = options.task or options.curriculum
    if task not in BENCHMARKS:
        raise InputError(f"name the benchmark to fine-tune for: --task {', '.join(BENCHMARKS)}")
    if options.resume:
        return dataclasses.replace(options, curriculum=task)
    if (options.init is None) != options.from_scratch:
        raise InputError("name the start of fine-tuning: --init RUN, or --from-scratch")
    if options.max_pairs is not None and options.subset is not None:
        raise InputError("--few-shot is a number of questions and --subset a fraction of them; name one of the two")
    if options.max_pairs is not None and options.max_pairs < 1:
        raise InputError(f"--few-shot {options.max_pairs} leaves no question to train on; write 64 for so many")
    if options.subset is None:
        return dataclasses.replace(options, curriculum=task)
    if not 0 < options.subset <= 1:
        raise InputError(f"--subset {options.subset} is not a fraction; write 0.1 for a tenth of the questions")
    num_pairs = open_set(Path(options.shards_folder) / task / "train").index.num_pairs
    return dataclasses.replace(options, curriculum=task, max_pairs=max(1, round(options.subset * num_pairs)))


def _parent(options: RunOptions) -> RunConfig | None:
    """Return the configuration of the run that fine-tuning starts from, which decides its preset and its model.

    None for pre-training, and for a weights folder, which has no run.
    """
    init = options.init if options.curriculum_name in BENCHMARKS else None
    return origin_of(find_checkpoint(Path(init))).config if init else None


@dataclass(frozen=True, kw_only=True)
class PlannedSchedule:
    """The stages that a command line would train, and for how long."""

    stages: tuple[Stage, ...]
    rows: dict[str, StageSchedule]
    """Granularity or benchmark -> its row."""
    preset: str
    """Name of the preset, with the reason where shards do not decide it."""


def planned_schedule(options: RunOptions) -> PlannedSchedule:
    """Return the stages of `new_config`; without shards those of the preset that is named, or of the default one."""
    stages, shards = curriculum(options.curriculum_name, drop=options.drop), Path(options.shards_folder)
    missing = [part.name for stage in stages for part in stage.parts if not (shards / part.name / "train").is_dir()]
    if not missing:
        config = new_config(options)
        return PlannedSchedule(stages=stages, rows=config.schedule, preset=config.preset)
    name = options.preset or DEFAULT_PRESET
    rows = with_flags(preset_config(name, options), options).schedule
    return PlannedSchedule(stages=stages, rows=rows, preset=f"{name} (no shards for stage {missing[0]} in {shards})")


def with_flags(config: RunConfig, options: RunOptions) -> RunConfig:
    """Return `config` with the values that the options state."""
    plain = {name: value for name, value in options.stated().items() if name in RunConfig.__dataclass_fields__}
    if options.task:
        plain["curriculum"] = options.curriculum_name
    config = with_settings(config, options.settings)
    return dataclasses.replace(
        config,
        optim=config.optim if options.lr is None else dataclasses.replace(config.optim, lr=options.lr),
        schedule=changed_schedule(config.schedule, epochs=options.epochs, batch_size=options.batch_size),
        **plain,
    )


def resumed_config(folder: Path, options: RunOptions) -> RunConfig:
    """Return the configuration in a run's folder; the options may change where its files lie, and nothing else.

    Raises InputError for an option that contradicts the run, ShardError when the shards are missing.
    """
    config, stated = read_run_config(folder), options.stated()
    moved = {name: stated[name] for name in LOCATIONS if name in stated and getattr(config, name)}
    for name, value in stated.items():
        if name not in moved and with_flags(config, type(options)(**{name: value})) != config:
            text = " ".join(value) if isinstance(value, tuple) else value
            raise InputError(
                f"{folder} was not started with --{flag_name(options, name)} {text}; leave the flag out to continue "
                "it, or start a new run without --resume"
            )
    config = dataclasses.replace(config, **moved)
    if not is_remote(config.shards):
        require_shards(folder, config)
    return config


def planned_execution(options: RunOptions, *, resumed: Path | None) -> tuple[str, Execution]:
    """Return name and content of how to execute a new run, or the one in the folder `resumed`. Raises InputError."""
    execution = with_micro_batch(execution_of(options.ds_config, resumed=resumed), options.micro_batch)
    return with_compile(execution, options.compiles)


def execution_of(ds_config: Path | None, *, resumed: Path | None) -> tuple[str, Execution]:
    """Return name and content of how to execute: by the file, as the run in `resumed` was, or by the hardware."""
    if ds_config is not None:
        return str(ds_config), read_execution(ds_config)
    if resumed is not None:
        return "executed as before", read_run_execution(resumed)
    return choose_execution()


def with_micro_batch(how: tuple[str, Execution], micro_batch: str | None) -> tuple[str, Execution]:
    """Return a way to execute with the micro batch of --micro-batch; AUTO is left to the stages. Raises InputError."""
    name, execution = how
    if micro_batch is None or micro_batch == AUTO:
        return how
    if not micro_batch.isdecimal():
        raise InputError(f"--micro-batch {micro_batch} is not a number of pairs; write 16, or {AUTO} for what fits")
    count = _count("--micro-batch", micro_batch)
    return f"{name} in micro batches of {count}", dataclasses.replace(execution, micro_batch=count)


def with_compile(how: tuple[str, Execution], compiles: bool) -> tuple[str, Execution]:
    """Return a way to execute that compiles if --compile is given. Raises InputError where it cannot be compiled."""
    name, execution = how
    if compiles and not execution.compile:
        name, execution = f"{name}, compiled", dataclasses.replace(execution, compile=True)
    if execution.compile:
        require_compiler()
    return name, execution


def _count(flag: str, digits: str) -> int:
    """Return the number that digits spell. Raises InputError for one that does not fit into 64 bits."""
    if len(digits) > 18:
        raise InputError(f"{flag} {digits[:18]}... is not a number that fits into 64 bits")
    return int(digits)


def changed_schedule(
    rows: dict[str, StageSchedule], *, epochs: str | None, batch_size: int | None
) -> dict[str, StageSchedule]:
    """Return the preset's schedule with other epochs (`6`, or `t=4,p=4,s=12`) and another batch size."""
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
