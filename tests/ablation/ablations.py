"""A small study for the tests of ablations, and a fake of the commands that it runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from msp_ds.ablation.plan import Study
from msp_ds.ablation.rows import chosen_rows
from msp_ds.config import write_json


def a_study(out: Path = Path("out"), *, rows: str | None = None, **changes: Any) -> Study:
    """Ninety steps a row, one seed, zero-shot retrieval; 10, 20 and 30 batches an epoch of t, p and s."""
    values: dict[str, Any] = {
        "out": out,
        "shards": Path("shards"),
        "preset": "tiny",
        "rows": chosen_rows(rows),
        "seeds": (1,),
        "benchmarks": ("zero-shot-retrieval",),
        "steps": 90,
        "batches": {"token": 10, "phrase": 20, "sentence": 30},
        "fine_tuning": {"vqa": 120, "retrieval": 200},
    }
    return Study(**{**values, **changes})


class Pretender:
    """Writes the files of the commands; a command with one of the words `failing` fails."""

    def __init__(self, *, failing: str = "nothing fails") -> None:
        self.failing = failing
        self.commands: list[str] = []

    def __call__(self, words: Sequence[str], log_file: Path) -> int:
        line = " ".join(words)
        self.commands.append(line)
        if self.failing in line:
            log_file.write_text("a warning\nerror: the disk is full\nbye\n")
            return 2
        flags = dict(zip(words[1::2], words[2::2], strict=False))
        if words[0] == "evaluate":
            leave_grades(Path(flags["--out"]), flags["--task"])
        else:
            stage = {"t": "token", "p": "phrase", "s": "sentence"}.get(flags.get("--curriculum", ""), "vqa")
            leave_run(Path(flags["--run-dir"]), stage, steps=int(flags.get("--max-steps", 120)))
        return 0


def leave_run(folder: Path, stage: str, *, steps: int) -> None:
    """A finished run of one stage with a whole checkpoint of no files."""
    checkpoint = folder / f"1-{stage}" / "checkpoints" / f"step-{steps:08d}"
    checkpoint.mkdir(parents=True)
    write_json(folder / "run.json", {})
    write_json(checkpoint / "manifest.json", {"step": steps, "files": {}, "state": {}, "loss_scale": None})
    write_json(folder / f"1-{stage}" / "stage.json", {"steps": steps, "checkpoint": checkpoint.name})


def leave_grades(folder: Path, task: str) -> None:
    """What an evaluation writes: means of 40 and 50 in retrieval, an accuracy of 60."""
    ways = {
        "image_retrieval": {"recall_1": 20.0, "recall_5": 40.0, "recall_10": 60.0},
        "text_retrieval": {"recall_1": 30.0, "recall_5": 50.0, "recall_10": 70.0},
    }
    answers = {"accuracy": {"percent": 60.0}, "lookup": {"percent": 55.0}}
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "graded-predictions.json", [])
    write_json(folder / "graded.json", {"grades": ways if "retrieval" in task else answers})
