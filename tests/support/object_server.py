"""A folder behind http://, s3:// and gs:// addresses on this machine, with faults on demand.

Only what reading needs of S3 (path-style GET) and of Google's storage (download of an object), unsigned.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

_GOOGLE = "/download/storage/v1/b/"
_NO_SUCH_KEY = b'<?xml version="1.0"?><Error><Code>NoSuchKey</Code><Message>not there</Message></Error>'


@dataclass
class Served:
    """What is served and how."""

    folder: Path
    address: str = ""
    change: Callable[[str, bytes], bytes] = lambda path, data: data
    """What is sent in the place of a file, by its path below the folder."""
    cut: Callable[[str], int | None] = lambda path: None
    """After how many bytes a reply breaks off."""
    refused: int = 0
    """A status that every request gets instead of an answer."""
    requests: list[str] = field(default_factory=list)


@contextmanager
def serving(folder: Path) -> Iterator[Served]:
    """The first part of a path is the bucket: http://HOST/a/b is s3://a/b and gs://a/b."""
    served = Served(folder)
    listening = ThreadingHTTPServer(("127.0.0.1", 0), _handler(served))
    served.address = f"http://127.0.0.1:{listening.server_port}"
    thread = threading.Thread(target=listening.serve_forever, daemon=True)
    thread.start()
    try:
        yield served
    finally:
        listening.shutdown()
        listening.server_close()
        thread.join()


def _handler(served: Served) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path = _plain(self.path)
            served.requests.append(path)
            file = served.folder / path
            if served.refused or not file.is_file():
                self._answer(served.refused or 404, _NO_SUCH_KEY)
                return
            data, status = served.change(path, file.read_bytes()), 200
            if wanted := self.headers.get("Range"):
                first, _, last = wanted.removeprefix("bytes=").partition("-")
                data, status = data[int(first) : int(last) + 1], 206
            self._answer(status, data, cut=served.cut(path))

        do_HEAD = do_GET

        def _answer(self, status: int, data: bytes, *, cut: int | None = None) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data[:cut] if self.command == "GET" else b"")
            if cut is not None:
                self.wfile.flush()
                self.connection.shutdown(socket.SHUT_RDWR)
                self.close_connection = True

        def log_message(self, *words: object) -> None:
            pass

    return Handler


def _plain(target: str) -> str:
    """`bucket/key` of a request in either dialect."""
    path = urlsplit(target).path
    if path.startswith(_GOOGLE):
        bucket, _, key = path.removeprefix(_GOOGLE).partition("/o/")
        return f"{bucket}/{unquote(key)}"
    return unquote(path).lstrip("/")
