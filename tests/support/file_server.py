"""A local server of files, which fails as it is told to."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


@dataclass
class Server:
    """A folder behind an address, with faults on demand."""

    folder: Path
    address: str = ""
    ranges: bool = True
    requests: list[str] = field(default_factory=list)
    """`path` or `path@start` of each request."""
    change: Callable[[str, bytes], bytes] = lambda path, data: data
    """What is sent in the place of a file."""
    cut: Callable[[str, int], int | None] = lambda path, start: None
    """After how many bytes a reply to a request breaks off."""
    pause: float = 0.0


def handler(server: Server) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path = server.folder / self.path.lstrip("/")
            if not path.is_file():
                server.requests.append(self.path)
                self.send_error(404)
                return
            data, wanted = server.change(self.path, path.read_bytes()), self.headers.get("Range")
            start, end = 0, len(data)
            if wanted and server.ranges:
                first, _, last = wanted.removeprefix("bytes=").partition("-")
                start, end = int(first), min(int(last) + 1, len(data))
            server.requests.append(f"{self.path}@{start}")
            if start > len(data):
                self.send_error(416)
                return
            time.sleep(server.pause)
            body = data[start:end]
            self.send_response(206 if wanted and server.ranges else 200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            limit = server.cut(self.path, start)
            self.wfile.write(body if limit is None else body[:limit])
            if limit is not None:
                self.wfile.flush()
                self.connection.shutdown(socket.SHUT_RDWR)
                self.close_connection = True

        def log_message(self, *words: object) -> None:
            pass

    return Handler


@contextmanager
def serving(folder: Path) -> Iterator[Server]:
    """The folder behind an address as long as the block runs."""
    served = Server(folder)
    listening = ThreadingHTTPServer(("127.0.0.1", 0), handler(served))
    served.address = f"http://127.0.0.1:{listening.server_port}"
    thread = threading.Thread(target=listening.serve_forever, daemon=True)
    thread.start()
    yield served
    listening.shutdown()
    listening.server_close()
    thread.join()
