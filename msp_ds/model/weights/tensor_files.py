"""Files of named tensors: safetensors, and pickles of which nothing but tensors is unpickled."""

import os
import pickle
import re
import struct
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from msp_ds.config import read_json
from msp_ds.errors import InputError
from msp_ds.storage.file_kinds import refuse_other_kind

SAFE = ".safetensors"
PICKLES = (".pth", ".pt", ".bin")
EXTRA_FILE = "msp_ds.safetensors"
"""Beside a foreign form: the tensors for which it has no name, under ours."""
WRAPPERS = ("state_dict", "model", "model_state_dict")
"""Under which of its keys a training checkpoint, as torch.save or Lightning write it, holds the weights."""
_HF_NAMES = (f"model{SAFE}", "pytorch_model.bin")
_HF_INDEXES = (f"model{SAFE}.index.json", "pytorch_model.bin.index.json")


def find_tensor_files(path: Path) -> list[Path]:
    """The files with the weights of a file or folder, safetensors before pickles; our extra file is not among them.

    Raises InputError when there are none, or several of which it does not say which.
    """
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise InputError(f"{path} is missing; name the file or folder that holds the weights")
    return _hugging_face_files(path) or [_only_file(path)]


def _hugging_face_files(folder: Path) -> list[Path]:
    for whole, index in zip(_HF_NAMES, _HF_INDEXES, strict=True):
        if (folder / whole).is_file():
            return [folder / whole]
        if (folder / index).is_file():
            return _parts(folder / index)
    return []


def _only_file(folder: Path) -> Path:
    for endings in ((SAFE,), PICKLES):
        found = sorted(file for file in folder.iterdir() if file.suffix in endings and file.name != EXTRA_FILE)
        if len(found) > 1:
            raise InputError(f"{folder} holds {found[0].name} and {found[1].name}; name the one to import")
        if found:
            return found[0]
    raise InputError(f"{folder} holds no weights: no file ends in {', '.join((SAFE, *PICKLES))}")


def _parts(index: Path) -> list[Path]:
    saved = read_json(index, what="Hugging Face's list of the parts of large weights")
    places = saved.get("weight_map") if isinstance(saved, dict) else None
    if not isinstance(places, dict) or not all(isinstance(part, str) for part in places.values()):
        raise InputError(f"{index} should be Hugging Face's list of the parts of large weights, but has no weight_map")
    names = sorted(set(places.values()))
    strange = [name for name in names if Path(name).name != name or not (index.parent / name).is_file()]
    if strange:
        raise InputError(f"{index} names {strange[0]}, which does not lie beside it")
    return [index.parent / name for name in names]


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a file by name, on the CPU; of a training checkpoint those of its state dict. No code of the file
    is run.

    Raises InputError when it is missing, damaged, no plain table of tensors, or promises more numbers than it holds.
    """
    refuse_other_kind(path, what="weights", unpacks="" if path.suffix == SAFE else "zip", even_empty=True)
    _check_zip(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's, of old pickles; an error below says what matters
            found = (
                read_safetensors(path)
                if path.suffix == SAFE
                else torch.load(path, map_location="cpu", weights_only=True)
            )
    except pickle.UnpicklingError:  # torch's text tells how to run the code in it
        raise InputError(
            f"{path} is no plain table of tensors but a pickle of other things, which is not run"
        ) from None
    except FileNotFoundError:
        raise InputError(f"{path} is missing; name the file or folder that holds the weights") from None
    except (
        OSError,
        EOFError,
        RuntimeError,
        LookupError,
        ValueError,
        TypeError,
        AttributeError,
        ArithmeticError,
        MemoryError,
        struct.error,
    ) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(f"{path} cannot be read as weights: {reason}") from None
    return _checked(found, path)


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file by name, on the CPU.

    Raises: OSError; ValueError, with the reason alone, when the file is damaged or of another kind.
    """
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except SafetensorError as error:
        raise ValueError(str(error).strip()) from None
    return tensors


def _check_zip(path: Path) -> None:
    """torch stores its files in a zip as they are: others are no weights, and a packed one may unpack to any size."""
    if path.suffix == SAFE or not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    # zipfile raises NotImplementedError for a compression that it does not know.
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return  # torch says what is wrong with it
    if not any(member.filename.endswith("data.pkl") for member in members):
        first = members[0].filename if members else "nothing"
        raise InputError(
            f"{path} is a zip archive of {first}, but should be weights; unpack it, and name what lies in it"
        )
    if sum(member.file_size for member in members) > path.stat().st_size:
        raise InputError(f"{path} cannot be read as weights: it is packed, which torch.save never does; unpack it")


def _checked(found: object, path: Path) -> dict[str, Tensor]:
    if isinstance(found, Mapping):
        found = next((found[key] for key in WRAPPERS if isinstance(found.get(key), Mapping)), found)
    if not isinstance(found, Mapping):
        raise InputError(f"{path} holds a {type(found).__name__}, not a table of tensors by name (a state dict)")
    strange = [name for name, value in found.items() if not (isinstance(name, str) and isinstance(value, Tensor))]
    if strange or not found:
        what = f"{strange[0]!r} is a {type(found[strange[0]]).__name__}" if strange else "it is empty"
        raise InputError(f"{path} is no table of tensors by name (a state dict): {what}")
    for name, tensor in found.items():
        if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_quantized:
            raise InputError(f"{path}: {name} is no plain table of numbers")
    # A tied table stands twice. A view may have any number of elements that lie in the same bytes.
    size = path.stat().st_size
    if sum(tensor.numel() * tensor.element_size() for tensor in found.values()) > 2 * size:
        raise InputError(f"{path} is damaged: its tensors have more numbers than its {size:,} bytes can hold")
    return dict(found)


def is_half_written(name: str) -> bool:
    """Whether a killed write of safetensors leaves files of such a name beside its own."""
    return re.fullmatch(r"\.tmp[A-Za-z0-9]{6}", name) is not None


def write_safetensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors as safetensors, down to the disk; the same tensors give the same bytes."""
    path.touch()
    mode = path.stat().st_mode  # as other files here are made; safetensors makes its own for the owner alone
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata={"format": "pt"})
    path.chmod(mode)
    _sync(path)


def write_pickle(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a state dict as torch does, down to the disk; the same tensors and file name give the same bytes."""
    torch.save({name: tensors[name].contiguous() for name in sorted(tensors)}, path)
    _sync(path)


def _sync(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())
