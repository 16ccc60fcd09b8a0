"""Small ONNX models, encoded by hand: outputs that are constants, and `map`, which is the input itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np


def _number(value: int) -> bytes:
    """A protobuf varint."""
    head, rest = value & 0x7F, value >> 7
    return bytes([head | 0x80]) + _number(rest) if rest else bytes([head])


def _whole(field: int, value: int) -> bytes:
    return _number(field << 3) + _number(value)


def _message(field: int, data: bytes | str) -> bytes:
    data = data.encode() if isinstance(data, str) else data
    return _number(field << 3 | 2) + _number(len(data)) + data


def _value(name: str, kind: int, shape: tuple[int, ...]) -> bytes:
    dims = b"".join(_message(1, _whole(1, size)) for size in shape)
    return _message(1, name) + _message(2, _message(1, _whole(1, kind) + _message(2, dims)))


def _tensor(name: str, array: np.ndarray) -> bytes:
    dims = b"".join(_whole(1, size) for size in array.shape)
    return dims + _whole(2, _kind(array)) + _message(8, name) + _message(9, array.tobytes())


def _kind(array: np.ndarray) -> int:
    return {"float32": 1, "int64": 7}[str(array.dtype)]


def write_onnx(path: Path, *, size: int, outputs: dict[str, np.ndarray]) -> Path:
    """Write a model with the input `picture` [1, 3, size, size] and these outputs beside `map`."""
    shape = (1, 3, size, size)
    graph = _message(1, _message(1, "picture") + _message(2, "map") + _message(4, "Identity")) + _message(2, "tests")
    graph += _message(11, _value("picture", 1, shape)) + _message(12, _value("map", 1, shape))
    for name, array in outputs.items():
        graph += _message(1, _message(1, f"{name}.value") + _message(2, name) + _message(4, "Identity"))
        graph += _message(5, _tensor(f"{name}.value", array)) + _message(12, _value(name, _kind(array), array.shape))
    path.write_bytes(_whole(1, 8) + _message(8, _message(1, "") + _whole(2, 13)) + _message(7, graph))
    return path
