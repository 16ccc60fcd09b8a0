"""Reading and checking checkpoints, without DeepSpeed and without unpickling.

A checkpoint is a folder `step-00000120/` with `weights.safetensors` (fp32, by the names of the module's state dict),
`optimizer.safetensors` (Adam's moments) and `manifest.json` (the position in the run, each file's size and sha256). The
folder is written under another name and renamed when all of it is on the disk (saving.py).
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from msp_ds.config import from_json, read_json
from msp_ds.errors import CheckpointError, InputError
from msp_ds.model.encoder import Backbone
from msp_ds.model.weights.tensor_files import read_safetensors
from msp_ds.storage.checksums import FileEntry, sha256_of_file
from msp_ds.storage.small_files import is_plain_name
from msp_ds.training.checkpointing.weights_folder import is_weights_folder, read_folder_weights

log = logging.getLogger(__name__)

MANIFEST = "manifest.json"
WEIGHTS = "weights.safetensors"
OPTIMIZER = "optimizer.safetensors"
BEST = "best"
"""A file beside a stage's checkpoints with the name of the one that has the lowest total loss on held-out pairs."""

_EARLIER_PREFIX = "trunk."
"""Of the backbone's tensors in checkpoints of an earlier version."""
_AGAIN = "train again with: msp-ds train --run-dir NEW_FOLDER, or remove this checkpoint to go on from the one before"


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The content of a checkpoint's manifest.json."""

    step: int
    """Optimiser steps done."""
    files: dict[str, FileEntry]
    state: dict[str, Any]
    """Position in the run, last validation, and what the run was made with: seed, index hashes, configuration."""
    loss_scale: dict[str, float] | None
    """As EngineState.loss_scale."""


def read_manifest(path: Path) -> Manifest:
    """Read the manifest of a checkpoint folder. Raises InputError when it is missing or has another shape."""
    where = path / MANIFEST
    value = read_json(where, what="a checkpoint's manifest")
    kinds: dict[str, Any] = {"step": int, "files": dict, "state": dict, "loss_scale": (dict, type(None))}
    if not isinstance(value, dict) or not all(key in value and isinstance(value[key], kinds[key]) for key in kinds):
        expected = ", ".join(kinds)
        raise CheckpointError(f"{where} is not a manifest of this version of msp-ds: {expected} are expected; {_AGAIN}")
    if not all(is_plain_name(name) for name in value["files"]):
        raise CheckpointError(f"{where} lists a file outside its folder; {_AGAIN}")
    files = {name: from_json(FileEntry, entry, where=f"{where}: {name}") for name, entry in value["files"].items()}
    scale = value["loss_scale"] and from_json(dict[str, float], value["loss_scale"], where=str(where))
    return Manifest(step=value["step"], files=files, state=value["state"], loss_scale=scale)


def find_corruption(path: Path, *, thorough: bool = False) -> str:
    """What is wrong with a checkpoint folder; empty where it is whole.

    thorough: compare the sha256 of every file, not only its size.
    """
    try:
        entries = read_manifest(path).files.items()
        return next(
            (found for name, entry in entries if (found := _file_corruption(path / name, entry, thorough=thorough))), ""
        )
    except (InputError, OSError) as error:
        return _first_line(error)


def _file_corruption(file: Path, entry: FileEntry, *, thorough: bool) -> str:
    if not file.is_file():
        return f"{file.name} is missing"
    size = file.stat().st_size
    if size != entry.bytes:
        return f"{file.name} has {size} bytes instead of {entry.bytes}"
    if thorough and sha256_of_file(file) != entry.sha256:
        return f"{file.name} is not what was written"
    return ""


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in a folder whose files have the right sizes, oldest first; the others are warned about."""
    complete = []
    for path in sorted(path for path in folder.glob("step-*") if path.is_dir()):
        if found := find_corruption(path):
            log.warning("%s is incomplete (%s); it is not used", path, found)
        else:
            complete.append(path)
    return complete


def latest_valid(folder: Path) -> Path | None:
    """The newest checkpoint in a folder whose files have the right sha256; None if there is none."""
    for path in reversed(checkpoints(folder)):
        found = find_corruption(path, thorough=True)
        if not found:
            return path
        log.warning("%s is damaged (%s); it is not used", path, found)
    return None


def validation_loss(path: Path) -> float | None:
    """The total loss on held-out pairs in a checkpoint's manifest, if it is a number."""
    validated = read_manifest(path).state.get("validated")
    loss = validated.get("loss/total") if isinstance(validated, dict) else None
    return float(loss) if isinstance(loss, (int, float)) else None


def read_tensors(file: Path) -> dict[str, Tensor]:
    """The tensors of a file of a checkpoint, on the CPU. Raises CheckpointError when it is missing or damaged."""
    try:
        tensors = read_safetensors(file)
    except (OSError, ValueError) as error:
        raise damaged(file.parent, f"{file.name}: {_first_line(error)}") from None
    if any(name.startswith(_EARLIER_PREFIX) for name in tensors):
        raise CheckpointError(f"{file} was written by an earlier version of msp-ds; {_AGAIN}")
    return tensors


def read_weights(path: Path) -> dict[str, Tensor]:
    """The fp32 weights by name, on the CPU, of a checkpoint, a weights folder or any folder with a weights.safetensors.

    Raises: CheckpointError when there are none, or a checkpoint's have another sha256 than its manifest says.
    """
    if is_weights_folder(path):
        return read_folder_weights(path)
    if not (path / WEIGHTS).is_file():
        raise CheckpointError(f"{path} is not a complete checkpoint; give a run folder or one of its step-* folders")
    if (path / MANIFEST).is_file():
        entry = read_manifest(path).files.get(WEIGHTS)
        found = _file_corruption(path / WEIGHTS, entry, thorough=True) if entry else f"its manifest has no {WEIGHTS}"
        if found:
            raise damaged(path, found)
    return {name: tensor.float() for name, tensor in read_tensors(path / WEIGHTS).items()}


def damaged(path: Path, reason: str) -> CheckpointError:
    """The error for a checkpoint that cannot be read."""
    return CheckpointError(f"{path} is damaged ({reason}); remove it to continue from the checkpoint before")


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def load_part(module: torch.nn.Module, weights: Mapping[str, Tensor], prefix: str, *, where: Path) -> int:
    """Load the weights under `prefix` into `module`; returns their number. Raises CheckpointError as `check_part`."""
    own = check_part(module, weights, prefix, where=where)
    module.load_state_dict(own)
    return len(own)


def check_part(
    module: torch.nn.Module, weights: Mapping[str, Tensor], prefix: str, *, where: Path
) -> dict[str, Tensor]:
    """The weights under `prefix` by the names of `module`, which may be on the meta device.

    Raises: CheckpointError when a name is missing or unknown, or a shape differs: a checkpoint of another model.
    """
    own = {name[len(prefix) :]: tensor for name, tensor in weights.items() if name.startswith(prefix)}
    wanted = module.state_dict()
    for name in sorted(own.keys() ^ wanted.keys()):
        side = "has no" if name in wanted else "has an unknown"
        raise CheckpointError(f"{where} is of another model: it {side} tensor {prefix}{name}; check --preset")
    for name, tensor in own.items():
        if tensor.shape != wanted[name].shape:
            raise CheckpointError(
                f"{where} is of another model: {prefix}{name} is {tuple(tensor.shape)} there and "
                f"{tuple(wanted[name].shape)} here; check --preset and the shards' vocabulary"
            )
    return own


def load_heads(heads: torch.nn.ModuleDict, path: Path) -> str:
    """Load the heads that a checkpoint has under the same name; returns a line that names them and the fresh ones."""
    weights = read_weights(path)
    carried = [name for name in heads if any(key.startswith(f"heads.{name}.") for key in weights)]
    for name in carried:
        load_part(heads[name], weights, f"heads.{name}.", where=path)
    fresh = [name for name in heads if name not in carried]
    return f"heads carried: {', '.join(carried) or 'none'}; fresh: {', '.join(fresh) or 'none'}"


def load_backbone(backbone: Backbone, path: Path) -> str:
    """Load the backbone from a checkpoint, in fp32; returns a line with its tensors and the heads that are dropped."""
    weights = read_weights(path)
    count = load_part(backbone, weights, "backbone.", where=path)
    left = sorted({name.split(".")[1] for name in weights if name.startswith("heads.")})
    return f"{count} backbone tensors from {path}; heads left behind: {', '.join(left) or 'none'}"
