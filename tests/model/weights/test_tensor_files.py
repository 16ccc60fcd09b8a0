"""Files of tensors are found, read without running anything in them, and written the same way each time."""

from __future__ import annotations

import json
import pickle
import re
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from msp_ds.errors import InputError
from msp_ds.model.weights.tensor_files import find_tensor_files, read_tensors, write_pickle, write_safetensors

TENSORS = {"b": torch.arange(6.0).reshape(2, 3), "a": torch.ones(2)}


class Trap:
    """Code that runs where a pickle is read without care."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (pytest.fail, ("the file's code was run",))


def legacy(path: Path) -> None:
    torch.save(TENSORS, path, _use_new_zipfile_serialization=False)


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("model.safetensors", lambda path: save_file(TENSORS, path)),
        ("model.pth", lambda path: torch.save(TENSORS, path)),
        ("model.bin", legacy),
    ],
)
def test_tensors_are_read(tmp_path: Path, name: str, write: Callable[[Path], None]) -> None:
    write(tmp_path / name)
    found = read_tensors(tmp_path / name)
    assert found.keys() == TENSORS.keys()
    assert all(torch.equal(found[key], tensor) for key, tensor in TENSORS.items())


@pytest.mark.parametrize("key", ["state_dict", "model", "model_state_dict"])
def test_of_a_training_checkpoint_the_state_dict_is_read(tmp_path: Path, key: str) -> None:
    torch.save({key: TENSORS, "epoch": 3, "optimizer": {"state": {}}}, tmp_path / "last.pt")
    assert read_tensors(tmp_path / "last.pt").keys() == TENSORS.keys()


def test_a_packed_file_is_not_unpacked(tmp_path: Path) -> None:
    torch.save({"w": torch.zeros(1 << 20)}, tmp_path / "plain.pth")
    with (
        zipfile.ZipFile(tmp_path / "plain.pth") as plain,
        zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as bomb,
    ):
        for member in plain.namelist():
            bomb.writestr(member, plain.read(member))
    with pytest.raises(InputError, match=r"it is packed, which torch\.save never does; unpack it"):
        read_tensors(tmp_path / "bomb.pth")


@pytest.mark.parametrize(
    "header",
    [
        b'{"w":{"dtype":"F32","shape":[1000000000000],"data_offsets":[0,4000000000000]}}',
        b'{"w":{"dtype":"F32","shape":[1000000000000],"data_offsets":[0,4]}}',
        b'{"w":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}',
        b'{"w":{"dtype":"F32","shape":[18446744073709551615,4],"data_offsets":[0,4]}}',
        b"[" * 100_000,
    ],
    ids=["long", "overfull", "negative", "overflowing", "nested"],
)
@pytest.mark.parametrize("length", [None, 2**63], ids=["true length", "false length"])
def test_a_header_that_lies_is_one_line(tmp_path: Path, header: bytes, length: int | None) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(struct.pack("<Q", len(header) if length is None else length) + header + b"\0" * 4)
    with pytest.raises(InputError, match=r"model\.safetensors cannot be read as weights") as error:
        read_tensors(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("is_legacy", [True, False])
def test_no_code_of_a_pickle_is_run(tmp_path: Path, is_legacy: bool) -> None:
    path = tmp_path / "model.pth"
    torch.save(TENSORS | {"trap": Trap()}, path, _use_new_zipfile_serialization=not is_legacy)
    with pytest.raises(InputError, match="is no plain table of tensors but a pickle of other things, which is not run"):
        read_tensors(path)


def test_a_bare_pickle_is_not_run(tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    path.write_bytes(pickle.dumps(Trap()))
    with pytest.raises(InputError, match="pickle of other things, which is not run"):
        read_tensors(path)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ([torch.ones(1)], "holds a list, not a table of tensors by name (a state dict)"),
        (torch.ones(1), "holds a Tensor, not a table of tensors by name"),
        ({"weights": TENSORS, "epoch": 3}, "is no table of tensors by name (a state dict): 'weights' is a dict"),
        ({"state_dict": {"net": TENSORS}}, "is no table of tensors by name (a state dict): 'net' is a dict"),
        ({"w": torch.ones(1).expand(10**12)}, "is damaged: its tensors have more numbers than its"),
        ({"w": torch.empty(3, device="meta")}, "w is no plain table of numbers"),
        ({"w": torch.sparse_coo_tensor(size=(10**9, 10**9), check_invariants=False)}, "w is no plain table of numbers"),
        ({}, "is no table of tensors by name (a state dict): it is empty"),
    ],
)
def test_a_pickle_that_is_no_state_dict_is_described(tmp_path: Path, content: object, complaint: str) -> None:
    torch.save(content, tmp_path / "model.pth")
    with pytest.raises(InputError, match=re.escape(complaint)) as error:
        read_tensors(tmp_path / "model.pth")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["model.safetensors", "model.pth"])
@pytest.mark.parametrize("damage", [b"", b"not a file of tensors", None])
def test_a_damaged_file_is_one_line(tmp_path: Path, name: str, damage: bytes | None) -> None:
    path = tmp_path / name
    (write_safetensors if name.endswith(".safetensors") else write_pickle)(path, TENSORS)
    path.write_bytes(path.read_bytes()[:-40] if damage is None else damage)
    with pytest.raises(InputError, match=f"{name} (cannot be read as weights|is no plain|is empty, but)") as error:
        read_tensors(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["model.safetensors", "model.pth"])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=f"{name} is missing"):
        read_tensors(tmp_path / name)


@pytest.mark.parametrize(("write", "name"), [(write_safetensors, "x.safetensors"), (write_pickle, "x.pth")])
def test_the_same_tensors_give_the_same_bytes(tmp_path: Path, write: Callable[..., None], name: str) -> None:
    for folder, order in (("one", ["a", "b"]), ("two", ["b", "a"])):
        (tmp_path / folder).mkdir()
        write(tmp_path / folder / name, {key: TENSORS[key].clone() for key in order})
    assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    (tmp_path / "plain").touch()
    assert (tmp_path / "one" / name).stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_safetensors_come_before_pickles_and_our_extra_file_is_not_the_weights(tmp_path: Path) -> None:
    for name in ("msp_ds.safetensors", "old.bin", "new.safetensors"):
        (tmp_path / name).touch()
    assert find_tensor_files(tmp_path) == [tmp_path / "new.safetensors"]
    assert find_tensor_files(tmp_path / "old.bin") == [tmp_path / "old.bin"]
    (tmp_path / "pytorch_model.bin").touch()
    assert find_tensor_files(tmp_path) == [tmp_path / "pytorch_model.bin"]
    (tmp_path / "model.safetensors").touch()
    assert find_tensor_files(tmp_path) == [tmp_path / "model.safetensors"]


def test_large_weights_lie_in_parts(tmp_path: Path) -> None:
    places = {"a": "model-2.safetensors", "b": "model-1.safetensors", "c": "model-2.safetensors"}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    with pytest.raises(InputError, match=r"names model-1.safetensors, which does not lie beside it"):
        find_tensor_files(tmp_path)
    for name in places.values():
        (tmp_path / name).touch()
    assert [path.name for path in find_tensor_files(tmp_path)] == ["model-1.safetensors", "model-2.safetensors"]


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (
            {"weight_map": {"a": "../elsewhere.safetensors"}},
            "names ../elsewhere.safetensors, which does not lie beside",
        ),
        ({"weight_map": {"a": 3}}, "should be Hugging Face's list of the parts"),
        ([], "should be Hugging Face's list of the parts"),
    ],
)
def test_a_strange_list_of_parts_is_refused(tmp_path: Path, content: object, complaint: str) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=re.escape(complaint)):
        find_tensor_files(tmp_path)


def test_of_two_files_one_must_be_named(tmp_path: Path) -> None:
    for name in ("b.pth", "a.pth"):
        (tmp_path / name).touch()
    with pytest.raises(InputError, match=r"holds a.pth and b.pth; name the one to import"):
        find_tensor_files(tmp_path)


def test_nothing_to_read_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no weights: no file ends in \.safetensors, \.pth, \.pt, \.bin"):
        find_tensor_files(tmp_path)
    with pytest.raises(InputError, match="nowhere is missing; name the file or folder that holds the weights"):
        find_tensor_files(tmp_path / "nowhere")
