"""What --set changes: the options of the tasks, the model and the optimiser."""

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

from msp_ds.config import ModelConfig, RunConfig, TaskOptions, from_json, to_json
from msp_ds.curriculum import STAGES
from msp_ds.errors import InputError
from msp_ds.storage.small_files import parse_json
from msp_ds.tasks import TASKS

SECTIONS = ("tasks", "model", "optim")
"""Fields of RunConfig that settings reach: `moc_target=all`, `model.topic_head=plain`, `optim.warmup_ratio=0.1`."""
DECIDED_BY_SHARDS = ("vocab_size", "feature_width", "num_objects", "num_attributes", "num_answers")
"""Fields of ModelConfig that a setting cannot change."""


def with_settings(config: RunConfig, settings: Sequence[str]) -> RunConfig:
    """Return `config` with settings written `name=value`: `mlm_unit=word` is a task's, `weights.mlm=2` one of a table.

    Raises InputError for unknown names and for values that are not allowed.
    """
    tables: dict[str, dict[str, Any]] = {name: to_json(getattr(config, name)) for name in SECTIONS}
    for setting in settings:
        _change(tables, *_name_and_value(setting))
    changed: dict[str, Any] = {
        name: from_json(type(getattr(config, name)), table, where="--set" if name == "tasks" else f"--set {name}")
        for name, table in tables.items()
    }
    _check_tasks(changed["tasks"])
    return dataclasses.replace(config, **changed)


def changed_model(model: ModelConfig, settings: Sequence[str]) -> ModelConfig:
    """Return `model` with settings written `num_layers=3` or `model.num_layers=3`. Raises as with_settings."""
    tables: dict[str, dict[str, Any]] = {"model": to_json(model)}
    for setting in settings:
        name, value = _name_and_value(setting)
        _change(tables, name if name.startswith("model.") else f"model.{name}", value)
    return from_json(ModelConfig, tables["model"], where="--set model")


def _name_and_value(setting: str) -> tuple[str, Any]:
    name, equals, text = setting.partition("=")
    if not equals:
        raise InputError(f"--set {setting}: write it name=value, for example --set moc_target=all")
    try:
        return name, parse_json(text)
    except json.JSONDecodeError:
        return name, text
    except ValueError as error:
        raise InputError(f"--set {name}: {error}") from None


def _change(tables: dict[str, dict[str, Any]], name: str, value: Any) -> None:
    """Set the dotted `name` to `value`; a table is merged into the one that is there."""
    first, _, rest = name.partition(".")
    section, path = (first, rest) if first in SECTIONS and rest else ("tasks", name)
    key, _, entry = path.partition(".")
    table = tables[section]
    if key not in table or (entry and not isinstance(table[key], dict)):
        known = ", ".join(known for known in table if known not in DECIDED_BY_SHARDS)
        also = " (and model.NAME, optim.NAME)" if section == "tasks" else ""
        raise InputError(f"--set {name}: nothing is called that; {section} has {known}{also}")
    if section == "model" and key in DECIDED_BY_SHARDS:
        raise InputError(f"--set {name}: the shards decide it; write them with another recipe to change it")
    if entry:
        table[key] = {**table[key], entry: value}
    elif isinstance(table[key], dict) and isinstance(value, dict):
        table[key] = {**table[key], **value}
    else:
        table[key] = value


def _check_tasks(options: TaskOptions) -> None:
    stages = [part.name for part in STAGES]
    # Matching is about mismatched pairs: it has no loss to drop.
    tasks = [name for name in TASKS if name != "itm_hs"]
    tables = (("weights", "task", list(TASKS)), ("mismatch_losses_of", "task", tasks), ("heads_of", "stage", stages))
    for table, noun, known in tables:
        unknown = sorted(getattr(options, table).keys() - set(known))
        if unknown:
            raise InputError(f"--set {table}: no {noun} is called {unknown[0]!r}; {noun}s are {', '.join(known)}")
