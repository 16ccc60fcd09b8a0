"""import and export as a user meets them: what they print, one line for what cannot be, a real run's weights."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import refusal, run
from foreign_weights import FLAGS, a_stored_model, bert, hf_lxmert, lxmert_s, write_vocabulary
from small_world import files_below
from transformers import LxmertModel

from msp_ds.data.format.vocabulary import read_vocabulary

ROOT = Path(__file__).resolve().parents[2]


class Trap:
    """Code that runs where a pickle is read without care."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (pytest.fail, ("the file's code was run",))


def test_import_shows_what_went_where(tmp_path: Path) -> None:
    torch.save(lxmert_s(), tmp_path / "released.pth")
    words = write_vocabulary(tmp_path)
    flags = ["--from", "lxmert-s", "--vocab", words, "--out", tmp_path / "out"]
    result = run("import", tmp_path / "released.pth", *flags, *FLAGS)
    assert result.exit_code == 0, result.output
    assert "│ bert.encoder.x_layers.{k} " in result.stdout
    assert "│ backbone.layers.{k} " in result.stdout
    assert result.stdout.endswith(f"written to {tmp_path / 'out'}\n")


def test_import_lists_what_is_fresh_absent_and_left_out(tmp_path: Path) -> None:
    bert().save_pretrained(tmp_path / "bert")
    shown = run("import", tmp_path / "bert", "--from", "bert", "--out", tmp_path / "out", *FLAGS).stdout
    rows = [[cell.strip() for cell in line.strip("│").split("│")] for line in shown.splitlines() if "│" in line]
    assert ["", "backbone.regions.cls_feature", "fresh"] in rows
    assert ["", "heads.match", "absent"] in rows
    assert any(row[0] == "cls.seq_relationship.weight" and "it answers another" in shown for row in rows)
    assert "the 40 word pieces of these weights are not known" in shown


def test_the_words_of_bert_are_found_on_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = read_vocabulary(write_vocabulary(tmp_path / "cache"))
    monkeypatch.setattr("msp_ds.data.format.vocabulary.find_bert_vocabulary", lambda hf_home: here)
    torch.save(lxmert_s(), tmp_path / "released.pth")
    flags = ["--from", "lxmert-s", "--vocab", "bert-base-uncased", "--out", tmp_path / "out"]
    assert run("import", tmp_path / "released.pth", *flags, *FLAGS).exit_code == 0
    assert (tmp_path / "out" / "vocab.txt").read_bytes() == here.data


def state_dict(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], str]:
    """Writes a spoilt LXMERT-S checkpoint."""

    def write(folder: Path) -> str:
        weights = lxmert_s()
        change(weights)
        torch.save(weights, folder / "model.pth")
        return "model.pth"

    return write


def saved(content: object) -> Callable[[Path], str]:
    def write(folder: Path) -> str:
        torch.save(content, folder / "model.pth")
        return "model.pth"

    return write


def empty_folder(folder: Path) -> str:
    (folder / "empty").mkdir()
    return "empty"


BAD_SOURCES = {
    "unknown tensor": (state_dict(lambda weights: weights.update(odd=torch.ones(1))), "holds odd, which is no part of"),
    "missing tensor": (
        state_dict(lambda weights: weights.pop("bert.pooler_f.dense.bias")),
        "lacks bert.pooler_f.dense",
    ),
    "other shape": (
        state_dict(lambda weights: weights.update({"bert.pooler.dense.weight": torch.ones(32, 32)})),
        "bert.pooler.dense.weight is (32, 32) there, backbone.text_pooler.weight (64, 64) here",
    ),
    "list": (saved([1, 2]), "holds a list, not a table of tensors by name (a state dict)"),
    "code": (saved({"trap": Trap()}), "a pickle of other things, which is not run"),
    "text": (saved("x" * 100), "holds a str, not a table of tensors by name"),
    "empty folder": (empty_folder, "empty holds no weights"),
    "nothing": (lambda folder: "nothing.pth", "nothing.pth is missing"),
}


@pytest.mark.parametrize("case", BAD_SOURCES)
def test_a_source_that_cannot_be_used_is_one_line(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write, complaint = BAD_SOURCES[case]
    monkeypatch.chdir(tmp_path)
    words, source = write_vocabulary(tmp_path / "words"), write(tmp_path)
    before = files_below(tmp_path)
    line = refusal("import", source, "--from", "lxmert-s", "--out", "out", "--vocab", words, *FLAGS)
    assert complaint in line
    assert files_below(tmp_path) == before


def test_a_checkpoint_of_another_hidden_size_is_refused(tmp_path: Path) -> None:
    torch.save(lxmert_s(), tmp_path / "model.pth")
    words = write_vocabulary(tmp_path)
    line = refusal("import", tmp_path / "model.pth", "--from", "lxmert-s", "--out", tmp_path / "out", "--vocab", words)
    assert "is of another model" in line
    assert "(64,)" in line
    assert "name the model that fits with --preset or --set" in line


@pytest.mark.parametrize(("form", "model"), [("hf-lxmert", hf_lxmert), ("bert", bert)])
def test_a_folder_without_its_config_is_refused(tmp_path: Path, form: str, model: Callable[[], Any]) -> None:
    model().save_pretrained(tmp_path / "hf")
    (tmp_path / "hf" / "config.json").unlink()
    line = refusal("import", tmp_path / "hf", "--from", form, "--out", tmp_path / "out", *FLAGS)
    assert "hf has no config.json; name a folder as Hugging Face's save_pretrained writes it" in line


def test_a_weights_folder_without_its_config_is_refused(tmp_path: Path) -> None:
    folder = a_stored_model(tmp_path)
    (folder / "model.json").unlink()
    assert "weights holds no complete checkpoint" in refusal("export", folder, "--to", "hf", "--out", tmp_path / "out")


def test_a_setting_that_is_none_is_refused(tmp_path: Path) -> None:
    torch.save(lxmert_s(), tmp_path / "model.pth")
    words = ["import", tmp_path / "model.pth", "--from", "lxmert-s", "--out", tmp_path / "out"]
    assert "nothing is called that; model has" in refusal(*words, "--set", "colour=red")
    assert "no preset is called 'huge'" in refusal(*words, "--preset", "huge")


def test_export_says_what_it_wrote_and_where_the_forms_differ(tmp_path: Path) -> None:
    source = a_stored_model(tmp_path)
    shown = run("export", source, "--to", "hf", "--out", tmp_path / "hf").stdout
    assert "transformers has no visual [CLS]" in shown
    files = "README.md, config.json, model.json, model.safetensors, msp_ds.safetensors, "
    files += "special_tokens_map.json, tokenizer.json, tokenizer_config.json, vocab.txt"
    assert shown.endswith(f"written to {tmp_path / 'hf'}: {files}\n")
    line = refusal("export", source, "--to", "hf", "--out", tmp_path / "hf")
    assert "holds weights already; name another --out, or write over them with --overwrite" in line
    assert run("export", source, "--to", "hf", "--out", tmp_path / "hf", "--overwrite").exit_code == 0


def trained(*flags: object) -> None:
    """A training run in a process of its own."""
    command = [sys.executable, str(ROOT / "msp_ds" / "train.py"), *map(str, flags)]
    environment = {name: value for name, value in os.environ.items() if name not in ("RANK", "LOCAL_RANK")}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.full
@pytest.mark.slow
def test_a_runs_weights_leave_with_their_history_come_back_are_graded_and_train_on(
    small_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    short = ["--shards", small_shards, "--batch-size", "16", "--max-steps", "2"]
    trained("--curriculum", "ts", "--run-dir", "first", *short)
    graded = ["evaluate", "--shards", small_shards / "sentence" / "val", "--captions-per-image", "1", "--checkpoint"]
    assert run(*graded, "first").exit_code == 0
    for form in ("hf", "lxmert-s", "safetensors"):
        result = run("export", "first", "--to", form, "--out", form)
        assert result.exit_code == 0, result.output
        assert Path(form, "vocab.txt").read_bytes() == (small_shards / "token" / "train" / "vocab.txt").read_bytes()
    card = Path("hf", "README.md").read_text()
    assert "| token | mlm, mrfr, moc, ifrs | 8 x 16 | 2 |" in card
    assert "| sentence/train | 64 | 320 | tests |" in card
    assert "| accuracy/itm_hs |  | " in card
    assert "zero-shot retrieval (1 captions an image" in card
    assert "first, 2-sentence/step-00000002" in card
    assert str(tmp_path) not in card + Path("hf", "model.json").read_text()
    assert LxmertModel.from_pretrained("hf").config.x_layers == 2

    assert run("import", "hf", "--from", "hf-lxmert", "--out", "back").exit_code == 0
    assert run(*graded, "back").exit_code == 0
    grades = [json.loads(next(Path(place).glob("retrieval-*.json")).read_text()) for place in ("first", "back")]
    assert grades[0]["grades"] == grades[1]["grades"]
    trained("--curriculum", "s", "--run-dir", "second", "--init", "back", *short)
    assert (tmp_path / "second" / "1-sentence" / "stage.json").is_file()
