"""Files at https://, s3:// and gs:// addresses, fetched in pieces, so that a broken transfer can be resumed."""

import errno
import os
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from msp_ds.data.format.shards import ADDRESS_SCHEME
from msp_ds.data.remote.blob_cache import BlobCache
from msp_ds.errors import InputError, ShardError
from msp_ds.storage.atomic_files import sync_folder
from msp_ds.storage.checksums import FileEntry, sha256_of_file

PIECE = 1 << 24  # bytes of one request
ATTEMPTS = 3
FIRST_PAUSE = 0.5  # seconds before the second attempt; each further one waits twice as long
SILENCE = 60  # seconds without a byte after which a connection counts as broken
_PACKAGES = {"http": "aiohttp", "https": "aiohttp", "s3": "s3fs", "gs": "gcsfs"}
"""Scheme -> the package that fsspec needs for it; other schemes are refused."""


def is_remote(address: str) -> bool:
    """Return whether an address starts with https://, http://, s3:// or gs://; other addresses are paths.

    Raises: InputError for any other scheme, `pipe:` above all, unless a folder of that name is there.
    """
    match = ADDRESS_SCHEME.match(address)
    if match is None or Path(address).exists():
        return False
    if match[1] in _PACKAGES and address.startswith(f"{match[1]}://"):
        return True
    raise InputError(
        f"shards cannot be read from {address}: give a folder, or an https://, s3:// or gs:// address; "
        "programs are never run"
    )


class RemoteFolder:
    """A folder at an address."""

    def __init__(self, address: str) -> None:
        """Raises: InputError when the package for its scheme is not installed."""
        self.address = address.rstrip("/")
        scheme = address.partition(":")[0]
        try:
            self._fs, self._root, self._faults = _open(self.address, scheme)
        except ImportError:
            package = _PACKAGES[scheme]
            raise InputError(f"{scheme}:// needs the package {package}; run: pip install {package}") from None

    def read(self, name: str) -> bytes:
        """Return the bytes of a small file. Raises: FileNotFoundError; ShardError when it cannot be fetched."""
        return self._with_patience(name, lambda: bytes(self._fs.cat_file(f"{self._root}/{name}")))

    def fetch(self, name: str, entry: FileEntry, blobs: BlobCache, *, advance: Callable[[int], None]) -> None:
        """Fetch a file into the cache, where it gets its name once its size and sha256 are those of `entry`.

        advance: called with the number of bytes that are new, negative where bytes are fetched again.

        Raises: ShardError that names the address when the file is missing, differs, or cannot be fetched; the bytes
        that were fetched stay for the next attempt.
        """
        part, target = blobs.part(entry.sha256), blobs.path(entry.sha256)
        grown = part.stat().st_size if part.exists() else 0
        if grown > entry.bytes:
            grown = 0
            part.unlink()
        advance(grown)
        self._append(name, entry, part=part, start=grown, advance=advance)
        if sha256_of_file(part) != entry.sha256:
            part.unlink()
            if grown:  # perhaps the bytes that were there before were broken
                advance(-entry.bytes)
                self.fetch(name, entry, blobs, advance=advance)
                return
            raise ShardError(
                f"{self.address}/{name} holds other bytes than its index says (sha256); upload the set again"
            )
        part.replace(target)
        sync_folder(target.parent)

    def _append(self, name: str, entry: FileEntry, *, part: Path, start: int, advance: Callable[[int], None]) -> None:
        try:
            with part.open("ab") as file:
                for first in range(start, entry.bytes, PIECE):
                    data = self._piece(name, first, min(first + PIECE, entry.bytes), whole=entry.bytes)
                    file.write(data)
                    file.flush()
                    advance(len(data))
                os.fsync(file.fileno())
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            part.unlink(missing_ok=True)
            raise ShardError(f"the disk of {part.parent} is full; make room, or choose another --cache") from None

    def _piece(self, name: str, start: int, end: int, *, whole: int) -> bytes:
        def get() -> bytes:
            data = bytes(self._fs.cat_file(f"{self._root}/{name}", start=start, end=end))
            if len(data) == whole:  # servers that do not support ranges answer with the whole file
                return data[start:end]
            if len(data) != end - start:
                raise ValueError(f"it sent {len(data)} bytes instead of {end - start} from byte {start} on")
            return data

        try:
            return self._with_patience(name, get)
        except FileNotFoundError:
            raise ShardError(f"{self.address}/{name} is missing, though the index lists it; upload it again") from None

    def _with_patience(self, name: str, get: Callable[[], bytes]) -> bytes:
        for attempt in range(ATTEMPTS):
            if attempt:
                time.sleep(FIRST_PAUSE * 2 ** (attempt - 1))
            try:
                return get()
            except FileNotFoundError:
                raise
            except self._faults as error:
                fault = f"{error or type(error).__name__}"
        raise ShardError(
            f"{self.address}/{name} could not be fetched in {ATTEMPTS} attempts ({' '.join(fault.split())}); "
            "the next attempt continues where this one ended"
        )


def _open(address: str, scheme: str) -> tuple[Any, str, tuple[type[BaseException], ...]]:
    """Return fsspec's file system, the path on it, and the exceptions that it raises, not all of them OSErrors."""
    import_module(_PACKAGES[scheme])
    import aiohttp
    from fsspec.core import url_to_fs

    faults: tuple[type[BaseException], ...] = (OSError, ValueError, aiohttp.ClientError)
    options = {}
    if scheme == "s3":
        from botocore.exceptions import BotoCoreError, ClientError

        faults += (BotoCoreError, ClientError)
    elif scheme == "gs":
        from gcsfs.retry import ChecksumError, HttpError
        from google.auth.exceptions import GoogleAuthError

        faults += (ChecksumError, HttpError, GoogleAuthError)
    else:
        patience = aiohttp.ClientTimeout(total=None, sock_connect=SILENCE, sock_read=SILENCE)
        options = {"client_kwargs": {"timeout": patience}}
    return (*url_to_fs(address, **options), faults)
