"""Checkpoints that are whole or not there: DeepSpeed's files, then a manifest, then the name.

A checkpoint is a folder `step-00000120/` of DeepSpeed's own files. It counts once `manifest.json` lies in it, which is
written last and lists every file's size; so a run that is killed while saving continues from the checkpoint before.
DeepSpeed's own `latest` is not written: with several ranks it can name a half-written checkpoint.
"""

from __future__ import annotations

import json
import logging
import pickle
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from msp_ds.config import read_json, to_json, write_json
from msp_ds.errors import CheckpointError
from msp_ds.model.encoder import Trunk
from msp_ds.training.runtime import Runtime
from msp_ds.training.weights_folder import is_weights_folder, read_folder_weights

if TYPE_CHECKING:  # reading weights must not need DeepSpeed, which takes seconds to import
    from msp_ds.training.engine import Engine

log = logging.getLogger(__name__)

MANIFEST = "manifest.json"
STATE = "msp_ds"
"""Our one key in DeepSpeed's client state: a JSON text, so that it loads with weights_only."""


def save_checkpoint(folder: Path, engine: Engine, *, step: int, state: Mapping[str, Any], runtime: Runtime) -> Path:
    """Saves after `step` optimiser steps and drops the checkpoint before the last. Every rank must call it."""
    path = folder / f"step-{step:08d}"
    if runtime.is_first and path.exists():
        shutil.rmtree(path)
    runtime.wait_for_all()
    client_state: dict[str, Any] = {STATE: json.dumps(to_json(dict(state)))}
    if engine.scaler is not None:
        client_state[f"{STATE}_scaler"] = engine.scaler.state_dict()
    engine.engine.save_checkpoint(str(folder), tag=path.name, client_state=client_state, save_latest=False)
    runtime.wait_for_all()
    if runtime.is_first:
        sizes = {file.name: file.stat().st_size for file in sorted(path.iterdir()) if file.name != MANIFEST}
        write_json(path / MANIFEST, {"step": step, "files": sizes, "state": dict(state)})
        for old in checkpoints(folder)[:-2]:
            shutil.rmtree(old)
    runtime.wait_for_all()
    return path


def is_complete(path: Path) -> bool:
    """Whether a checkpoint folder has its manifest and every file in it at its full size."""
    if not (path / MANIFEST).is_file():
        return False
    files = read_json(path / MANIFEST, what="a checkpoint's manifest")["files"]
    return all((path / name).is_file() and (path / name).stat().st_size == size for name, size in files.items())


def checkpoints(folder: Path) -> list[Path]:
    """The complete checkpoints in a folder, oldest first; incomplete ones are passed over with a warning."""
    found = sorted(path for path in folder.glob("step-*") if path.is_dir())
    complete = [path for path in found if is_complete(path)]
    for path in found:
        if path not in complete:
            log.warning("%s is incomplete (a save was interrupted); it is not used", path)
    return complete


def read_state(path: Path) -> dict[str, Any]:
    """The state that a complete checkpoint was saved with, without loading it."""
    state: dict[str, Any] = read_json(path / MANIFEST, what="a checkpoint's manifest")["state"]
    return state


def load_checkpoint(path: Path, engine: Engine) -> dict[str, Any]:
    """Restores weights, optimiser and loss scale bit for bit, and returns the state saved with them."""
    with _readable(path):
        loaded, client_state = engine.engine.load_checkpoint(str(path.parent), tag=path.name)
    if loaded is None:
        raise CheckpointError(f"DeepSpeed could not load {path}; remove it to continue from the one before")
    if engine.scaler is not None and f"{STATE}_scaler" in client_state:  # not there when precision was not fp16
        engine.scaler.load_state_dict(client_state[f"{STATE}_scaler"])
    state: dict[str, Any] = json.loads(client_state[STATE])
    return state


def read_weights(path: Path) -> dict[str, Tensor]:
    """The fp32 weights of a checkpoint or a weights folder by name, on the CPU, without an engine.

    With ZeRO off nothing but tensors is unpickled. ZeRO's shards go through DeepSpeed's own reader, which unpickles
    what is there: read only those that you trust.
    """
    if is_weights_folder(path):
        return read_folder_weights(path)
    if not is_complete(path):
        raise CheckpointError(f"{path} is no complete checkpoint; give a run folder or one of its step-* folders")
    if list(path.glob("*zero_pp_rank_*")):
        from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

        with _readable(path):
            weights: dict[str, Tensor] = get_fp32_state_dict_from_zero_checkpoint(str(path.parent), tag=path.name)
        return weights
    with _readable(path):
        saved = torch.load(path / "mp_rank_00_model_states.pt", map_location="cpu", weights_only=True)
        return {name: tensor.float() for name, tensor in saved["module"].items()}


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turns what torch.load raises on damaged files of the right size into a CheckpointError."""
    try:
        yield
    except pickle.UnpicklingError:  # torch's text tells how to run the code in it
        raise _damaged(path, "it is no plain table of tensors") from None
    except (OSError, EOFError, KeyError, RuntimeError) as error:
        raise _damaged(path, (str(error).strip().splitlines() or [type(error).__name__])[0]) from None


def _damaged(path: Path, reason: str) -> CheckpointError:
    return CheckpointError(f"{path} is damaged ({reason}); remove it to continue from the checkpoint before")


def load_part(module: torch.nn.Module, weights: Mapping[str, Tensor], prefix: str, *, where: Path) -> int:
    """Fills `module` from the weights under `prefix`, all of them and no others; returns how many tensors.

    Raises CheckpointError when a name is missing or left over, or a shape differs: a checkpoint of another model.
    """
    given = {name[len(prefix) :]: tensor for name, tensor in weights.items() if name.startswith(prefix)}
    wanted = module.state_dict()
    for name in sorted(given.keys() ^ wanted.keys()):
        side = "has no" if name in wanted else "has an unknown"
        raise CheckpointError(f"{where} is of another model: it {side} tensor {prefix}{name}; check --preset")
    for name, tensor in given.items():
        if tensor.shape != wanted[name].shape:
            raise CheckpointError(
                f"{where} is of another model: {prefix}{name} is {tuple(tensor.shape)} there and "
                f"{tuple(wanted[name].shape)} here; check --preset and the shards' vocabulary"
            )
    module.load_state_dict(given)
    return len(given)


def load_heads(heads: torch.nn.ModuleDict, path: Path) -> str:
    """Fills those heads that a checkpoint has under the same name, and says which; the others stay as they are."""
    weights = read_weights(path)
    carried = [name for name in heads if any(key.startswith(f"heads.{name}.") for key in weights)]
    for name in carried:
        load_part(heads[name], weights, f"heads.{name}.", where=path)
    fresh = [name for name in heads if name not in carried]
    return f"heads carried: {', '.join(carried) or 'none'}; fresh: {', '.join(fresh) or 'none'}"


def load_trunk(trunk: Trunk, path: Path) -> str:
    """Fills the trunk from a checkpoint, in fp32, and says what was taken and what was left behind."""
    weights = read_weights(path)
    count = load_part(trunk, weights, "trunk.", where=path)
    left = sorted({name.split(".")[1] for name in weights if name.startswith("heads.")})
    return f"{count} trunk tensors from {path}; heads left behind: {', '.join(left) or 'none'}"
