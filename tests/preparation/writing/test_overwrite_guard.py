"""Nobody is told to write the demo's world over sets of their own, and the command does not do it either."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from raw_files import RawFolder, snapshot

from msp_ds.data.format.set_layout import DEMO_EXTRACTOR, fix_command
from msp_ds.data.format.shards import open_set
from msp_ds.errors import InputError
from msp_ds.preparation.recipe import Recipe, load_recipe
from msp_ds.preparation.writing.overwrite_guard import require_own_sets
from msp_ds.preparation.writing.shard_building import build_shards

DEMO = Path(__file__).resolve().parents[3] / "shards" / "demo.toml"


def test_only_the_demo_is_fixed_by_the_command_without_a_recipe() -> None:
    again = "write it again with: msp-ds shard --stage token"
    assert fix_command("token", load_recipe(DEMO).extractor) == again
    for extractor in ("", "bottom-up attention"):  # an unreadable index may be of any set
        assert fix_command("token", extractor) == f"{again} --recipe FILE, or the flags it was written with"


def test_sets_of_another_extractor_are_not_written_over(raw: RawFolder, tmp_path: Path) -> None:
    demo, mine = Recipe(extractor=DEMO_EXTRACTOR), dataclasses.replace(raw.recipe, extractor="mine")
    out = tmp_path / "shards" / "token"
    require_own_sets(out, demo, fix="go away")
    build_shards(mine, stage="token", out=out.parent)
    require_own_sets(out, mine, fix="go away")
    with pytest.raises(
        InputError, match=r"token/train holds the features of 'mine', which 'msp-ds make-demo-data' .*; go away$"
    ):
        require_own_sets(out, demo, fix="go away")


FOREIGN = {
    "a file in the way of a set": "token/train/photo.jpg",
    "a folder in the way of a split that becomes empty": "token/val/photos/x.jpg",
    "tars of somebody else": "token/test/000000.tar",
    "a file where a set goes": "token/train",
    "a file among unfinished tars": "token/.train.partial/notes.txt",
}


@pytest.mark.parametrize("name", FOREIGN.values(), ids=FOREIGN)
def test_what_this_program_did_not_write_stays_and_is_named(raw: RawFolder, tmp_path: Path, name: str) -> None:
    file = tmp_path / "shards" / name
    file.parent.mkdir(parents=True)
    file.write_text("precious")
    named = file.parent if file.parent.name == "photos" else file
    with pytest.raises(InputError, match=f"^{named} does not belong to a shard set and would be deleted; move it"):
        build_shards(raw.recipe, stage="token", out=tmp_path / "shards")
    assert snapshot(tmp_path / "shards") == {name: b"precious"}


@pytest.mark.parametrize(
    "index", [None, b"{", b'{"format": "msp-ds shards", "version": 1, "st', b'{"format": "msp-ds shards"}']
)
def test_a_set_is_rewritten_even_with_a_damaged_index_but_never_with_a_foreign_file(
    raw: RawFolder, tmp_path: Path, index: bytes | None
) -> None:
    build_shards(raw.recipe, stage="token", out=tmp_path)
    train = tmp_path / "token" / "train"
    written = snapshot(train)
    if index is not None:
        (train / "index.json").write_bytes(index)
    (train / "notes.txt").write_text("precious")
    with pytest.raises(InputError, match=r"train/notes.txt does not belong to a shard set"):
        build_shards(raw.recipe, stage="token", out=tmp_path)
    (train / "notes.txt").unlink()
    build_shards(raw.recipe, stage="token", out=tmp_path)
    assert snapshot(train) == written


def linked(folder: Path, elsewhere: Path) -> Path:
    """The folder moved elsewhere, with a link in its place."""
    folder.rename(elsewhere)
    folder.symlink_to(elsewhere)
    return folder


def test_sets_behind_links_are_replaced_and_their_links_stay(raw: RawFolder, tmp_path: Path) -> None:
    held_out = dataclasses.replace(raw.recipe, holdout=2)
    build_shards(held_out, stage="token", out=tmp_path)
    train = linked(tmp_path / "token" / "train", tmp_path / "big")
    linked(tmp_path / "token" / "val", tmp_path / "small")
    linked(tmp_path / "token", tmp_path / "stage")
    build_shards(raw.recipe, stage="token", out=tmp_path)
    assert (train.is_symlink(), (tmp_path / "token").is_symlink()) == (True, True)
    assert open_set(tmp_path / "big").index.num_images == 6
    # The images that were held out are trained on: nobody may take them for held out any more.
    assert sorted(path.name for path in tmp_path.iterdir()) == ["big", "raw", "stage", "token"]
    assert [path.name for path in (tmp_path / "stage").iterdir()] == ["train"]


def test_links_that_lead_nowhere_or_to_one_folder_are_refused(raw: RawFolder, tmp_path: Path) -> None:
    (tmp_path / "token").symlink_to("gone")
    with pytest.raises(InputError, match=r"token is a link to .*/gone, which is not a folder; make that folder"):
        build_shards(raw.recipe, stage="token", out=tmp_path)
    (tmp_path / "token").unlink()
    (tmp_path / "token").mkdir()
    train, val = tmp_path / "token" / "train", tmp_path / "token" / "val"
    train.symlink_to(tmp_path / "gone")
    with pytest.raises(InputError, match=r"train is a link to .*/gone, which is not a folder"):
        build_shards(raw.recipe, stage="token", out=tmp_path)
    val.symlink_to(tmp_path / "gone")
    (tmp_path / "gone").mkdir()
    with pytest.raises(InputError, match=r"two splits in .*token are one folder, .*/gone"):
        build_shards(raw.recipe, stage="token", out=tmp_path)
    assert list((tmp_path / "gone").iterdir()) == []


def test_an_out_that_no_file_system_can_hold_is_refused_in_one_line(raw: RawFolder, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot be read \(File name too long\); name another --out"):
        build_shards(raw.recipe, stage="token", out=tmp_path / ("x" * 256))
