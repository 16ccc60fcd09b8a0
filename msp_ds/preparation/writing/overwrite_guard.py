"""Guards that keep a command from overwriting shard sets of other data or files that this program did not write."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import get_args

from msp_ds.data.format import set_layout as layout
from msp_ds.data.format.set_layout import Split
from msp_ds.data.format.shards import parse_index, read_index
from msp_ds.errors import InputError, ShardError
from msp_ds.preparation.recipe import Recipe
from msp_ds.storage.atomic_files import followed, require_own_files

_EARLIER_NAMES = {"look_alikes.npz"}  # of the hard negatives in sets of format version 1
_TABLES = frozenset(
    {layout.INDEX_NAME, *layout.NEEDED_FILES, layout.HARD_NEGATIVES_NAME, layout.QUESTIONS_NAME, layout.ANSWERS_NAME}
    | _EARLIER_NAMES
)
_TARS = re.compile(r"\d{6}\.tar")
_UNFINISHED = re.compile(r"(\d{6}|trial)\.tar(\.tmp|\.part|\.part\.tmp)?")
_WHAT, _FIX = "a shard set", "move it, or name another --out"


def require_own_sets(folder: Path, recipe: Recipe, *, fix: str) -> None:
    """Require that any sets of a stage in `folder` are of `recipe`, by their extractor.

    Raises: InputError that ends with `fix`; also for a set whose index is unreadable, which may be of any recipe.
    """
    for path in sorted(path for path in folder.glob("[!.]*") if path.is_dir()):
        try:
            found = f"the features of {read_index(path)[0].extractor!r}"
        except ShardError as error:
            found = f"a set that cannot be read ({error})"
        if found != f"the features of {recipe.extractor!r}":
            raise InputError(f"{path} holds {found}, which {recipe.extractor!r} would overwrite; {fix}")


def require_replaceable_sets(folder: Path) -> None:
    """Require that sets can be written as `folder/train`, `folder/val` and `folder/test` without loss of other files.

    Raises: InputError as require_replaceable_set, for splits that are one folder, and for folders that cannot be read.
    """
    targets = [folder / split for split in get_args(Split)]
    try:
        for above in (folder.parent, folder):
            followed(above)
        for target in targets:
            require_replaceable_set(target)
            _require_own_work(target)
    except OSError as error:
        raise InputError(f"{folder} cannot be read ({error.strerror}); name another --out") from None
    places = [followed(target).resolve() for target in targets]
    if len(set(places)) < len(places):
        raise InputError(f"two splits in {folder} are one folder, {max(places, key=places.count)}; remove one link")


def writing_folders(folder: Path) -> list[Path]:
    """Return the folders in which sets `folder/<split>` are replaced: `folder` and the targets of links, each once."""
    parents = [folder, *(followed(folder / split).parent for split in get_args(Split))]
    return list({parent.resolve(): parent for parent in reversed(parents)}.values())


def require_replaceable_set(target: Path) -> None:
    """Require that `target` is absent, empty or a set of this program.

    Raises: InputError naming a file that this program did not write, or a broken link.
    """
    folder = followed(target)
    require_own_files(folder, is_own=_names_of_set(folder), what=_WHAT, fix=_FIX)


def remove_set(target: Path) -> None:
    """Delete the set `target` and its work folder; a link is deleted with the set behind it.

    Raises: InputError for files that this program did not write.
    """
    require_replaceable_set(target)
    _require_own_work(target)
    for folder in (work_path(target), followed(target)):
        shutil.rmtree(folder, ignore_errors=True)
    if target.is_symlink():
        target.unlink()


def work_path(target: Path) -> Path:
    """Return the hidden folder in which a set is prepared, beside `target` or the folder behind a link."""
    folder = followed(target)
    return folder.with_name(f".{folder.name}.partial")


def _require_own_work(target: Path) -> None:
    require_own_files(work_path(target), is_own=is_unfinished, what=_WHAT, fix=_FIX)


def is_unfinished(name: str) -> bool:
    """Whether a file of this name may be in the work folder of a set."""
    return name in _TABLES or _UNFINISHED.fullmatch(name) is not None


def _names_of_set(folder: Path) -> Callable[[str], bool]:
    """Return a test of the file names of a set: its index and tables; none where the index is not of this program."""
    path = folder / layout.INDEX_NAME
    data = path.read_bytes() if path.is_file() else None
    # An index that is damaged from its start is still of this program if all tables are beside it.
    has_tables = all((folder / name).is_file() for name in layout.NEEDED_FILES)
    if data is None or (layout.FORMAT.encode() not in data[:100] and not has_tables):
        return lambda name: False
    try:
        index = parse_index(data, where=str(path), fix="")
    except ShardError:  # of another version, or damaged: only files with names of this program may be overwritten
        return lambda name: name in _TABLES or _TARS.fullmatch(name) is not None
    names = _TABLES | index.files.keys() | {shard.name for shard in index.shards}
    return names.__contains__
