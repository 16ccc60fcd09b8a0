"""Arrays in every layout of numpy are read unchanged, or refused with an error."""

from __future__ import annotations

import io
import resource
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from msp_ds.errors import InputError
from msp_ds.storage.array_files import load_array, load_arrays


@contextmanager
def no_more_memory(size: int) -> Iterator[None]:
    """Make every allocation of `size` more bytes raise MemoryError."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


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


def header(shape: tuple[int, ...], descr: str = "<f4", *, length: int | None = None) -> bytes:
    """The first bytes of an .npy."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": descr, "fortran_order": False, "shape": shape})
    return file.getvalue()[:length]


LYING = {
    "a terabyte": header((10**12,)) + bytes(64),
    "less than there is": header((2,)) + bytes(64),
    "a negative length": header((-16,)) + bytes(64),
    "two that multiply to less": header((-4, -4)) + bytes(64),
    "objects": header((8,), "|O") + bytes(64),
    "cut": header((16,), length=40),
}


@pytest.mark.parametrize("packing", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("content", LYING.values(), ids=LYING)
def test_a_wrong_header_is_refused_before_memory_is_reserved(tmp_path: Path, content: bytes, packing: int) -> None:
    with zipfile.ZipFile(tmp_path / "some.npz", "w", packing) as archive:
        archive.writestr("plain.npy", content)
    (tmp_path / "one.npy").write_bytes(content)
    with no_more_memory(1 << 30):
        with pytest.raises(InputError, match=r"some.npz .*; it should be some arrays$"):
            load_arrays(tmp_path / "some.npz", ["plain"], what="some arrays")
        with pytest.raises(InputError, match=r"one.npy is not a readable array .*; it should be an array$"):
            load_array(tmp_path / "one.npy", what="an array")
        with pytest.raises(InputError, match=r"one.npy .*not a zip archive"):
            load_arrays(tmp_path / "one.npy", ["plain"], what="some arrays")


def test_an_archive_that_unpacks_to_thousands_of_times_its_size_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "some.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("plain.npy", header((1 << 31,), "|i1") + bytes(1 << 20))
    data = (tmp_path / "some.npz").read_bytes()
    size = len(header((1,))) + (1 << 20)  # in the local header and in the directory
    assert data.count(size.to_bytes(4, "little")) == 2
    (tmp_path / "some.npz").write_bytes(
        data.replace(size.to_bytes(4, "little"), (size + 2**31 - 2**20).to_bytes(4, "little"))
    )
    with no_more_memory(1 << 30), pytest.raises(InputError, match=r"plain.npy unpacks 1,\d+ bytes to 2,147,483,776"):
        load_arrays(tmp_path / "some.npz", ["plain"], what="some arrays")


def test_a_bit_in_an_array_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "some.npz"
    np.savez(path, plain=np.arange(1000))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"some.npz is not a readable archive \(Bad CRC-32.*it should be some arrays"):
        load_arrays(path, ["plain"], what="some arrays")


def test_an_array_that_is_cut_short_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "some.npz"
    np.savez(path, plain=np.arange(1000))
    data = path.read_bytes()
    path.write_bytes(data[:4000] + data[4800:])
    with pytest.raises(InputError, match=r"some.npz .* claims more bytes than the file has"):
        load_arrays(path, ["plain"], what="some arrays")
