"""Options of a training run. A field of RunOptions is at once a flag of the command line and a key of --config FILE."""

# ruff: noqa: RUF009 (option() returns a dataclasses.field)
import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from msp_ds.config import LengthBuckets
from msp_ds.curriculum import BenchmarkName
from msp_ds.data.remote.staging import DEFAULT_LIMIT_GB
from msp_ds.errors import InputError
from msp_ds.presets import PRESETS
from msp_ds.training.guards.limits import Limits

CACHE = Path("~/.cache/msp-ds")  # default folder for the copies of shards that lie at an address


def option(
    text: str, default: Any = None, *, flag: str = "", commands: str = "train finetune", metavar: str | None = None
) -> Any:
    """Describe a field of a class of options.

    Args:
        text: Help of the flag; what happens without the flag stands in brackets at its end.
        default: Value without the flag; None leaves the choice to the program.
        flag: Name of the flag, where it is not the name of the field.
        commands: Names of the commands that show the flag.
        metavar: What `--help` shows in place of the value.
    """
    shown = "" if default in (None, False, ()) else f" [{default:g}]" if isinstance(default, float) else f" [{default}]"
    notes = {"help": text + shown, "flag": flag, "commands": commands.split(), "metavar": metavar}
    return dataclasses.field(default=default, metadata=notes)


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """What a user says about a run. None, or an empty tuple, leaves a choice to the preset, the shards or the machine.

    Raises InputError for values that no run may have.
    """

    curriculum: str | None = option(
        "Stages by initial: tps, s, ts, pts ...; t+p+s mixes them. [tps]", commands="train stages"
    )
    task: BenchmarkName | None = option("Benchmark to train for, whose shards lie in --shards.", commands="finetune")
    shards: str | None = option(
        "Folder with one shard set per stage, or its https, s3 or gs address. [shards]",
        commands="train finetune stages",
        metavar="FOLDER",
    )
    init: str | None = option(
        "Run, checkpoint or weights folder whose backbone the first stage starts from.", metavar="FOLDER"
    )
    from_scratch: bool = option("Start from random weights instead.", False, commands="finetune")
    run_dir: Path | None = option("Folder of the run. [runs/CURRICULUM, numbered if taken]", metavar="FOLDER")
    preset: str | None = option(
        f"{', '.join(PRESETS)}. [what the shards' recipe suggests]", commands="train finetune stages", metavar="NAME"
    )
    ds_config: Path | None = option("How to execute, a file as in ds_configs/. [by the hardware]", metavar="FILE")
    micro_batch: str | None = option("Pairs per rank in a forward pass; auto: as many as fit. [--ds-config's]")
    compiles: bool = option("Compile the layers: pays on a GPU. [--ds-config's]", False, flag="compile")
    resume: bool = option("Continue the run (the newest one without --run-dir).", False)
    seed: int | None = option("Seed of weights, order and masks. [9595]")
    drop: tuple[str, ...] = option(
        "Leave a task out of every stage; may be repeated.", (), commands="train stages", metavar="TASK"
    )
    settings: tuple[str, ...] = option(
        "moc_target=all, weights.mlm=2, model.NAME=..., optim.NAME=...; may be repeated.",
        (),
        flag="set",
        commands="train finetune stages",
        metavar="NAME=VALUE",
    )
    epochs: str | None = option(
        "Epochs per stage: 6 for all, or t=4,p=4,s=12. [the preset's]", commands="train finetune stages"
    )
    batch_size: int | None = option(
        "Pairs per optimiser step, over all ranks. [the preset's]", commands="train finetune stages"
    )
    lr: float | None = option("Peak learning rate. [the preset's]")
    length_buckets: LengthBuckets | None = option("Let texts of similar length share batches. [the preset's]")
    max_pairs: int | None = option("Train on this many questions only.", flag="few-shot", commands="finetune")
    subset: float | None = option("Train on this fraction of the questions, as 0.1.", commands="finetune")
    save_every: int = option("Optimiser steps between checkpoints, beside one per epoch.", 500)
    save_total_limit: int = option("Newest checkpoints of a stage to keep, beside its best.", 2)
    stop_after_nan: int = option("End after this many steps in a row whose loss is not finite.", 3)
    stall_timeout: float = option("End after this many minutes without a step; 0: never.", 30.0)
    max_steps: int | None = option("End each stage after this many optimiser steps.")
    cache: Path | None = option(f"Folder for copies of shards from an address. [{CACHE}]", metavar="FOLDER")
    cache_limit: float | None = option(f"GB that the copies may take. [{DEFAULT_LIMIT_GB:g}]")

    def __post_init__(self) -> None:
        for flag, value in (("save-every", self.save_every), ("save-total-limit", self.save_total_limit)):
            if value < 1:
                raise InputError(f"--{flag} {value} is not positive")
        if self.init == "":  # an unset variable of a shell: random weights would be a surprise
            raise InputError("--init is empty; name a run, a checkpoint or a weights folder")
        _ = self.limits

    @property
    def limits(self) -> Limits:
        """When the run gives up."""
        return Limits(stop_after_nan=self.stop_after_nan, stall_timeout=self.stall_timeout)

    @property
    def curriculum_name(self) -> str:
        """The stages to train, or the benchmark."""
        named = self.task if self.curriculum is None else self.curriculum
        return "tps" if named is None else named

    @property
    def shards_folder(self) -> str:
        """Folder or address of the shards."""
        return "shards" if self.shards is None else self.shards

    def stated(self) -> dict[str, Any]:
        """Return the options that leave nothing open, by the names of their fields."""
        return {name: value for name, value in vars(self).items() if value not in (None, ())}


def flag_name(options: Any, name: str) -> str:
    """Return the flag of an option without its dashes; it is also the option's key in a file.

    options: the class of options, or a value of it.
    """
    return str(options.__dataclass_fields__[name].metadata["flag"]) or name.replace("_", "-")


def help_of(name: str) -> str:
    """Return the help of an option of RunOptions."""
    return str(RunOptions.__dataclass_fields__[name].metadata["help"])
