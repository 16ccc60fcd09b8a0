"""Whose shard sets lie in a folder, so that nobody's are lost to a command that was meant for others."""

from __future__ import annotations

from pathlib import Path

from msp_ds.data.recipe import Recipe
from msp_ds.data.shards import read_index
from msp_ds.errors import InputError, ShardError


def require_own_sets(folder: Path, recipe: Recipe, *, mend: str) -> None:
    """Demand that the sets of a stage in `folder`, if there are any, are of `recipe`, as their extractor tells.

    Raises: InputError that ends with `mend`; also for a set whose index is unreadable, which may be anybody's.
    """
    for path in sorted(path for path in folder.glob("[!.]*") if path.is_dir()):
        try:
            found = f"the features of {read_index(path)[0].extractor!r}"
        except ShardError:
            found = "a set that cannot be read"
        if found != f"the features of {recipe.extractor!r}":
            raise InputError(f"{path} holds {found}, which {recipe.extractor!r} would be written over; {mend}")
