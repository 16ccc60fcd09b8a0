"""Pre-train in stages, in one process or in as many as a launcher starts.

    deepspeed msp_ds/train.py --curriculum tps     (the same as `msp-ds train --curriculum tps` on one device)

On the demo world and two CPU cores this takes about four minutes and ends with a checkpoint in runs/tps.
"""

import dataclasses
import functools
import inspect
import logging
import os
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from msp_ds.config import RunConfig
from msp_ds.curriculum import Stage
from msp_ds.data.format.path_patterns import expand_braces
from msp_ds.data.remote.remote_files import is_remote
from msp_ds.data.remote.staging import refuse_rewriting
from msp_ds.errors import InputError
from msp_ds.terminal import one_line_errors, run_command, speak
from msp_ds.training.checkpointing.run_folder import RUN_FILE, fresh_folder, newest_run
from msp_ds.training.config_file import build_options
from msp_ds.training.engine.execution import Execution
from msp_ds.training.options import RunOptions, flag_name
from msp_ds.training.planning import AUTO, available_shards, cache_of, new_config, planned_execution, resumed_config

log = logging.getLogger(__name__)

RUNS = Path("runs")  # default folder of runs; `tensorboard --logdir runs` shows them
_METAVARS: dict[Any, str] = {int: "NUMBER", float: "NUMBER", str: "TEXT", Path: "PATH"}


def as_command(function: Callable[..., None]) -> Callable[..., None]:
    """Return a function as Typer accepts it: an error is one line, and --debug shows its traceback instead.

    A parameter `options`, a dataclass of `option` fields, becomes the flags of those fields; RunOptions adds --config.
    """
    parameters = dict(inspect.signature(function, eval_str=True).parameters)
    kind = parameters["options"].annotation if "options" in parameters else None
    flags = [] if kind is None else _flags(kind, command=function.__name__)

    @functools.wraps(function)
    def command(*, debug: bool, **values: Any) -> None:
        # One rank a machine reports for all of its ranks, which meet the same errors when they train.
        is_silent = "config" in values and os.environ.get("LOCAL_RANK", "0") != "0"
        with one_line_errors(debug=debug, quiet=is_silent):
            if kind is not None:
                path = values.pop("config", None)
                stated = {flag.name: values.pop(flag.name) for flag in flags if flag.name in values}
                values["options"] = build_options(kind, stated, path=path, known=[flag.name for flag in flags])
            function(**values)

    own = [_with_metavar(one) for name, one in parameters.items() if name != "options"]
    debug = _parameter("debug", bool, typer.Option(False, "--debug", help="Show the traceback of an error."))
    vars(command)["__signature__"] = inspect.Signature([*flags, *own, debug])
    return command


def _flags(kind: Any, *, command: str) -> list[inspect.Parameter]:
    """Return the flags of a command from its class of options."""
    hints = typing.get_type_hints(kind)
    flags = []
    for field in dataclasses.fields(kind):
        if command in (notes := field.metadata)["commands"]:
            is_repeatable = typing.get_origin(hints[field.name]) is tuple
            of = list[str] if is_repeatable else hints[field.name]
            metavar = notes["metavar"] or _metavar(of)
            shown = typer.Option(None, f"--{flag_name(kind, field.name)}", help=notes["help"], metavar=metavar)
            flags.append(_parameter(field.name, of | None, shown))
    if issubclass(kind, RunOptions):
        text = "TOML or JSON file with any of these flags, or a run's run.json; flags win over it."
        flags.append(_parameter("config", Path | None, typer.Option(None, help=text, metavar="FILE")))
    return flags


def _metavar(hint: Any) -> str | None:
    """Return what `--help` shows for a value of this type; None leaves choices, flags without a value to Typer."""
    plain = next((one for one in typing.get_args(hint) if one is not type(None)), hint)
    return _METAVARS.get(str if typing.get_origin(plain) is list else plain)


def _with_metavar(parameter: inspect.Parameter) -> inspect.Parameter:
    for note in getattr(parameter.annotation, "__metadata__", ()):
        if isinstance(note, typer.models.OptionInfo):
            note.metavar = note.metavar or _metavar(parameter.annotation.__origin__)
    return parameter.replace(kind=parameter.KEYWORD_ONLY)


def _parameter(name: str, kind: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=kind, default=default)


def train(options: RunOptions, local_rank: Annotated[int, typer.Option("--local_rank", hidden=True)] = 0) -> None:
    """Pre-train the stages of a curriculum. Each stage starts from the last checkpoint of the one before."""
    start(options)


def start(options: RunOptions, *, stages: tuple[Stage, ...] = ()) -> Path:
    """Train what the options describe; return the run's folder. Raises InputError before anything is written.

    stages: those of the options' curriculum, with tasks from outside the package (examples/add_a_task.py).
    """
    speak(quiet=os.environ.get("RANK", "0") != "0")
    folder = (options.run_dir or newest_run(RUNS)) if options.resume else options.run_dir
    resumed = folder if options.resume else None
    if folder is not None and not options.resume and (folder / RUN_FILE).exists():
        raise InputError(f"{folder} already holds a run; continue it with --resume, or choose another --run-dir")
    refuse_rewriting(os.environ)
    if (count := len(expand_braces([options.shards_folder]))) > 1:
        raise InputError(f"--shards {options.shards} stands for {count} folders; name the one that holds a set a stage")
    saved = None if resumed is None else resumed_config(resumed, options)
    cache = cache_of(options.cache, options.cache_limit, resumed=resumed)
    with available_shards(options, saved, cache=cache) as shards:
        config = saved or dataclasses.replace(
            new_config(dataclasses.replace(options, shards=str(shards))), shards=options.shards_folder
        )
        fields: dict[str, Any] = {
            "save_every": options.save_every,
            "save_total_limit": options.save_total_limit,
            "limits": options.limits,
            "local_shards": shards,
            "cache": cache if is_remote(config.shards) else None,
            "stages": stages,
            "fits_micro_batch": options.micro_batch == AUTO,
        }
        return _run(config, planned_execution(options, resumed=resumed), folder=folder, fields=fields)


def _run(config: RunConfig, execution: tuple[str, Execution], *, folder: Path | None, fields: dict[str, Any]) -> Path:
    """Join the other ranks and train. execution: its name and content. fields: the other fields of Job."""
    name, how = execution
    # DeepSpeed takes seconds to import, so it comes after everything that a user can get wrong.
    from msp_ds.training.distributed.runtime import allow_tf32, has_lost_a_rank, lost_rank_message, start_runtime

    runtime = start_runtime(os.environ)  # names the device to DeepSpeed, which the modules below import
    allow_tf32(how.tf32)
    from msp_ds.training.guards.interrupt import Interrupted, StopRequest
    from msp_ds.training.run import train as train_run
    from msp_ds.training.stage import Job

    folder = Path(runtime.broadcast(str(folder or fresh_folder(RUNS / config.curriculum))))
    log.info(
        "run %s: curriculum %s, preset %s, %s on %s",
        *(folder, config.curriculum, config.preset, name, runtime.describe()),
    )
    stop = StopRequest()
    job = Job(config=config, execution=how, folder=folder, runtime=runtime, stop=stop, **fields)
    try:
        with stop.listen():
            train_run(job)
    except Interrupted as interruption:
        if runtime.is_first:  # all ranks stop at the same step
            log.warning("%s", interruption)
        raise SystemExit(interruption.exit_code) from None
    except FloatingPointError as error:
        if runtime.is_first:  # all ranks stop for it
            log.error("%s", error)
        raise SystemExit(1) from None
    except RuntimeError as error:
        if not has_lost_a_rank(error):
            raise
        log.error(
            "rank %d: another rank has ended or hangs (%s); --resume continues", runtime.rank, lost_rank_message(error)
        )
        raise SystemExit(1) from None
    return folder


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
app.command()(as_command(train))


def main() -> None:
    """The entry point of `deepspeed msp_ds/train.py`."""
    run_command(app)


if __name__ == "__main__":
    main()
