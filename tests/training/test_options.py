"""A field of the options is a flag, a key of --config FILE and a value that the run gets."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from msp_ds.config import to_json, write_json
from msp_ds.errors import InputError
from msp_ds.train import as_command
from msp_ds.training.checkpointing.run_folder import RUN_FILE
from msp_ds.training.config_file import build_options
from msp_ds.training.options import RunOptions, option
from msp_ds.training.planning import new_config, resumed_config


def of_file(path: Path, text: str, **flags: object) -> RunOptions:
    """The options of a file with this text, and of flags beside it."""
    path.write_text(text)
    return build_options(RunOptions, flags, path=path)


@dataclass(frozen=True, kw_only=True)
class MoreOptions(RunOptions):
    """The options with one more field."""

    sampling: float | None = option("Ratio of the pairs to draw. [all]")


def test_a_new_option_is_one_field(tmp_path: Path) -> None:
    seen: list[float | None] = []

    def train(options: MoreOptions) -> None:
        seen.append(options.sampling)

    train.__annotations__["options"] = MoreOptions
    app = typer.Typer(rich_markup_mode=None)
    app.command()(as_command(train))
    (tmp_path / "a.toml").write_text("sampling = 0.5")
    shown = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "200"}).stdout
    assert "Ratio of the pairs to draw. [all]" in shown
    for words in ([], ["--sampling", "0.25"], ["--config", f"{tmp_path}/a.toml"]):
        assert CliRunner().invoke(app, words).exit_code == 0
    assert CliRunner().invoke(app, ["--config", f"{tmp_path}/a.toml", "--sampling", "0.1"]).exit_code == 0
    assert seen == [None, 0.25, 0.5, 0.1]


def test_a_file_holds_flags_by_their_names_and_flags_win(tmp_path: Path) -> None:
    text = (
        'curriculum = "ts"\nlr = 1\nepochs = 6\nbatch-size = 8\nrun_dir = "a"\ncompile = true\nset = ["moc_target=all"]'
    )
    written = RunOptions(
        curriculum="ts",
        lr=1.0,
        epochs="6",
        batch_size=8,
        run_dir=Path("a"),
        settings=("moc_target=all",),
        compiles=True,
    )
    assert of_file(tmp_path / "a.toml", text) == written
    assert of_file(tmp_path / "a.json", '{"drop": ["mlm"], "few-shot": 3}') == RunOptions(drop=("mlm",), max_pairs=3)
    flags = {"lr": 0.5, "drop": ["moc"], "settings": ["heads=carried"], "seed": None}
    changed = {"lr": 0.5, "drop": ("moc",), "settings": ("moc_target=all", "heads=carried")}
    assert of_file(tmp_path / "a.toml", text, **flags) == dataclasses.replace(written, **changed)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "a.toml",
            "lrr = 1.0",
            "a.toml: lrr is not an option of this command; its options are curriculum, task, shards",
        ),
        ("a.toml", 'lr = "fast"', "a.toml: lr: expected float, got 'fast'"),
        ("a.toml", "resume = 1", "a.toml: resume: expected bool, got 1"),
        ("a.toml", 'drop = "mlm"', "a.toml: drop: expected a list, got 'mlm'"),
        ("a.toml", 'length-buckets = "some"', "a.toml: length-buckets: 'some' is none of auto, on, off"),
        ("a.toml", "run-dir = 3", "a.toml: run-dir: expected str, got 3"),
        ("a.toml", "lr", "a.toml is not valid TOML"),
        ("a.json", "{", "a.json is not valid JSON"),
        ("a.json", "[]", "a.json holds no table of options"),
        ("a.json", '{"config": {"curriculum": 3}}', "a.json: config: missing key"),
    ],
)
def test_a_wrong_file_is_one_line_with_key_and_file(tmp_path: Path, name: str, text: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        of_file(tmp_path / name, text)
    assert message in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none.toml cannot be read"):
        build_options(RunOptions, {}, path=tmp_path / "none.toml")


@pytest.mark.parametrize(
    "options",
    [
        RunOptions(),
        RunOptions(
            curriculum="ts",
            preset="small",
            lr=0.25,
            seed=5,
            epochs="t=2,s=3",
            batch_size=16,
            drop=("mlm",),
            settings=("moc_target=all", 'weights={"moc": 2}', "model.topic_head=plain", "optim.betas=[0.5, 0.75]"),
        ),
    ],
)
def test_a_runs_own_file_starts_the_same_run_and_agrees_with_it(
    small_shards: Path, tmp_path: Path, options: RunOptions
) -> None:
    config = new_config(dataclasses.replace(options, shards=str(small_shards)))
    write_json(tmp_path / RUN_FILE, {"config": to_json(config), "execution": {}})
    read = build_options(RunOptions, {}, path=tmp_path / RUN_FILE)
    assert json.dumps(to_json(new_config(read))) == json.dumps(to_json(config))
    assert resumed_config(tmp_path, read) == config


def test_a_file_cannot_hold_what_the_command_does_not_have(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text("subset = 0.1\n")
    with pytest.raises(InputError, match=r"a.toml: subset is not an option of this command; its options are lr$"):
        build_options(RunOptions, {}, path=path, known=["lr"])


def test_an_empty_start_is_refused() -> None:
    with pytest.raises(InputError, match="--init is empty; name a run"):
        RunOptions(init="")


def test_a_flag_replaces_the_option_of_a_file_that_it_excludes(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text('init = "runs/tps"\nfew-shot = 64\n')
    assert build_options(RunOptions, {"from_scratch": True, "subset": 0.1}, path=path) == RunOptions(
        from_scratch=True, subset=0.1
    )
    assert build_options(RunOptions, {"lr": 0.1}, path=path) == RunOptions(init="runs/tps", max_pairs=64, lr=0.1)
