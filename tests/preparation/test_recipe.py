"""Recipes."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from msp_ds.errors import InputError
from msp_ds.preparation import recipe as recipe_module
from msp_ds.preparation.recipe import Recipe, WorldRecipe, ensure_world, load_recipe, recipe_with

ROOT = Path(__file__).resolve().parents[2]


def test_a_recipe_is_what_its_file_says(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text(
        'regions = ["a.tsv", "vg:b.tsv"]\nholdout = 3\nallow_missing = true\n[max_tokens]\nphrase = 40\n'
        '[world]\nout = "w"\nimages = 9\n'
    )
    expected = Recipe(
        regions=("a.tsv", "vg:b.tsv"),
        holdout=3,
        allow_missing=True,
        max_tokens={"phrase": 40},
        world=WorldRecipe(out="w", images=9),
    )
    recipe = load_recipe(tmp_path / "a.toml")
    assert recipe == expected
    assert [recipe.max_tokens_of(stage) for stage in ("token", "phrase", "sentence")] == [64, 40, 20]


@pytest.mark.parametrize("name", ["demo.toml", "coco_vg.toml"])
def test_the_recipes_of_the_project_load(name: str) -> None:
    assert load_recipe(ROOT / "shards" / name).regions


def test_what_the_coco_recipe_offers_to_exclude_can_be_switched_on(tmp_path: Path) -> None:
    text = (ROOT / "shards" / "coco_vg.toml").read_text()
    for line in ('exclude = ["karpathy-val"', "splits = ["):
        assert text.count(f"# {line}") == 1
        text = text.replace(f"# {line}", line)
    (tmp_path / "a.toml").write_text(text)
    recipe = load_recipe(tmp_path / "a.toml")
    assert recipe.exclude == ("karpathy-val", "karpathy-test", "minival")
    assert [Path(name).name for name in recipe.splits] == ["dataset_coco.json", "mscoco_minival.json"]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("region = []", "unknown key region; known are regions,"),
        ('regions = "a.tsv"', r"regions: expected a list, got 'a.tsv'"),
        ('holdout = "many"', "holdout: expected int, got 'many'"),
        ("holdout = -1", "holdout -1 is negative"),
        ('preset = "huge"', "preset 'huge' is not one of paper, small, tiny"),
        ("[max_tokens]\nword = 20", "max_tokens word = 20: sets are token, phrase, sentence"),
        ("[max_tokens]\ntoken = 2", "max_tokens token = 2"),
        ("[world]\nout = 'w'", "world: missing key images"),
        ("regions = [", "is not valid TOML"),
    ],
)
def test_a_wrong_recipe_is_refused_with_its_file(tmp_path: Path, text: str, fault: str) -> None:
    (tmp_path / "a.toml").write_text(text)
    with pytest.raises(InputError, match=f"a.toml.* {fault}|a.toml.*{fault}"):
        load_recipe(tmp_path / "a.toml")


def test_brace_patterns_stand_for_several_files_in_recipes_and_flags(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text(
        'regions = ["vg:f/{08..10}.tsv"]\n[benchmarks.vqa]\nquestions = ["{train,val}.json"]'
    )
    recipe = recipe_with(load_recipe(tmp_path / "a.toml"), {"captions": ["{a,b}.json#test", "c.json"]})
    assert recipe.regions == ("vg:f/08.tsv", "vg:f/09.tsv", "vg:f/10.tsv")
    assert recipe.captions == ("a.json#test", "b.json#test", "c.json")
    assert recipe.benchmarks["vqa"].questions == ("train.json", "val.json")
    own_name = tmp_path / "{a,b}.tsv"
    own_name.touch()
    assert Recipe(regions=(str(own_name),)).regions == (str(own_name),)
    names = tuple(f"{number:04}.tsv" for number in range(100))  # as a pattern longer than a file name can be
    assert Recipe(regions=(f"{{{','.join(names)}}}",)).regions == names


@pytest.mark.parametrize(
    ("pattern", "fault"),
    [
        ("{a,b.tsv", "{a,b.tsv is not a brace pattern"),
        ("{0..999999999999}.tsv", "stands for more than 100,000 paths"),
        ("{0..999}{0..999}.tsv", "stands for more than 100,000 paths"),
    ],
)
def test_a_pattern_that_is_none_or_never_ends_is_refused(pattern: str, fault: str) -> None:
    with pytest.raises(InputError, match=re.escape(fault)):
        Recipe(phrases=(pattern,))


HOSTILE = {
    "nested": (b"regions = " + b"[" * 100_000, "nested too deeply"),
    "no text": (b'extractor = "\xff"', "it is not UTF-8 text"),
    "infinite": (b"least = 1\nholdout = inf", "unknown key least"),
    "beyond 64 bits": (b"holdout = 99999999999999999999", "holdout: the number does not fit into 64 bits"),
    "a key twice": (b"holdout = 1\nholdout = 2", "is not valid TOML"),
}


@pytest.mark.parametrize(("content", "fault"), HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_recipe_is_one_line(tmp_path: Path, content: bytes, fault: str) -> None:
    (tmp_path / "a.toml").write_bytes(content)
    with pytest.raises(InputError, match=f"a.toml.*{fault}"):
        load_recipe(tmp_path / "a.toml")


def test_a_recipe_may_start_with_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text("\ufeffholdout = 5")
    assert load_recipe(tmp_path / "a.toml") == Recipe(holdout=5)


def test_a_missing_recipe_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a.toml cannot be read .* see shards/"):
        load_recipe(tmp_path / "a.toml")


def test_flags_change_a_recipe_or_make_one() -> None:
    base = Recipe(regions=("a.tsv",), holdout=3)
    assert recipe_with(base, {"captions": ["b.json"]}) == Recipe(regions=("a.tsv",), captions=("b.json",), holdout=3)
    assert recipe_with(None, {"holdout": 5}) == Recipe(holdout=5)
    with pytest.raises(InputError, match="holdout -1 is negative"):
        recipe_with(base, {"holdout": -1})


def test_a_world_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Path] = []

    def make_world(out: Path, **numbers: int) -> None:
        made.append(out)
        out.mkdir()
        numbers.pop("advance")
        (out / "world.json").write_text(json.dumps({"format": "msp-ds world", "version": 2, **numbers}))

    monkeypatch.setattr(recipe_module, "make_world", make_world)
    world = WorldRecipe(out=str(tmp_path / "w"), images=9)
    for _ in range(2):
        ensure_world(world, advance=lambda images: None)
    assert made == [tmp_path / "w"]


def test_another_world_in_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "world.json").write_text('{"seed": 1, "images": 9, "feature_width": 64, "version": 2}')
    world = WorldRecipe(out=str(tmp_path), images=9, feature_width=64)
    with pytest.raises(InputError, match=r"holds another world .*\"seed\": 1.* than the recipe's"):
        ensure_world(world, advance=lambda images: None)


def test_a_world_of_an_older_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "world.json").write_text('{"seed": 0, "images": 9, "feature_width": 64, "version": 1}')
    with pytest.raises(InputError, match=r"holds another world .*remove the folder"):
        ensure_world(WorldRecipe(out=str(tmp_path), images=9, feature_width=64), advance=lambda images: None)
