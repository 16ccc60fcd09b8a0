"""Small files and numbers of a user are read, or one line says why not."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command_line import refusal

from msp_ds.config import OptimConfig, StageSchedule, TaskOptions, from_json, read_json
from msp_ds.data.format.shards import open_set
from msp_ds.data.format.text import load_labels
from msp_ds.data.format.vocabulary import read_vocabulary
from msp_ds.data.loading.reader import Reader
from msp_ds.data.remote.blocks import block_source
from msp_ds.demo_world import make_world
from msp_ds.errors import InputError
from msp_ds.evaluation.ranking import choose_pool
from msp_ds.preparation.overlap import audit
from msp_ds.preparation.region_features.region_files import list_region_files
from msp_ds.preparation.verifying.verification import find_sets
from msp_ds.report.pages.explain import read_pool
from msp_ds.storage.small_files import MOST_BYTES, is_plain_name, parse_json

READERS: dict[str, Callable[[Path], Any]] = {
    "json": lambda path: read_json(path, what="a test"),
    "vocabulary": read_vocabulary,
    "labels": load_labels,
    "captions": read_pool,
}


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
def test_files_that_are_not_regular_or_have_no_end_are_refused(tmp_path: Path, read: Callable[[Path], Any]) -> None:
    os.mkfifo(tmp_path / "fifo")
    with (tmp_path / "large").open("wb") as file:
        file.truncate(MOST_BYTES + 1)  # a hole: it takes no disk
    for path, why in (("fifo", "not a regular file"), ("large", "67,108,865 bytes"), (".", "it is a folder")):
        with pytest.raises(InputError, match=f"{why}"):
            read(tmp_path / path)
    with pytest.raises(InputError, match="not a regular file"):
        read(Path("/dev/zero"))


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("[" * 100_000, "nested too deeply"),
        ('{"a": {"b": 1, "b": 2}}', "the key 'b' comes twice"),
        ("[NaN]", "NaN is not a JSON number"),
        ("[-Infinity]", "-Infinity is not a JSON number"),
        ("[1e400]", "1e400 is beyond the range of float64"),
        ("9" * 5000, "limit"),
        ("{", "line 1 column 2"),
    ],
)
def test_json_that_would_be_misread_or_break_the_reader_is_refused(text: str, fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        parse_json(text)


def test_a_byte_order_mark_is_no_part_of_a_text(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"\xef\xbb\xbf[1]")
    assert read_json(tmp_path / "a", what="a test") == [1]
    (tmp_path / "a").write_bytes(b"\xef\xbb\xbfred\nblue\n")
    assert load_labels(tmp_path / "a") == (("red",), ("blue",))
    (tmp_path / "a").write_bytes(b"\xef\xbb\xbf[PAD]\n")
    with pytest.raises(InputError, match="starts with a byte order mark"):
        read_vocabulary(tmp_path / "a")


def test_only_names_that_stay_in_their_folder_are_plain() -> None:
    assert is_plain_name("000000.tar")
    assert is_plain_name("é" * 127)
    for name in ("", ".", "..", "../a", "/etc/passwd", "a/b", "a\0b", "a/", "é" * 128):
        assert not is_plain_name(name), name


@pytest.mark.parametrize(
    "read",
    [
        lambda name: list_region_files((f"{name}.tsv",)),
        lambda name: open_set(find_sets([Path(name)])[0]),
        lambda name: audit([name], [name]),
        lambda name: make_world(Path(name), images=1, seed=0),
    ],
)
def test_a_path_that_cannot_even_be_looked_at_is_one_line(read: Callable[[str], Any]) -> None:
    with pytest.raises(InputError, match=r"is missing|cannot be read|cannot be written"):
        read("x" * 256)


@pytest.mark.parametrize("number", [float("inf"), float("nan"), -float("inf"), 10**30])
def test_no_setting_takes_a_number_that_is_none(number: float) -> None:
    for build in (
        lambda: OptimConfig(lr=number),
        lambda: OptimConfig(betas=(0.9, number)),
        lambda: TaskOptions(weights={"mlm": number}),
        lambda: StageSchedule(epochs=number, batch_size=1),  # type: ignore[arg-type]
        lambda: from_json(dict[str, float], {"a": number if number != 10**30 else 10**400}, where="here"),
    ):
        with pytest.raises(InputError, match=r"is not a finite number|does not fit into 64 bits|is not positive"):
            build()


FLAGS = {
    "--stall-timeout inf": "--stall-timeout inf is not in 0 to",
    "--stall-timeout nan": "--stall-timeout nan is not in 0 to",
    "--stall-timeout=-1": "--stall-timeout -1.0 is not in 0 to",
    "--stall-timeout 1e300": "--stall-timeout 1e+300 is not in 0 to",
    "--lr inf": "lr: inf is not a finite number",
    "--lr nan": "lr: nan is not a finite number",
    "--set weights.mlm=1e400": "--set weights.mlm",
    "--set weights.mlm=NaN": "--set weights.mlm",
    "--set optim.clip_norm=Infinity": "--set optim.clip_norm",
    "--set moc_target=" + "[" * 2000: "--set moc_target: its values are nested too deeply",
    "--batch-size 1000000000000000000000000000000": "batch_size: the number does not fit into 64 bits",
    "--max-steps 1000000000000000000000000000000": "max_steps: the number does not fit into 64 bits",
    "--seed 1000000000000000000000000000000": "seed: the number does not fit into 64 bits",
    "--epochs t=1e9": "--epochs t=1e9 is not understood",
    "--epochs " + "9" * 5000: "--epochs 999999999999999999... is not a number that fits",
    "--micro-batch " + "9" * 5000: "--micro-batch 999999999999999999... is not a number that fits",
    "--cache-limit inf": "--cache-limit inf is not in 0 to",
    "--cache-limit nan": "--cache-limit nan is not in 0 to",
    "--ds-config /dev/zero": "not a regular file",
    "--shards {a,b}": "--shards {a,b} stands for 2 folders",
}


OTHERS = {
    "make-demo-data --out new --images 5 --feature-width 1000000000000": "at most 65536, not 1000000000000",
    "info --fit --tflops inf": "--tflops inf is no card's",
    "info --fit --memory-gb nan": "--memory-gb nan is no card's",
    "info --fit --card " + "9" * 400 + "gb": "no card is called",
    "finetune --task vqa --from-scratch --subset nan": "--subset nan is not a fraction",
    "verify new --cache-limit nan": "--cache-limit nan is not in 0 to",
    "audit --train /dev/zero --eval /dev/zero": "it is not a regular file",
}


@pytest.mark.parametrize(("words", "fault"), OTHERS.items(), ids=[words[:30] for words in OTHERS])
def test_no_command_takes_a_number_or_a_file_without_end(words: str, fault: str) -> None:
    assert fault in refusal(*words.split())


def test_an_image_has_no_more_captions_than_it_has(small_shards: Path) -> None:
    reader = Reader(open_set(small_shards / "sentence" / "val"))
    assert choose_pool(reader, captions_per_image=10**30).captions.tolist() == choose_pool(reader).captions.tolist()


def test_a_set_cannot_name_the_cache_of_its_tars(small_shards: Path, tmp_path: Path) -> None:
    folder = tmp_path / "shards" / "sentence" / "train"
    shutil.copytree(small_shards / "sentence" / "train", folder)
    note = {"address": "https://nowhere/shards", "cache": str(tmp_path / "photos"), "limit": 1, "kept": 0}
    (folder / "by_block.json").write_text(json.dumps(note))
    with pytest.raises(InputError, match=r"by_block.json names .*photos, which is not the cache that it lies in"):
        block_source([open_set(folder)])


@pytest.mark.parametrize("name", ["../train/000000.tar", "..", "/etc/passwd", "a\0"])
@pytest.mark.parametrize("by_block", [False, True])
def test_a_set_may_not_name_files_outside_its_folder(
    small_shards: Path, tmp_path: Path, name: str, by_block: bool
) -> None:
    folder = tmp_path / "sentence" / "train"
    shutil.copytree(small_shards / "sentence" / "train", folder)
    index = json.loads((folder / "index.json").read_text())
    index["shards"][0]["name"] = name
    (folder / "index.json").write_text(json.dumps(index))
    if by_block:
        (folder / "by_block.json").write_text("{}")
    with pytest.raises(InputError, match=r"index.json lists .* which is not a plain file name"):
        open_set(folder)


@pytest.mark.parametrize(("words", "fault"), FLAGS.items(), ids=[words[:30] for words in FLAGS])
def test_a_flag_that_no_run_can_have_is_one_line(words: str, fault: str, small_shards: Path, tmp_path: Path) -> None:
    shards = [] if words.startswith("--shards") else ["--shards", small_shards]
    message = refusal("train", *shards, "--run-dir", tmp_path / "run", *words.split())
    assert fault in message
    assert not (tmp_path / "run").exists()
