"""The plan of Table 4 by hand: which runs rows share, how steps are divided, which command each node is."""

from __future__ import annotations

from pathlib import Path

import pytest
from ablations import a_study
from test_table_4 import ROWS as COMMAND_LINES

from msp_ds.ablation.plan import (
    START_STEPS,
    Node,
    chosen_benchmarks,
    even_split,
    plan_ablation,
    seconds_for,
)
from msp_ds.ablation.rows import ROWS, chosen_rows
from msp_ds.errors import InputError


def trained(rows: str | None, **changes: object) -> list[str]:
    """The pre-training runs of a plan."""
    return [node.name for node in plan_ablation(a_study(rows=rows, **changes)).nodes if node.kind == "pre-train"]


def test_every_command_line_of_table_4_is_a_row() -> None:
    rows = {(row.curriculum, row.drop, row.setting) for row in ROWS}
    for line, _ in COMMAND_LINES:
        words = line.split()
        flags = list(zip(words[::2], words[1::2], strict=True))
        dropped, settings = (tuple(value for flag, value in flags if flag == name) for name in ("--drop", "--set"))
        assert (dict(flags)["--curriculum"], dropped, settings) in rows, line
    assert len(ROWS) == len(COMMAND_LINES) + 1  # without pre-training, which no line trains


def test_steps_are_divided_evenly_and_the_first_stages_take_the_rest() -> None:
    assert even_split(90, num_stages=1) == [90]
    assert even_split(90, num_stages=3) == [30, 30, 30]
    assert even_split(92, num_stages=3) == [31, 31, 30]


def test_rows_with_the_same_first_stages_share_those_runs() -> None:
    assert trained("tps,tps-titp") == [
        "seed-1/t30",
        "seed-1/t30_p30",
        "seed-1/t30_p30_s30",
        "seed-1/t30_p30-titp",
        "seed-1/t30_p30-titp_s30",
    ]
    plan = plan_ablation(a_study(rows="tps,tps-titp"))
    assert (sum(node.steps for node in plan.nodes), plan.unshared) == (150, 180)


def test_stages_of_other_lengths_or_tasks_are_not_shared() -> None:
    assert trained("ts,ts-ifrs,tps")[:5] == [
        "seed-1/t45",
        "seed-1/t45_s45",
        "seed-1/t45-ifrs",
        "seed-1/t45-ifrs_s45",
        "seed-1/t30",
    ]


def test_seeds_share_nothing() -> None:
    assert trained("s", seeds=(1, 2)) == ["seed-1/s90", "seed-2/s90"]


def test_every_row_has_the_same_steps() -> None:
    for row in ROWS[1:]:
        plan = plan_ablation(a_study(rows=row.name, steps=91))
        assert sum(node.steps for node in plan.nodes) == plan.unshared == 91, row.name


def test_a_stage_is_a_command_that_starts_from_the_run_before() -> None:
    first, second = plan_ablation(a_study(Path("out"), rows="ts-ifrs")).nodes[:2]
    common = "--preset tiny --shards shards --seed 1 --run-dir"
    assert " ".join(first.words) == (
        f"train --curriculum t --max-steps 45 --epochs 5 --save-total-limit 1 --drop ifrs {common} out/seed-1/t45-ifrs"
    )
    # 45 steps of 30 batches an epoch need two epochs; no task of stage s is dropped.
    assert " ".join(second.words) == (
        "train --curriculum s --max-steps 45 --epochs 2 --save-total-limit 1 --init out/seed-1/t45-ifrs "
        f"{common} out/seed-1/t45-ifrs_s45"
    )
    assert second.after == first.name


def test_a_mix_counts_the_batches_of_all_of_its_parts() -> None:
    (node,) = plan_ablation(a_study(rows="t+p+s", benchmarks=())).nodes
    assert node.words[1:6] == ("--curriculum", "t+p+s", "--max-steps", "90", "--epochs")
    assert (node.words[6], node.stage) == ("2", "token+phrase+sentence")  # 90 steps of 60


def test_only_a_model_with_a_matching_task_in_its_last_stage_ranks_without_fine_tuning() -> None:
    cells = plan_ablation(a_study()).cells
    graded = {row for (row, _), evaluations in cells.items() if evaluations}
    assert graded == {row.name for row in ROWS} - {"none", "s-itm_hs", "s-itm_hs-tits", "spt"}
    assert cells["tps", "zero-shot-retrieval"] == ("seed-1/zero-shot-retrieval/t30_p30_s30",)


def test_a_benchmark_is_fine_tuned_and_then_graded_also_without_pre_training() -> None:
    plan = plan_ablation(a_study(rows="none,s", benchmarks=("vqa",), fine_tuning_limit=40))
    scratch, graded, pre_trained, tuned, _ = plan.nodes
    assert (scratch.name, graded.name) == ("seed-1/vqa40/none", "seed-1/vqa40-grades/none")
    assert scratch.words[:6] == ("finetune", "--task", "vqa", "--max-steps", "40", "--from-scratch")
    assert "--init out/seed-1/s90" in " ".join(tuned.words)
    assert (graded.after, tuned.after, tuned.steps) == (scratch.name, pre_trained.name, 40)
    assert plan.cells["none", "vqa"] == (graded.name,)


def test_settings_hold_for_all_runs_of_their_kind() -> None:
    options = {"setting": ("heads=carried",), "fine_tuning_setting": ("optim.lr=0.001",), "benchmarks": ("vqa",)}
    pre_trained, tuned, graded = (" ".join(n.words) for n in plan_ablation(a_study(rows="s:itm", **options)).nodes)
    assert "--drop tits --set heads=carried --set itm_negatives=random" in pre_trained
    assert "--set optim.lr=0.001" in tuned
    assert "--set" not in graded


def test_an_evaluation_of_fewer_pairs_is_another_evaluation() -> None:
    node = plan_ablation(a_study(rows="s", images=50)).nodes[-1]
    assert node.name == "seed-1/zero-shot-retrieval-50xall/s90"
    assert " ".join(node.words).endswith("shards/sentence/val --images 50 --out out/" + node.name)


def test_time_is_estimated_from_nodes_that_ran() -> None:
    def run(name: str, *, steps: int) -> Node:
        return Node(name=name, kind="pre-train", words=(), after=None, stage="sentence", steps=steps)

    short, long = run("a", steps=40), run("b", steps=40 + 3 * (40 + START_STEPS) - 40 - START_STEPS)
    graded = Node(name="c", kind="evaluate vqa", words=(), after="a", benchmark="vqa")
    every = (short, long, graded)
    assert seconds_for([long], {}, every=every) is None
    assert seconds_for([long], {"a": 10.0}, every=every) == pytest.approx(10 * long.work / short.work)
    assert seconds_for([graded], {"a": 10.0}, every=every) is None
    assert seconds_for([graded, long], {"a": 10.0, "c": 7.0}, every=(*every,)) == pytest.approx(
        7 + 10 * long.work / short.work
    )


def test_what_is_unknown_is_refused_with_what_is_known() -> None:
    assert [row.name for row in chosen_rows("tps, s")] == ["s", "tps"]
    with pytest.raises(InputError, match="no row 'tp'; rows are none, s, s-itm_hs"):
        chosen_rows("s,tp")
    with pytest.raises(InputError, match="nothing is called 'vga'; benchmarks are zero-shot-retrieval, vqa, gqa"):
        chosen_benchmarks("vga")
    with pytest.raises(InputError, match="--steps 2 is too few for the 3 stages of T → P → S"):
        plan_ablation(a_study(rows="tps", steps=2))
