"""The --config FILE of a command: options by the names of their flags, in TOML or JSON, or the run.json of a run."""

import dataclasses
import json
import typing
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, TypeVar

from msp_ds.config import RunConfig, from_json, to_json
from msp_ds.curriculum import BENCHMARKS, curriculum
from msp_ds.errors import InputError
from msp_ds.storage.file_kinds import refuse_other_kind
from msp_ds.storage.small_files import parse_json, parse_toml, read_small_text, reason
from msp_ds.training.options import RunOptions, flag_name
from msp_ds.training.planning import preset_config
from msp_ds.training.settings import DECIDED_BY_SHARDS, SECTIONS

Options = TypeVar("Options")
EXCLUSIVE = {"init": "from_scratch", "from_scratch": "init", "max_pairs": "subset", "subset": "max_pairs"}
"""Options of which a run takes one: on the command line, it replaces the other one of a file too."""


def build_options(
    kind: type[Options], flags: Mapping[str, Any], *, path: Path | None, known: Collection[str] | None = None
) -> Options:
    """Return the options of the file `path`, where one is named, and of the command line, which wins.

    flags: values by the names of the options; None or an empty list where a flag is not on the command line. Settings
    of the file come before those of the command line. known: the options that the command has, None for all.
    Raises InputError naming the key and the file.
    """
    stated = {name: value for name, value in flags.items() if value not in (None, [], ())}
    stated = {name: tuple(value) if isinstance(value, list) else value for name, value in stated.items()}
    written = {} if path is None else read_options(kind, path, known=known)
    written = {name: value for name, value in written.items() if EXCLUSIVE.get(name) not in stated}
    if "settings" in written and "settings" in stated:
        stated["settings"] = written["settings"] + stated["settings"]
    return kind(**{**written, **stated})


def read_options(kind: Any, path: Path, *, known: Collection[str] | None = None) -> dict[str, Any]:
    """Return the options in a file by the names of their fields; `known` are those that the command has, None all.

    Raises InputError naming the key and the file.
    """
    table = _read_table(path)
    if isinstance(table.get("config"), dict):
        return _options_of_run(from_json(RunConfig, table["config"], where=f"{path}: config"))
    hints = typing.get_type_hints(kind)
    names = {flag_name(kind, field.name): field.name for field in dataclasses.fields(kind)}
    names = {flag: name for flag, name in names.items() if known is None or name in known}
    options: dict[str, Any] = {}
    for key, value in table.items():
        if (flag := key.replace("_", "-")) not in names:
            raise InputError(f"{path}: {key} is not an option of this command; its options are {', '.join(names)}")
        options[names[flag]] = _checked(hints[names[flag]], value, where=f"{path}: {key}")
    return options


def _read_table(path: Path) -> dict[str, Any]:
    refuse_other_kind(path, what="options in TOML or JSON")
    is_json = path.suffix == ".json"
    try:
        text = read_small_text(path)
        table = parse_json(text) if is_json else parse_toml(text)
    except OSError as error:
        raise InputError(f"--config {path} cannot be read ({reason(error)})") from None
    except ValueError as error:
        raise InputError(f"--config {path} is not valid {'JSON' if is_json else 'TOML'}: {reason(error)}") from None
    if not isinstance(table, dict):
        raise InputError(f"--config {path} holds no table of options")
    return table


def _checked(hint: Any, value: Any, *, where: str) -> Any:
    """Return an option's value from a file. Raises InputError for one of another type."""
    if hint == Path | None:
        return Path(from_json(str, value, where=where))
    if hint == str | None and type(value) is int:  # epochs = 6, micro-batch = 16
        return str(value)
    return from_json(hint, value, where=where)


def _options_of_run(config: RunConfig) -> dict[str, Any]:
    """Return the options that start a run of this configuration; how it is executed is left to the machine."""
    names = ("curriculum", "preset", "shards", "init", "drop", "seed", "length_buckets", "max_pairs", "max_steps")
    options = {name: getattr(config, name) for name in names}
    preset = preset_config(config.preset, RunOptions(curriculum=config.curriculum))
    settings = []
    for section in SECTIONS:
        written, usual = to_json(getattr(config, section)), to_json(getattr(preset, section))
        settings += [
            f"{section}.{name}={json.dumps(value)}"
            for name, value in written.items()
            if value != usual[name] and name not in DECIDED_BY_SHARDS
        ]
    rows, usual_rows = config.schedule, preset.schedule
    parts = [part for stage in curriculum(config.curriculum) for part in stage.parts]
    if any(rows[part.name].epochs != usual_rows[part.name].epochs for part in parts):
        counts = [f"{part.initial}={rows[part.name].epochs}" for part in parts]
        options["epochs"] = counts[0].lstrip("=") if config.curriculum in BENCHMARKS else ",".join(counts)
    if any(rows[part.name].batch_size != usual_rows[part.name].batch_size for part in parts):
        if len({rows[part.name].batch_size for part in parts}) > 1:
            raise InputError("the run's stages have several batch sizes, which --config cannot say; name --batch-size")
        options["batch_size"] = rows[parts[0].name].batch_size
    return {**{name: value for name, value in options.items() if value is not None}, "settings": tuple(settings)}
