"""Converts UNITER's region features to npz parts that `msp-ds shard --regions OUT` reads.

    python tools/convert/uniter.py coco_train2014 --out regions --sizes instances_train2014.json

SOURCE is a folder of UNITER's .npz (coco_train2014_000000000009.npz ...) or of its LMDB (data.mdb; values in msgpack or
npz). Needs, for LMDB: pip install 'msp-ds[tools]'. Some 400 images a second; an image of 36 regions takes 148 KB.

UNITER stores boxes as fractions of an image whose size it does not keep. --sizes names files that know it: COCO's
annotations, Visual Genome's image_data.json. Where there are none, --nominal-size 1000 puts the boxes into a square of
so many pixels: models read fractions and are not changed by it; pictures drawn from the shards are.

Object labels are the best of soft_labels without the background, as LXMERT's are. UNITER has no attributes.
"""

from __future__ import annotations

import io
import re
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgpack
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from msp_ds.data.format.faults import OnError, RowAt, RowError
from msp_ds.data.format.image_ids import canonical_image_id
from msp_ds.data.format.region_checks import RawRegions
from msp_ds.errors import InputError
from msp_ds.storage.small_files import parse_json
from msp_ds.terminal import run_tool
from tools.command_line import at_least
from tools.convert import npz_parts

_DAMAGE = (ValueError, KeyError, EOFError, OSError, MemoryError, zipfile.BadZipFile, msgpack.UnpackException)
"""What reading a damaged value raises; MemoryError where an array's header claims more than there can be."""
_KEY = "__keys__"
_NAMES = (
    (re.compile(r"coco_(?:train2014|val2014|test2015)_(\d+)", re.ASCII), "coco"),
    (re.compile(r"flickr30k_(\d+)", re.ASCII), "f30k"),
    (re.compile(r"vg_(\d+)", re.ASCII), "vg"),
    (re.compile(r"nlvr2_(.+)", re.ASCII), "nlvr2"),
)
"""Form of a name, without .npz -> corpus of the number or text in it."""


def convert(
    source: Path,
    *,
    out: Path,
    sizes: list[Path] | None = None,
    nominal_size: int | None = None,
    on_error: OnError = "fail",
) -> npz_parts.PartReport:
    """Write all images of a source.

    Raises: InputError for a source that is neither, names that are no image ids, unknown sizes and damaged images.
    """
    if bool(sizes) == bool(nominal_size):
        raise InputError("UNITER keeps no image sizes: name files that do with --sizes, or give one --nominal-size")
    known = {image_id: size for path in sizes or () for image_id, size in npz_parts.read_sizes(path).items()}
    with _open(source) as (names, read_value):
        images = [(image_id_of(name, where=str(source)), name) for name in names]

        def read(place: RowAt, name: str) -> RawRegions:
            size = (nominal_size, nominal_size) if nominal_size else known.get(place.image_id)
            if size is None:
                raise RowError(place, "its size is in none of the --sizes")
            try:
                return image_of(arrays_in(read_value(name)), place, size=size)
            except _DAMAGE as error:
                raise RowError(place, f"{name} is damaged ({type(error).__name__}: {error})") from None

        return npz_parts.write_parts(images, read, source=source, out=out, on_error=on_error)


def image_id_of(name: str, *, where: str) -> str:
    """The canonical id of `coco_train2014_000000000009.npz` and the like. Raises: InputError for other names."""
    stem = name.removesuffix(".npz")
    for form, corpus in _NAMES:
        if match := form.fullmatch(stem):
            return canonical_image_id(match[1], corpus=corpus, where=where)  # type: ignore[arg-type]
    return canonical_image_id(stem, corpus="coco", where=where)


def image_of(arrays: dict[str, np.ndarray], place: RowAt, *, size: tuple[int, int]) -> RawRegions:
    """UNITER's arrays as an image of `size` (height, width) in pixels.

    Raises: ValueError or KeyError when an array is missing or misshapen.
    """
    boxes, features = arrays["norm_bb"], arrays["features"]
    if boxes.ndim != 2 or features.ndim != 2 or len(boxes) != len(features) or not len(boxes) or boxes.shape[1] < 4:
        raise ValueError(f"norm_bb {boxes.shape} and features {features.shape} do not fit")
    fractions = boxes[:, :4].astype(np.float32)
    if not ((fractions >= -0.01) & (fractions <= 1.01)).all():
        raise ValueError("norm_bb should hold fractions of the image, 0 to 1")
    labels = npz_parts.labels_of(arrays["soft_labels"]) if "soft_labels" in arrays else {}
    if labels and len(labels["object_ids"]) != len(boxes):
        raise ValueError(f"soft_labels {arrays['soft_labels'].shape} do not fit norm_bb {boxes.shape}")
    height, width = size
    return RawRegions(
        place=place,
        height=height,
        width=width,
        boxes=fractions * np.array([width, height, width, height], np.float32),
        features=features,
        **labels,
    )


def arrays_in(value: bytes) -> dict[str, np.ndarray]:
    """The arrays in an archive or in msgpack. Raises: ValueError, msgpack.UnpackException or BadZipFile."""
    if value[:2] == b"PK":
        with np.load(io.BytesIO(value), allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    # msgpack-numpy itself would unpickle arrays of objects. This reads plain numbers and nothing else.
    unpacked = msgpack.unpackb(value, object_hook=_array_or_map)
    if not isinstance(unpacked, dict):
        raise ValueError("it holds no map of arrays")
    arrays = {_text(name): array for name, array in unpacked.items()}
    return {name: array for name, array in arrays.items() if isinstance(array, np.ndarray)}


def _array_or_map(value: dict[Any, Any]) -> Any:
    """An array as msgpack-numpy writes it: {nd, type, kind, shape, data}."""
    fields = {_text(name): part for name, part in value.items()}
    if fields.get("nd") is not True:
        return value
    dtype = np.dtype(_text(fields["type"])) if _text(fields.get("kind", "")) == "" else np.dtype(object)
    if dtype.kind not in "fiub":
        raise ValueError(f"an array of {fields['type']!r}, kind {fields.get('kind')!r}, is not of plain numbers")
    return np.frombuffer(fields["data"], dtype=dtype).reshape(fields["shape"])


def _text(value: Any) -> str:
    return value.decode("ascii") if isinstance(value, bytes) else str(value)


@contextmanager
def _open(source: Path) -> Iterator[tuple[list[str], Callable[[str], bytes]]]:
    """The names of all images in order, and how to get the bytes of one."""
    database = source / "data.mdb" if source.is_dir() else source
    if database.is_file():
        with npz_parts.lmdb_transaction(source) as transaction:
            yield _names_in(transaction), lambda name: bytes(transaction.get(name.encode()) or b"")
        return
    names = sorted(path.name for path in source.glob("*.npz"))
    if not names:
        raise InputError(f"{source} is neither a folder of .npz nor an LMDB")
    yield names, lambda name: (source / name).read_bytes()


def _names_in(transaction: Any) -> list[str]:
    listed = transaction.get(_KEY.encode())
    if listed is not None:
        return sorted(parse_json(bytes(listed)))
    return sorted(key.decode() for key in transaction.cursor().iternext(values=False))


def main() -> None:
    """Read the flags and convert."""
    parser = npz_parts.converter_parser(__doc__, source="folder of .npz, or of an LMDB", has_corpus=False)
    parser.add_argument("--sizes", type=Path, action="append", help="file with image sizes; may be repeated")
    parser.add_argument("--nominal-size", type=at_least(1), help="pixels of a square that stands for every image")
    npz_parts.run_converter(convert, parser)


if __name__ == "__main__":
    run_tool(main)
