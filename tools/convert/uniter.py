"""Converts UNITER's region features to npz parts that `msp-ds shard --regions OUT` reads.

    python tools/convert/uniter.py coco_train2014 --out regions --sizes instances_train2014.json

SOURCE is a folder of UNITER's .npz (coco_train2014_000000000009.npz ...) or of its LMDB (data.mdb; values in msgpack or
npz). Needs, for LMDB: pip install 'msp-ds[tools]'. Some 400 images a second; an image of 36 regions takes 148 KB.

UNITER stores boxes as shares of an image whose size it does not keep. --sizes names files that know it: COCO's
annotations, Visual Genome's image_data.json. Where there are none, --nominal-size 1000 puts the boxes into a square of
so many pixels: models read shares, and are not changed by it; pictures drawn from the shards are.

Object labels are the best of soft_labels without the background, as LXMERT's are. UNITER has no attributes.
"""

from __future__ import annotations

import argparse
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

from msp_ds.data.format.faults import OnError
from msp_ds.data.format.image_ids import canonical_image_id
from msp_ds.errors import InputError
from msp_ds.storage.file_kinds import refuse_other_kind
from msp_ds.storage.small_files import parse_json
from msp_ds.terminal import Terminal, one_line_errors, run_tool
from tools.convert.npz_parts import Image, PartReport, fault, labels_of, needed, read_sizes, write_parts
from tools.sizes import at_least

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
) -> PartReport:
    """Write all images of a source.

    Raises: InputError for a source that is neither, names that are no image ids, unknown sizes and damaged images.
    """
    if bool(sizes) == bool(nominal_size):
        raise InputError("UNITER keeps no image sizes: name files that do with --sizes, or give one --nominal-size")
    known = {image_id: size for path in sizes or () for image_id, size in read_sizes(path).items()}
    with _open(source) as (names, read_value):
        image_ids = [image_id_of(name, where=str(source)) for name in names]

        def read(place: int) -> Image:
            image_id = image_ids[place]
            size = (nominal_size, nominal_size) if nominal_size else known.get(image_id)
            if size is None:
                raise fault(source, image_id, "its size is in none of the --sizes")
            try:
                return image_of(arrays_in(read_value(names[place])), height=size[0], width=size[1])
            except _DAMAGE as error:
                raise fault(source, image_id, f"{names[place]} is damaged ({type(error).__name__}: {error})") from None

        return write_parts(image_ids, read, out=out, on_error=on_error)


def image_id_of(name: str, *, where: str) -> str:
    """The canonical id of `coco_train2014_000000000009.npz` and the like. Raises: InputError for other names."""
    stem = name.removesuffix(".npz")
    for form, corpus in _NAMES:
        if match := form.fullmatch(stem):
            return canonical_image_id(match[1], corpus=corpus, where=where)  # type: ignore[arg-type]
    return canonical_image_id(stem, corpus="coco", where=where)


def image_of(arrays: dict[str, np.ndarray], *, height: int, width: int) -> Image:
    """UNITER's arrays as an image. Raises: ValueError or KeyError when one is missing or misshapen."""
    boxes, features = arrays["norm_bb"], arrays["features"]
    if boxes.ndim != 2 or features.ndim != 2 or len(boxes) != len(features) or not len(boxes) or boxes.shape[1] < 4:
        raise ValueError(f"norm_bb {boxes.shape} and features {features.shape} do not fit")
    shares = boxes[:, :4].astype(np.float32)
    if not ((shares >= -0.01) & (shares <= 1.01)).all():
        raise ValueError("norm_bb should hold shares of the image, 0 to 1")
    labels = labels_of(arrays["soft_labels"]) if "soft_labels" in arrays else {}
    if labels and len(labels["object_ids"]) != len(boxes):
        raise ValueError(f"soft_labels {arrays['soft_labels'].shape} do not fit norm_bb {boxes.shape}")
    return Image(
        height=height,
        width=width,
        boxes=shares * np.array([width, height, width, height], np.float32),
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
        lmdb = needed("lmdb")
        refuse_other_kind(database, what="an LMDB")
        try:
            environment = lmdb.open(str(source), readonly=True, lock=False, readahead=False, subdir=source.is_dir())
        except lmdb.Error as error:
            raise InputError(f"{source} is no readable LMDB ({error})") from None
        with environment, environment.begin() as transaction:
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
    """Reads the flags."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="folder of .npz, or of an LMDB")
    parser.add_argument("--out", type=Path, required=True, help="folder for the parts; those that are there stay")
    parser.add_argument("--sizes", type=Path, action="append", help="file with image sizes; may be repeated")
    parser.add_argument("--nominal-size", type=at_least(1), help="pixels of a square that stands for every image")
    parser.add_argument("--on-error", choices=["fail", "skip"], default="fail", help="what a damaged image does")
    flags = parser.parse_args()
    with one_line_errors(debug=False):
        report = convert(
            flags.source, out=flags.out, sizes=flags.sizes, nominal_size=flags.nominal_size, on_error=flags.on_error
        )
    Terminal(soft_wrap=True).print(report.describe())


if __name__ == "__main__":
    run_tool(main)
