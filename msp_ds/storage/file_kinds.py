"""The real kind of a file by its first bytes: a failed download leaves a web page or a pointer under the right name."""

from pathlib import Path
from typing import Literal

from msp_ds.errors import InputError

Archive = Literal["zip", "gzip", "bzip2", "zstd", ""]  # the archive that a reader can unpack itself

HEAD_BYTES = 512  # bytes that `other_kind` looks at
_AGAIN = "download it again"
_UNPACK = "unpack it, and name what lies in it"
_TEXTS = (
    (b"<!doctype html", "a web page (HTML)", _AGAIN),
    (b"<html", "a web page (HTML)", _AGAIN),
    (b"<head", "a web page (HTML)", _AGAIN),
    (b"<?xml", "an XML document, as a server's answer to a failed download", _AGAIN),
    (b"<error>", "an XML document, as a server's answer to a failed download", _AGAIN),
    (
        b"version https://git-lfs.github.com/spec/",
        "a Git LFS pointer, which stands for the file",
        "fetch the file with git lfs pull, or download it again",
    ),
)
"""(start of a text in lower case, what it is, how to fix it)."""
_ARCHIVES: tuple[tuple[bytes, Archive, str], ...] = (
    (b"\x1f\x8b", "gzip", "a gzip archive"),
    (b"PK\x03\x04", "zip", "a zip archive"),
    (b"PK\x05\x06", "zip", "an empty zip archive"),
    (b"\x28\xb5\x2f\xfd", "zstd", "a Zstandard archive"),
    (b"BZh", "bzip2", "a bzip2 archive"),
    (b"\xfd7zXZ\x00", "", "an xz archive"),
    (b"7z\xbc\xaf\x27\x1c", "", "a 7-Zip archive"),
    (b"Rar!\x1a\x07", "", "a RAR archive"),
)
_TAR_MAGIC, _TAR_MAGICS = slice(257, 263), (b"ustar\0", b"ustar ")
"""With the byte after the word, since texts may hold it too (mustard)."""


def read_head(path: Path) -> bytes | None:
    """Return the first bytes of a regular file; None for anything else and for a file that cannot be read."""
    try:
        if not path.is_file():
            return None
        with path.open("rb") as file:
            return file.read(HEAD_BYTES)
    except OSError:
        return None


def failed_download(head: bytes) -> tuple[str, str] | None:
    """Return what a file that starts with `head` is instead of data, and how to fix it; None for other files."""
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    return next(((kind, remedy) for start, kind, remedy in _TEXTS if text.startswith(start)), None)


def other_kind(head: bytes, *, unpacks: Archive = "") -> tuple[str, str] | None:
    """As `failed_download`, also for archives, except the one that the reader `unpacks`."""
    if found := failed_download(head):
        return found
    for magic, archive, kind in _ARCHIVES:
        if head.startswith(magic) and (not archive or archive != unpacks):
            return kind, _UNPACK
    return ("a tar archive", _UNPACK) if head[_TAR_MAGIC] in _TAR_MAGICS else None


def refuse_other_kind(path: Path, *, what: str, unpacks: Archive = "", even_empty: bool = False) -> None:
    """Raise InputError if a regular file, which should be `what`, is plainly something else; see `other_kind`.

    even_empty: whether an empty file is refused too. Files that are missing, not regular or not readable are left to
    the reader.
    """
    head = read_head(path)
    if head is None:
        return
    found = other_kind(head, unpacks=unpacks)
    if even_empty and not head:
        found = "empty", _AGAIN
    if found is not None:
        kind, remedy = found
        raise InputError(f"{path} is {kind}, but should be {what}; {remedy}")
