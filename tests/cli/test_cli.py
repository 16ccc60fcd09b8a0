"""Each command explains itself, and what a user can get wrong with raw files is one line that says where."""

from __future__ import annotations

import base64
import dataclasses
import json
import re
import shutil
import tomllib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import typer
from command_line import refusal, run
from small_world import files_below

import msp_ds.train
from msp_ds.cli import app, training_commands
from msp_ds.data.format.set_layout import STAGE_NAMES
from msp_ds.demo_world import make_world
from msp_ds.presets import PRESETS
from msp_ds.training.options import RunOptions

COMMANDS = sorted(typer.main.get_group(app).commands)


@pytest.fixture(scope="module")
def made_world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six images; shared, so to be read only."""
    folder = tmp_path_factory.mktemp("six") / "world"
    make_world(folder, images=6, seed=1, feature_width=16)
    return folder


@pytest.fixture
def here(made_world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with the raw files of six images in ./world, to be spoilt."""
    shutil.copytree(made_world, tmp_path / "world")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def shard(stage: str, **changes: str) -> list[str]:
    """The flags that write a stage of ./world."""
    flags = {
        "regions": "world/regions.tsv",
        "captions": "world/captions.json",
        "phrases": "world/region_descriptions.json",
        "image-data": "world/image_data.json",
        "objects-vocab": "world/objects_vocab.txt",
        "attributes-vocab": "world/attributes_vocab.txt",
        "vocab": "trained",
    }
    flags |= {name.replace("_", "-"): value for name, value in changes.items()}
    return ["shard", "--stage", stage, *(word for name, value in flags.items() for word in (f"--{name}", value))]


def change_row(number: int, change: Callable[[list[bytes]], list[bytes]]) -> str:
    """Changes the columns of row `number`, from 1, of the TSV; returns its image id."""
    path = Path("world/regions.tsv")
    lines = path.read_bytes().splitlines()
    columns = lines[number - 1].split(b"\t")
    lines[number - 1] = b"\t".join(change(columns))
    path.write_bytes(b"\n".join(lines) + b"\n")
    return columns[0].decode()


def change_array(number: int, column: int, dtype: str, change: Callable[[np.ndarray], np.ndarray]) -> str:
    """Changes the array in a column, from 0, of row `number`."""

    def changed(columns: list[bytes]) -> list[bytes]:
        array = change(np.frombuffer(base64.b64decode(columns[column]), dtype).copy())
        return [*columns[:column], base64.b64encode(array.tobytes()), *columns[column + 1 :]]

    return change_row(number, changed)


def refused_shards(stage: str = "sentence", **changes: str) -> str:
    """The error of writing a stage; nothing may be left of the attempt."""
    before = files_below(Path.cwd())
    line = refusal(*shard(stage, **changes))
    assert files_below(Path.cwd()) == before
    return line


def first_at(array: np.ndarray, value: float) -> np.ndarray:
    array[0] = value
    return array


def test_the_list_of_commands_says_what_each_does() -> None:
    shown = run("--help").stdout
    assert COMMANDS == [
        "ablate",
        "answer",
        "audit",
        "demo",
        "evaluate",
        "explain",
        "export",
        "finetune",
        "hard-negatives",
        "import",
        "info",
        "inspect",
        "make-demo-data",
        "predict",
        "regions",
        "replay",
        "runs",
        "search",
        "shard",
        "stages",
        "train",
        "verify",
    ]
    for name in COMMANDS:
        assert re.search(rf"^  {name} +[A-Z].{{20,}}", shown, re.MULTILINE), name


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_a_command_says_what_each_flag_does(name: str) -> None:
    result = run(name, "--help")
    assert result.exit_code == 0
    for parameter in typer.main.get_group(app).commands[name].params:
        if not getattr(parameter, "hidden", False):
            assert getattr(parameter, "help", None), f"{name}: {parameter.name} has no help"


def test_without_a_command_the_help_is_shown() -> None:
    assert "Start with: msp-ds demo" in " ".join(run().output.split())


def test_a_command_that_works_says_what_it_wrote(here: Path) -> None:
    result = run(*shard("sentence", holdout="2"))
    assert result.exit_code == 0
    assert re.match(r"shards/sentence/train: 4 images, 20 texts", result.stdout)
    assert "every byte as written" in run("verify", "shards/sentence/train").stdout
    assert "coco-" in run("inspect", "shards/sentence/val").stdout
    assert run("inspect", "shards/sentence/val", "--html", "val.html").stdout == "val.html: open it in a browser\n"
    assert Path("val.html").read_text().startswith("<!doctype html>")


def test_any_number_of_jobs_writes_the_same_shards(here: Path) -> None:
    assert run(*shard("token", out="one"), "--jobs", 1).exit_code == 0
    result = run(*shard("token", out="three"), "--jobs", 3)
    assert re.search(r"three/token: 6 images, 6 texts to write: \d+ kB of .* free, about 0 s", result.stderr)
    for path in Path("one").rglob("*.*"):
        assert path.read_bytes() == (Path("three") / path.relative_to("one")).read_bytes()


def test_a_missing_regions_file_is_named(here: Path) -> None:
    line = refused_shards(regions="nowhere.tsv")
    assert line.startswith("nowhere.tsv ")


@pytest.mark.parametrize("flag", ["captions", "objects_vocab", "attributes_vocab", "vocab", "hard_negatives"])
def test_any_other_missing_file_is_named(here: Path, flag: str) -> None:
    assert "nowhere" in refused_shards(**{flag: "nowhere"})


def test_a_row_that_is_cut_off_is_named_with_its_place(here: Path) -> None:
    data = Path("world/regions.tsv").read_bytes()
    lines = data.splitlines(keepends=True)
    Path("world/regions.tsv").write_bytes(b"".join(lines[:5]) + lines[5][:200])
    line = refused_shards()
    assert line.startswith(f"world/regions.tsv row 6 (byte {sum(map(len, lines[:5]))})")
    assert "cut off" in line


def test_an_array_of_a_wrong_length_is_named_with_both_lengths(here: Path) -> None:
    change_array(3, 8, "<f4", lambda boxes: boxes[:-1])
    line = refused_shards()
    assert line.startswith("world/regions.tsv row 3 ")
    assert "column boxes holds 572 bytes instead of 576 bytes for 36 boxes" in line


def test_broken_base64_is_named(here: Path) -> None:
    change_row(2, lambda columns: [*columns[:9], columns[9][:-3]])
    line = refused_shards()
    assert line.startswith("world/regions.tsv row 2 ")
    assert "column features is broken base64" in line


def test_an_image_id_that_is_none_is_named(here: Path) -> None:
    change_row(4, lambda columns: [b"holiday.jpg", *columns[1:]])
    line = refused_shards()
    assert line.startswith("world/regions.tsv row 4 ")
    assert "holiday.jpg" in line


def test_a_caption_of_an_unknown_image_is_named_with_the_way_to_leave_it_out(here: Path) -> None:
    value = json.loads(Path("world/captions.json").read_text())
    value["annotations"].append({"id": 999, "image_id": 424242, "caption": "Nobody saw this."})
    Path("world/captions.json").write_text(json.dumps(value))
    line = refused_shards()
    assert line.startswith("1 of 7 images with texts have no regions, the first is coco-424242;")
    assert "--allow-missing" in line
    assert run(*shard("sentence"), "--allow-missing").exit_code == 0


@pytest.mark.parametrize(("column", "kind"), [(3, "object"), (5, "attribute")])
def test_a_label_outside_the_vocabulary_is_named(here: Path, column: int, kind: str) -> None:
    change_array(5, column, "<i8", lambda ids: first_at(ids, 31999))
    line = refused_shards("token")
    assert line.startswith("world/regions.tsv row 5 ")
    assert f"{kind} id 31999 of region 0 is outside the {kind} vocabulary of " in line


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e6])
def test_a_feature_that_is_no_finite_half_is_named(here: Path, value: float) -> None:
    change_array(6, 9, "<f4", lambda features: first_at(features, value))
    line = refused_shards("token")
    assert line.startswith("world/regions.tsv row 6 ")
    assert "feature 0 of region 0 is" in line


@pytest.mark.parametrize("text", ["", "{", "{}", "[]", '{"annotations": []}'])
def test_a_file_without_captions_is_named(here: Path, text: str) -> None:
    Path("world/captions.json").write_text(text)
    assert refused_shards().startswith("world/captions.json ")


def test_an_image_that_comes_twice_is_named(here: Path) -> None:
    lines = Path("world/regions.tsv").read_bytes().splitlines(keepends=True)
    _, _, rest = lines[1].partition(b"\t")
    Path("world/regions.tsv").write_bytes(b"".join([*lines, lines[0].partition(b"\t")[0] + b"\t" + rest]))
    assert "comes twice" in refused_shards()


def test_damaged_rows_are_left_out_when_told_and_counted(here: Path) -> None:
    Path("world/regions.tsv").write_bytes(Path("world/regions.tsv").read_bytes()[:-100])
    assert refused_shards().endswith("leave out and list such rows with --on-error skip")
    result = run(*shard("sentence"), "--on-error", "skip")
    assert result.exit_code == 0
    assert "rows skipped 1" in result.stdout


def test_a_holdout_of_everything_is_refused(here: Path) -> None:
    assert refused_shards(holdout="6").startswith("a holdout of 6 leaves nothing of 6 images")


def test_a_recipe_that_does_not_exist_is_named(here: Path) -> None:
    assert refusal("shard", "--stage", "token", "--recipe", "mine.toml").startswith("mine.toml cannot be read")


def test_a_failed_attempt_leaves_the_old_set_as_it_was(here: Path) -> None:
    assert run(*shard("token")).exit_code == 0
    before = {path: path.read_bytes() for path in Path("shards").rglob("*") if path.is_file()}
    change_array(6, 9, "<f4", lambda features: first_at(features, np.nan))
    refused_shards("token")
    assert {path: path.read_bytes() for path in Path("shards").rglob("*") if path.is_file()} == before


def test_debug_shows_the_traceback_instead(here: Path) -> None:
    result = run(*shard("token", regions="nowhere.tsv"), "--debug")
    assert result.exit_code == 1
    assert type(result.exception).__name__ == "InputError"


@pytest.mark.parametrize("command", ["inspect", "verify"])
def test_a_folder_without_shards_names_the_command_that_writes_them(here: Path, command: str) -> None:
    assert "write them with: msp-ds shard --stage token" in refusal(command, "shards/token/train")


def test_verify_names_the_image_with_a_changed_byte(here: Path) -> None:
    run(*shard("token"))
    tar = Path("shards/token/train/000000.tar")
    data = bytearray(tar.read_bytes())
    data[len(data) // 2] ^= 1
    tar.write_bytes(data)
    result = run("verify", "shards/token/train", "--jobs", "1")
    head, fault, fix = result.stdout.splitlines()
    assert (result.exit_code, head) == (1, "shards/token/train: 1 fault among 6 images in 1 tars")
    assert re.match(r"shards/token/train/000000.tar, coco-\d+ at byte \d+: the bytes do not match", fault)
    assert fix == "write it again with: msp-ds shard --stage token --recipe FILE, or the flags it was written with"
    assert run("verify", "--quick", "shards").exit_code == 0


def test_verify_takes_a_folder_of_sets(here: Path) -> None:
    run(*shard("sentence", holdout="2"))
    lines = run("verify", "shards").stdout.splitlines()
    assert [line.split(":")[0] for line in lines] == ["shards/sentence/train", "shards/sentence/val"]
    Path("shards/sentence/val/index.json").write_text("{")
    result = run("verify", "shards")
    assert result.exit_code == 2
    assert result.stdout.startswith("shards/sentence/train: 4 images in 1 tars, every byte as written")
    assert result.stderr.startswith("error: shards/sentence/val/index.json is not valid JSON")


def test_hard_negatives_are_added_to_a_finished_set_or_written_as_a_list(here: Path) -> None:
    run(*shard("sentence"))
    report = run("hard-negatives", "--shards", "shards/sentence/train", "--count", "3", "--attach").stdout
    assert report == (
        "6 images with up to 3 hard negatives; 6 of the 6 images of shards/sentence/train have some now\n"
    )
    assert run("verify", "shards/sentence/train").exit_code == 0
    report = run("hard-negatives", "--regions", "world/regions.tsv", "--out", "list.npz").stdout
    assert report == "6 images with up to 5 hard negatives in list.npz\n"
    assert run(*shard("sentence", hard_negatives="list.npz")).exit_code == 0


def test_a_pickle_that_would_run_something_is_refused_in_one_line(here: Path) -> None:
    Path("hard_negative.pkl").write_bytes(b"cos\nsystem\n(S'touch ran'\ntR.")
    line = refusal("hard-negatives", "--import", "hard_negative.pkl", "--out", "list.npz")
    assert line == "hard_negative.pkl needs os.system, which no list needs; nothing of it was run"
    assert not Path("ran").exists()
    assert not Path("list.npz").exists()


def test_a_world_is_not_written_over_other_files(here: Path) -> None:
    Path("mine").mkdir()
    Path("mine/thesis.tex").write_text("ten years of work")
    assert "is not a demo world" in refusal("make-demo-data", "--out", "mine", "--images", "2")
    assert files_below(Path("mine")) == {"thesis.tex"}


def test_a_text_with_brackets_is_shown_as_it_is(here: Path) -> None:
    assert refused_shards(regions="[bold]nowhere.tsv").startswith("[bold]nowhere.tsv ")


@pytest.mark.parametrize("command", ["info", "stages"])
def test_an_unknown_preset_is_refused_with_those_there_are(command: str) -> None:
    known = "paper, small, tiny, lxmert, single-stream, tiny-lxmert, tiny-single-stream"
    assert refusal(command, "--preset", "huge") == f"no preset is called 'huge'; presets are {known}"


def test_stages_shows_what_would_be_trained() -> None:
    shown = run("stages", "--curriculum", "t+p+s", "--drop", "ifrs").stdout
    assert "token+phrase+sentence" in shown
    assert "ifrs" not in shown


def test_stages_takes_the_preset_that_training_on_the_shards_would_take(small_shards: Path) -> None:
    shown = run("stages", "--shards", small_shards).stdout
    assert shown.startswith("Curriculum, preset tiny  ")
    rows = PRESETS["tiny"].schedule
    assert [int(epochs) for epochs in re.findall(r"(\d+) x 64", shown)] == [rows[name].epochs for name in STAGE_NAMES]
    shown = run("stages", "--shards", small_shards, "--epochs", "t=9", "--batch-size", "8").stdout
    assert re.findall(r"\d+ x \d+", shown) == ["9 x 8", "4 x 8", f"{rows['sentence'].epochs} x 8"]
    assert run("stages", "--shards", small_shards, "--preset", "small").stdout.startswith("Curriculum, preset small  ")


def test_stages_without_shards_says_that_it_shows_the_papers() -> None:
    shown = run("stages", "--shards", "nowhere", "--epochs", "2").stdout
    assert shown.startswith("Curriculum, preset paper (no shards for stage token in nowhere)")
    assert re.findall(r"\d+ x \d+", shown) == ["2 x 64", "2 x 128", "2 x 128"]


def test_the_demo_recipe_is_not_written_over_the_sets_of_another(here: Path) -> None:
    assert run(*shard("token", extractor="my detector")).exit_code == 0
    before = files_below(here)
    line = refusal("shard", "--stage", "token")
    assert line.startswith("shards/token/train holds the features of 'my detector', which 'msp-ds make-demo-data' ")
    assert "--recipe shards/demo.toml" in line
    assert "name another folder with --shards" in refusal("demo")
    Path("shards/token/train/index.json").write_text("{")
    assert "shards/token/train holds a set that cannot be read" in refusal("shard", "--stage", "token")
    assert files_below(here) == before
    assert run(*shard("token", extractor="another")).exit_code == 0  # flags say what is wanted


def test_a_demo_that_could_not_be_graded_is_refused_before_it_trains(here: Path) -> None:
    Path("mine.toml").write_text((Path(__file__).parents[2] / "shards" / "demo.toml").read_text().replace("300 ", "0 "))
    assert refusal("demo", "--recipe", "mine.toml").startswith("mine.toml holds out no images")


def test_fine_tuning_takes_the_flags_of_pre_training(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[RunOptions] = []
    for module in (msp_ds.train, training_commands):
        monkeypatch.setattr(module, "start", started.append)
    flags = ["--save-total-limit", "5", "--stall-timeout", "7", "--stop-after-nan", "4", "--micro-batch", "auto"]
    for command in (["train"], ["finetune", "--task", "vqa", "--from-scratch"]):
        assert run(*command, *flags).exit_code == 0
    common = RunOptions(save_total_limit=5, stall_timeout=7.0, stop_after_nan=4, micro_batch="auto")
    tuned = dataclasses.replace(common, task="vqa", curriculum="vqa", from_scratch=True)
    assert started == [common, tuned]
    assert refusal("finetune", "--task", "vqa", "--from-scratch", "--stall-timeout", "-1") == (
        "--stall-timeout -1.0 is not in 0 to 527040 minutes; 0 never ends a run"
    )


def test_the_version_is_that_of_pyproject() -> None:
    written = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))
    result = run("--version")
    assert (result.exit_code, result.stdout) == (0, f"msp-ds {written['project']['version']}\n")
    assert msp_ds.__version__ == written["project"]["version"]
