"""Nobody is told to write the demo's world over sets of their own, and the command does not do it either."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from raw_files import RawFolder

from msp_ds.data.overwriting import require_own_sets
from msp_ds.data.recipe import Recipe, load_recipe
from msp_ds.data.set_layout import DEMO_EXTRACTOR, mending
from msp_ds.data.writing.shard_building import build_shards
from msp_ds.errors import InputError

DEMO = Path(__file__).resolve().parents[2] / "shards" / "demo.toml"


def test_only_the_demo_is_mended_by_the_command_without_a_recipe() -> None:
    again = "write it again with: msp-ds shard --stage token"
    assert mending("token", load_recipe(DEMO).extractor) == again
    for extractor in ("", "bottom-up attention"):  # an index that cannot be read may be anybody's
        assert mending("token", extractor) == f"{again} --recipe FILE, or the flags it was written with"


def test_sets_of_another_extractor_are_not_written_over(raw: RawFolder, tmp_path: Path) -> None:
    demo, mine = Recipe(extractor=DEMO_EXTRACTOR), dataclasses.replace(raw.recipe, extractor="mine")
    out = tmp_path / "shards" / "token"
    require_own_sets(out, demo, mend="go away")
    build_shards(mine, stage="token", out=out.parent)
    require_own_sets(out, mine, mend="go away")
    with pytest.raises(
        InputError, match=r"token/train holds the features of 'mine', which 'msp-ds world' .*; go away$"
    ):
        require_own_sets(out, demo, mend="go away")
