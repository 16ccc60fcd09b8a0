"""The table of an ablation: means and deviations by hand, missing seeds named, the paper's numbers beside ours."""

from __future__ import annotations

import csv
import io
import statistics
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from ablations import a_study
from rich.console import Console

from msp_ds.ablation.plan import plan_ablation
from msp_ds.ablation.plot import ablation_plot
from msp_ds.ablation.rows import PAPER, ROWS
from msp_ds.ablation.runner import METRICS, CommandResult
from msp_ds.ablation.table import (
    Cell,
    Grid,
    as_csv,
    as_markdown,
    grid_of,
    plan_table,
    plan_words,
    terminal_table,
    write_tables,
)
from msp_ds.errors import InputError

SEEDS = {1: 40.0, 2: 42.0, 3: 47.0}


def a_grid(*, rows: str = "s,tps,spt", seeds: tuple[int, ...] = (1, 2, 3)) -> Grid:
    """Three seeds are planned and these came through, with ZS-IR as in SEEDS and ZS-TR ten above."""
    plan = plan_ablation(a_study(rows=rows, seeds=(1, 2, 3)))
    nodes = {
        f"seed-{seed}/zero-shot-retrieval/t30_p30_s30": CommandResult(
            seconds=1.0, grades={"ZS-IR": SEEDS[seed], "ZS-TR": SEEDS[seed] + 10}, note="a note"
        )
        for seed in seeds
    }
    return grid_of(plan, nodes)


def shown(thing: object) -> str:
    console = Console(width=220, record=True, file=io.StringIO(), force_terminal=True)
    console.print(thing)
    return console.export_text(styles=True)


def test_a_cell_is_mean_and_deviation_over_seeds() -> None:
    cell = a_grid().cells["tps", "ZS-IR"]
    assert cell.values == (40.0, 42.0, 47.0)
    assert cell.mean == 43.0
    assert cell.deviation == pytest.approx(((9 + 1 + 16) / 2) ** 0.5)
    assert cell.text() == "43.0 ± 3.6"


def test_the_caption_explains_the_deviation() -> None:
    assert a_grid().caption.startswith("percent, mean ± standard deviation over 3 seeds; each row 90 optimiser steps")
    single = grid_of(plan_ablation(a_study(rows="s", setting=("heads=carried",))), {}).caption
    assert single.startswith("percent, one seed; each row 90 optimiser steps of preset tiny in all")
    assert "set: heads=carried" in single


def test_one_seed_has_no_deviation_and_missing_ones_are_counted() -> None:
    assert Cell(values=(40.0,), planned=1).text() == "40.0"
    assert a_grid(seeds=(1, 2)).cells["tps", "ZS-IR"].text() == "41.0 ± 1.4 (2 of 3)"
    assert a_grid().cells["s", "ZS-IR"].text() == "missing"
    assert a_grid().cells["spt", "ZS-IR"].text() == "–"


def test_the_terminal_shows_the_papers_numbers_in_grey() -> None:
    text = shown(terminal_table(a_grid()))
    assert "43.0 ± 3.6" in text
    assert "\x1b[90m63.01\x1b[0m" in text
    assert "missing" in text
    assert a_grid().caption.endswith("; a note")


def test_markdown_has_a_line_a_row() -> None:
    lines = as_markdown(a_grid()).splitlines()
    assert lines[0] == "| stages | tasks | ZS-IR | ZS-TR |"
    assert lines[2:5] == [
        "| S | all | missing | missing |",
        "| T → P → S | all | 43.0 ± 3.6 <sub>63.01</sub> | 53.0 ± 3.6 <sub>68.6</sub> |",
        "| S → P → T | all | – | – |",
    ]


def test_csv_has_the_values_of_every_seed() -> None:
    rows = list(csv.DictReader(io.StringIO(as_csv(a_grid()))))
    assert len(rows) == 6
    full = next(row for row in rows if (row["row"], row["column"]) == ("tps", "ZS-TR"))
    assert full["values"] == "50.0000 52.0000 57.0000"
    assert [full[name] for name in ("mean", "deviation", "seeds", "planned", "paper")] == [
        "53.0000",
        "3.6056",
        "3",
        "3",
        "68.6",
    ]
    assert [rows[0][name] for name in ("mean", "seeds", "planned")] == ["", "0", "3"]


def test_the_plot_has_a_dot_for_every_seed_and_mean_within_its_panel() -> None:
    svg = "{http://www.w3.org/2000/svg}"
    drawing = ET.fromstring(ablation_plot(a_grid()))
    dots = {kind: [e for e in drawing.iter(f"{svg}circle") if e.get("class") == kind] for kind in ("seed", "mean")}
    assert (len(dots["seed"]), len(dots["mean"])) == (6, 2)
    places = [float(dot.attrib["cx"]) for dot in dots["seed"][:3]]
    # The scale is linear: 42 lies two sevenths of the way from 40 to 47.
    assert (places[1] - places[0]) / (places[2] - places[0]) == pytest.approx(2 / 7, abs=0.01)
    texts = [element.text for element in drawing.iter(f"{svg}text")]
    assert {"63.01", "68.6", "missing", "–", "ZS-IR, %"} <= set(texts)


def test_an_empty_plot_is_still_a_drawing() -> None:
    assert ET.fromstring(ablation_plot(a_grid(rows="s"))).tag.endswith("svg")


def test_the_papers_numbers_are_of_rows_and_columns_that_exist_and_agree_with_its_tables_2_and_3() -> None:
    columns = {column for names in METRICS.values() for column in names}
    assert PAPER.keys() <= {row.name for row in ROWS}
    assert all(numbers.keys() <= columns for numbers in PAPER.values())
    full, less = PAPER["tps"], PAPER["tps-titp"]
    recalls = {"ZS-IR": (42.42, 68.7, 77.92), "IR": (57.9, 83, 88.7), "ZS-TR": (49, 75, 81.8), "TR": (64.6, 87.5, 90.4)}
    for column, three in recalls.items():
        assert full[column] == pytest.approx(statistics.fmean(three), abs=0.03), column
    # Section 4.6: what TITP is worth.
    gains = {"VQA": 0.09, "GQA": 0.4, "NLVR2": 0.24, "IR": 0.48, "ZS-TR": 0.83}
    assert {name: round(full[name] - less[name], 2) for name in gains} == gains


def test_tables_are_written_beside_each_other(tmp_path: Path) -> None:
    files = write_tables(a_grid(), tmp_path, plot="<svg/>")
    assert [file.name for file in files] == ["table_4.csv", "table_4.md", "table_4.svg"]
    assert files[2].read_text() == "<svg/>"
    with pytest.raises(InputError, match="cannot be written"):
        write_tables(a_grid(), tmp_path / "nowhere", plot="")


def test_the_plan_shows_the_runs_of_each_row() -> None:
    text = shown(plan_table(plan_ablation(a_study(rows="none,spt,tps-titp,s-itm_hs"))))
    assert "t30 → p30-titp → s30" in text
    assert "s30 → p30 → t30" in text
    assert "s90-itm_hs" in text


def test_the_plan_shows_its_size_and_the_known_time() -> None:
    plan = plan_ablation(a_study(rows="tps,tps-titp", benchmarks=("zero-shot-retrieval", "vqa")))
    lines = plan_words(plan, {}, set()).splitlines()
    assert lines == [
        "rows 2, seeds 1, 90 steps a row with preset tiny: 5 × pre-train, 2 × evaluate zero-shot-retrieval, "
        "2 × fine-tune vqa, 2 × evaluate vqa.",
        "150 optimiser steps of pre-training, 180 if no runs were shared.",
        "Still to do: 11 of 11, time unknown before some have run.",
    ]
    timed = {"seed-1/t30": CommandResult(seconds=9.0), "seed-1/vqa-grades/t30_p30_s30": CommandResult(seconds=5.0)}
    # Runs of 30 steps cost 90 units, 9 s; those of 120 steps 180 units, 18 s: 4 x 9 + 2 x 18 + 3 x 5.
    assert plan_words(plan, timed, set(timed)).endswith("Still to do: 9 of 11, time about 87 s.")
