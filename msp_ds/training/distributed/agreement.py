"""All ranks must run the same thing: code, configuration, execution, shards and vocabulary."""

import hashlib
import json
import socket
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import deepspeed
import torch

from msp_ds.config import to_json
from msp_ds.data.format.shards import ShardSet
from msp_ds.errors import InputError
from msp_ds.training.distributed.runtime import Runtime

MAX_CHARACTERS = 60  # longest value in a message
FIXES = {
    **dict.fromkeys(("code", "torch", "deepspeed"), "install the same version on every machine"),
    **dict.fromkeys(("config", "flags"), "start every rank with the same flags"),
    "execution": "start every rank with the same --ds-config and flags",
    **dict.fromkeys(("vocabulary", "index"), "copy the same shards to every machine"),
}
"""First word of a fact's name -> how to fix a difference."""


def facts_of(
    config: Any, execution: Any, flags: Mapping[str, Any], sets: Sequence[ShardSet], *, code: str
) -> dict[str, str]:
    """What all ranks must agree on, by name; the folder of the shards may differ between machines."""
    by_sets = ("shards", "vocabulary_sha256", "detector")
    compared = {name: value for name, value in to_json(config).items() if name not in by_sets}
    return {
        "code": code,
        "torch": torch.__version__,
        "deepspeed": deepspeed.__version__,
        **dict(_flat("config", compared)),
        **dict(_flat("execution", to_json(execution))),
        **dict(_flat("flags", flags)),
        "vocabulary": config.vocabulary_sha256,
        **{f"index of {one.index.stage}/{one.index.split}": one.index_sha256 for one in sets},
    }


def check_ranks_agree(facts: Mapping[str, str], runtime: Runtime) -> None:
    """Raise InputError, the same on every rank, when a rank's facts differ from those of rank 0."""
    gathered = runtime.gather(json.dumps({"host": socket.gethostname(), "facts": dict(facts)}))
    first, *others = [json.loads(text) for text in gathered]
    for rank, other in enumerate(others, start=1):
        for name in dict.fromkeys((*first["facts"], *other["facts"])):
            ours, theirs = (one["facts"].get(name, "nothing") for one in (first, other))
            if ours != theirs:
                raise InputError(
                    f"rank {rank} on {other['host']} has {name} {_short(theirs)}, rank 0 on {first['host']} has "
                    f"{_short(ours)}; {FIXES[name.partition(' ')[0].partition('.')[0]]}"
                )


def code_version(package: Path) -> str:
    """The sha256 over every source file of a package, which also covers changes that are not committed."""
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        digest.update(f"{path.relative_to(package).as_posix()} {path.stat().st_size}\n".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _flat(name: str, value: Any) -> Iterator[tuple[str, str]]:
    """Yield the leaves of nested tables by path, as `config.optim.lr`, in JSON."""
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _flat(f"{name}.{key}", inner)
    else:
        yield name, json.dumps(value)


def _short(text: str) -> str:
    return text if len(text) <= MAX_CHARACTERS else f"{text[:MAX_CHARACTERS]}..."
