"""Every row of the paper's Table 4 is a command line, and docs/curricula.md shows it."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_line import refusal, run

from msp_ds.config import TaskOptions
from msp_ds.training.options import RunOptions
from msp_ds.training.planning import preset_config, with_flags

ROOT = Path(__file__).resolve().parents[2]
COMMON = "mlm, mrfr, moc"
T, P, S = f"{COMMON}, ifrs", f"{COMMON}, titp", f"{COMMON}, tits, itm_hs"
ROWS: list[tuple[str, dict[str, str]]] = [
    ("--curriculum s", {"sentence": S}),
    ("--curriculum s --drop itm_hs", {"sentence": f"{COMMON}, tits"}),
    ("--curriculum s --drop itm_hs --drop tits", {"sentence": COMMON}),
    ("--curriculum s --drop tits --set itm_negatives=random", {"sentence": f"{COMMON}, itm_hs"}),
    ("--curriculum ts", {"token": T, "sentence": S}),
    ("--curriculum ts --drop ifrs", {"token": COMMON, "sentence": S}),
    ("--curriculum ps", {"phrase": P, "sentence": S}),
    ("--curriculum ps --drop titp", {"phrase": COMMON, "sentence": S}),
    ("--curriculum tps", {"token": T, "phrase": P, "sentence": S}),
    ("--curriculum tps --drop titp", {"token": T, "phrase": COMMON, "sentence": S}),
    ("--curriculum spt", {"sentence": S, "phrase": P, "token": T}),
    ("--curriculum pts", {"phrase": P, "token": T, "sentence": S}),
    ("--curriculum t+p+s", {"token+phrase+sentence": f"{COMMON}, ifrs, titp, tits, itm_hs"}),
]
"""The rows of Table 4 that train, in its words: `-` is --drop, ITM is ITM_HS with random images."""


def shown(words: str) -> list[tuple[str, str]]:
    """(stage, tasks) of each row that `msp-ds stages` prints, in order."""
    lines = run("stages", "--preset", "paper", *words.split()).stdout.splitlines()
    cells = [[cell.strip() for cell in line.split("│")[1:3]] for line in lines if line.startswith("│")]
    return [(stage, tasks) for stage, tasks in cells]


@pytest.mark.parametrize(("words", "stages"), ROWS)
def test_a_row_of_table_4_is_a_command_line(words: str, stages: dict[str, str]) -> None:
    assert shown(words) == list(stages.items())


def test_itm_is_itm_hs_with_random_images() -> None:
    words = next(words for words, _ in ROWS if "--set" in words)
    assert "set: itm_negatives=random" in run("stages", *words.split()).stdout
    config = preset_config("paper", RunOptions())
    changed = with_flags(config, RunOptions(settings=(words.split()[-1],)))
    assert config.tasks == TaskOptions(itm_negatives="hard")
    assert changed.tasks == TaskOptions(itm_negatives="random")


def test_the_documentation_shows_every_row() -> None:
    page = (ROOT / "docs" / "curricula.md").read_text(encoding="utf-8")
    for words, _ in ROWS:
        assert f"`{words}`" in page or f"`{words.removeprefix('--curriculum ')}`" in page, words


def test_a_setting_that_training_would_refuse_is_refused_here_too() -> None:
    assert "'some' is none of masked, all" in refusal("stages", "--set", "moc_target=some")
    assert "no stage is called 's'" in refusal("stages", "--preset", "paper", "--set", "heads_of.s=carried")
