"""Folders found by a file in them."""

import os
from collections.abc import Iterator
from pathlib import Path


def folders_with(name: str, path: Path) -> Iterator[Path]:
    """Yield the folders at or below `path` that hold a file `name`, each once; links are followed, hidden ones not."""
    seen: set[str] = set()
    for folder, below, files in os.walk(path, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            below.clear()  # a link to a folder above would be followed without end
            continue
        seen.add(real)
        below[:] = sorted(one for one in below if not one.startswith("."))
        if name in files:
            yield Path(folder)
