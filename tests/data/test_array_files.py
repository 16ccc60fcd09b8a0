"""Archives of arrays: whatever way numpy stores one, the same array comes back, or an error."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from msp_ds.data.array_files import load_arrays
from msp_ds.errors import InputError

ARRAYS = {
    "plain": np.arange(12, dtype=np.int32).reshape(3, 4),
    "by_columns": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "words": np.array(["a", "bcd"]),
    "scalar": np.array("sum"),
    "empty": np.zeros((0, 4), np.float16),
}


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_arrays_come_back_with_type_and_shape(tmp_path: Path, save: object) -> None:
    assert callable(save)
    save(tmp_path / "some.npz", **ARRAYS)
    found = load_arrays(tmp_path / "some.npz", list(ARRAYS), what="some arrays")
    for name, array in ARRAYS.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        np.testing.assert_array_equal(found[name], array)


def test_a_bit_in_an_array_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "some.npz"
    np.savez(path, plain=np.arange(1000))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"some.npz is no readable archive \(Bad CRC-32.*it should be some arrays"):
        load_arrays(path, ["plain"], what="some arrays")


def test_an_array_that_is_cut_short_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "some.npz"
    np.savez(path, plain=np.arange(1000))
    data = path.read_bytes()
    path.write_bytes(data[:4000] + data[4800:])
    with pytest.raises(InputError, match=r"some.npz is no readable archive"):
        load_arrays(path, ["plain"], what="some arrays")
