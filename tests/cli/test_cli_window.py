"""`msp-ds runs` and `msp-ds info --fit` as a user sees them."""

from __future__ import annotations

from pathlib import Path

from command_line import refusal, run

from msp_ds.config import to_json, write_json
from msp_ds.training.checkpointing.run_folder import RUN_FILE
from msp_ds.training.options import RunOptions
from msp_ds.training.planning import new_config


def test_runs_lists_what_lies_in_a_folder(small_shards: Path, tmp_path: Path) -> None:
    run_folder = tmp_path / "runs" / "mine"
    run_folder.mkdir(parents=True)
    config = new_config(RunOptions(curriculum="tps", shards=str(small_shards)))
    write_json(run_folder / RUN_FILE, {"config": to_json(config)})
    shown = run("runs", tmp_path / "runs").stdout
    (line,) = [line for line in shown.splitlines() if "mine" in line]
    cells = [cell.strip() for cell in line.strip("│ ").split("│")]
    assert cells == ["mine", "tps", "tiny", "", "0 of ?", "stopped", "", "now"]


def test_a_folder_without_runs_is_refused(tmp_path: Path) -> None:
    assert refusal("runs", tmp_path).endswith("start one with: msp-ds train --curriculum tps")


def test_fit_shows_the_memory_of_a_preset_on_a_card() -> None:
    shown = run("info", "--fit", "--card", "titanx", "--batch-size", "256").stdout
    assert "Preset paper on GTX TITAN X, 12 GiB, fp16, ZeRO 0: a prediction" in shown
    for row in ("weights, gradients, moments", "activations of the batch", "largest micro batch", "pairs a second"):
        assert row in shown
    assert "256 x 20" in shown


def test_fit_takes_memory_peak_and_way_to_execute_from_flags() -> None:
    words = ("--memory-gb", "3", "--tflops", "20", "--ds-config", "ds_configs/zero2_offload.json", "--preset", "lxmert")
    shown = run("info", "--fit", "--card", "12gb", *words).stdout
    assert "Preset lxmert on a card of 12 GB, 3 GiB, bf16, ZeRO 2: a prediction" in shown
    assert "pairs a second" in shown


def test_an_unknown_card_is_refused_with_those_there_are() -> None:
    assert refusal("info", "--fit", "--card", "abacus").startswith("no card is called 'abacus'; cards are titanx")
