"""Files of pictures, found and opened as upright RGB. H height, W width.

The ending says which files of a folder are pictures; what a file is its content decides.
"""

import glob
import os
import struct
import threading
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from msp_ds.data.format.faults import RowAt, RowError
from msp_ds.data.format.path_patterns import expand_braces
from msp_ds.errors import InputError
from msp_ds.storage.small_files import open_regular, reason

ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif")
LARGEST_PIXELS = 89_478_485
"""Pillow's own limit, beyond which a small file may be meant to fill the memory."""

_FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF")
"""Pillow's names; others are not tried, since some start programs, as PostScript does."""
_DAMAGE = (
    *(OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError, AttributeError, ArithmeticError),
    *(RuntimeError, MemoryError, struct.error, zlib.error),
)
"""What Pillow raises for damaged files of these formats."""
_PILLOWS_LIMIT = threading.Lock()


def list_pictures(paths: Sequence[str]) -> list[Path]:
    """Return the pictures of folders, {a,b} and * patterns and single files, sorted, each once.

    A folder is searched to its end; one in it with a picture's ending counts as a picture, so that it is reported.

    Raises: InputError for a path without any picture.
    """
    found: set[Path] = set()
    for path in expand_braces(paths):
        matches = [path] if os.path.lexists(path) else [one for one in glob.glob(path, recursive=True) if _fits(one)]
        here = [picture for one in matches for picture in (_pictures_in(one) if os.path.isdir(one) else [Path(one)])]
        if not here:
            raise InputError(f"{path} has no pictures; name folders, patterns or files of {' '.join(ENDINGS)}")
        found.update(here)
    return sorted(found)


def _fits(path: str) -> bool:
    return path.lower().endswith(ENDINGS) or os.path.isdir(path)


def _pictures_in(top: str) -> Iterator[Path]:
    """Yield the pictures in a folder and below, without hidden ones."""
    seen: set[str] = set()
    for folder, below, files in os.walk(top, followlinks=True, onerror=_refuse):
        real = os.path.realpath(folder)
        # A link to a folder above would be followed without end.
        names = [] if real in seen else [name for name in (*files, *below) if not name.startswith(".")]
        seen.add(real)
        pictures = {name for name in names if name.lower().endswith(ENDINGS)}
        below[:] = sorted({*below} & {*names} - pictures)
        yield from (Path(folder, name) for name in pictures)


def _refuse(error: OSError) -> None:
    raise InputError(f"{error.filename} cannot be read ({error.strerror}); make it readable, or name the others")


def open_picture(path: Path, *, max_pixels: int = LARGEST_PIXELS) -> np.ndarray:
    """Return a picture as upright RGB, uint8 [H, W, 3]: of several frames the first, transparency over white.

    Raises: RowError with the reason for a file that is damaged, has more than `max_pixels`, or is no picture.
    """
    try:
        with open_regular(path, what="a picture", even_empty=True) as file, _opened(file) as picture:
            if picture.width * picture.height > max_pixels:
                size = f"{picture.width} x {picture.height} pixels"
                raise RowError(RowAt(path), f"has {size}, more than {max_pixels:,}; make it smaller")
            picture.load()
            # Orientation is a tag of cameras; without this, boxes and features would be those of a rotated scene.
            return _as_rgb(ImageOps.exif_transpose(picture), is_png=picture.format == "PNG")
    except RowError:
        raise
    except UnidentifiedImageError:
        raise RowError(RowAt(path), f"is not a readable picture (none of {', '.join(_FORMATS)})") from None
    except InputError as error:
        raise RowError(RowAt(path), str(error).removeprefix(f"{path} ")) from None
    except _DAMAGE as error:
        raise RowError(RowAt(path), f"is not a readable picture ({reason(error)})") from None


def _opened(file: BinaryIO) -> Image.Image:
    """Read a picture's header. Pillow's limit of pixels is a global; that of `open_picture` takes its place."""
    with _PILLOWS_LIMIT:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            return Image.open(file, formats=_FORMATS)
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _as_rgb(picture: Image.Image, *, is_png: bool) -> np.ndarray:
    """Return uint8 [H, W, 3]. Raises: ValueError for numbers whose white is unknown."""
    if picture.mode.startswith("I;16") or (picture.mode == "I" and is_png):  # 16 bits of grey, by Pillow's version
        values = np.asarray(picture).astype(np.uint32)
        values[values == picture.info.get("transparency")] = 0xFFFF
        # Pillow would clip at 255, and nearly all would be white.
        grey = ((values + 128) // 257).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if picture.mode in ("I", "F"):
        raise ValueError("it holds numbers of 32 bits, whose black and white are unknown; save it with 8 or 16 bits")
    if picture.has_transparency_data:
        layer = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    return np.array(picture.convert("RGB"))
