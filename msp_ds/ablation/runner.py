"""Execution of an ablation's plan: finished nodes are skipped, interrupted ones resumed, failures reported at the end.

Each node is a command in a process of its own: a DeepSpeed engine leaves its process group and its memory behind, and
dozens of them do not fit into one process. Their output goes to `logs/`, their times and grades to `ablation.json`.
"""

import dataclasses
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from msp_ds.ablation.plan import ZERO_SHOT, AblationRequest, Node, Plan, Study, held_out_set, seconds_for
from msp_ds.config import from_json, read_json, write_json
from msp_ds.curriculum import BENCHMARKS, STAGES
from msp_ds.data.format.shards import ShardSet, open_set
from msp_ds.errors import InputError, writing
from msp_ds.presets import DEFAULT_PRESET, get_preset
from msp_ds.progress import progress_bar
from msp_ds.training.checkpointing.run_folder import RUN_FILE, STAGE_FILE, is_finished, read_finished
from msp_ds.training.options import RunOptions
from msp_ds.training.planning import preset_config, with_flags

log = logging.getLogger(__name__)

RECORD_FILE = "ablation.json"
_RECALLS = ("recall_1", "recall_5", "recall_10")
METRICS: dict[str, tuple[str, ...]] = {
    "vqa": ("VQA",),
    "gqa": ("GQA",),
    "nlvr2": ("NLVR2",),
    ZERO_SHOT: ("ZS-IR", "ZS-TR"),
    "retrieval": ("IR", "TR"),
}
"""Benchmark -> its columns in Table 4. All in percent; those of retrieval are the mean of R@1, R@5 and R@10."""

Launch = Callable[[Sequence[str], Path], int]
"""Runs `msp-ds WORDS`, appends its output to a file, and returns its exit code."""


@dataclass(frozen=True, kw_only=True)
class CommandResult:
    """The result of a finished node."""

    seconds: float  # duration of the attempt that finished it; 0 if it was not timed
    grades: dict[str, float] = field(default_factory=dict)  # column -> percent, for an evaluation
    note: str = ""  # remark on the grades for the caption of the table


@dataclass(frozen=True, kw_only=True)
class Record:
    """Settings and results of an ablation's folder: written after each node, read when the ablation is resumed."""

    preset: str
    shards: str
    settings: tuple[str, ...]
    fine_tuning_settings: tuple[str, ...]
    index_sha256: dict[str, str]
    """Shard set -> sha256 of its index, so that all numbers of a table come from the same data."""
    nodes: dict[str, CommandResult] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Results:
    """The results of an ablation."""

    nodes: Mapping[str, CommandResult]
    failures: Mapping[str, str]  # node -> its error, or the node before it that failed


def study_of(request: AblationRequest, *, preset: str | None, steps: int | None) -> tuple[Study, dict[str, str]]:
    """Return the study of a request, and the sha256 of each index that it reads.

    Without `steps` each row has as many as the preset's T → P → S. Raises InputError for shards that are missing or
    hold less than a batch, and for unknown settings.
    """
    letters = {part.initial: part.name for part in STAGES}
    trained = "".join(row.curriculum for row in request.rows) if steps is not None else "".join(letters)
    parts = [name for initial, name in letters.items() if initial in trained]
    tasks = [name for name in request.benchmarks if name in BENCHMARKS]
    needed = [f"{name}/train" for name in (*parts, *tasks)]
    needed += [f"{held_out_set(name)}/val" for name in request.benchmarks]
    sets = {name: open_set(request.shards / name) for name in needed}
    chosen = preset or sets[needed[0]].index.preset or DEFAULT_PRESET
    schedule = get_preset(chosen).schedule
    for spelling, settings in (("tps", request.setting), *((task, request.fine_tuning_setting) for task in tasks)):
        options = RunOptions(curriculum=spelling, settings=settings)
        with_flags(preset_config(chosen, options), options)  # a wrong setting is an error before anything runs
    batches = {name: _batches(sets[f"{name}/train"], schedule[name].batch_size) for name in (*parts, *tasks)}
    study = Study(
        **vars(request),
        preset=chosen,
        steps=steps or sum(schedule[name].epochs * batches[name] for name in parts),
        batches=batches,
        fine_tuning={name: schedule[name].epochs * batches[name] for name in tasks},
    )
    return study, {name: one.index_sha256 for name, one in sets.items()}


def _batches(shards: ShardSet, batch_size: int) -> int:
    if shards.index.num_pairs < batch_size:
        raise InputError(f"{shards.path} holds {shards.index.num_pairs} pairs, less than one batch of {batch_size}")
    return shards.index.num_pairs // batch_size


def read_record(study: Study, hashes: Mapping[str, str]) -> Record:
    """Read the record of the ablation's folder; a new folder has an empty one.

    Raises InputError when it belongs to other shards, settings or another preset.
    """
    path = study.out / RECORD_FILE
    mine = Record(
        preset=study.preset,
        shards=str(study.shards),
        settings=study.setting,
        fine_tuning_settings=study.fine_tuning_setting,
        index_sha256=dict(hashes),
    )
    if not path.exists():
        return mine
    try:
        there = from_json(Record, read_json(path, what="the record of an ablation"), where=str(path))
    except InputError as error:
        raise InputError(f"{error}; name another --out, where msp-ds ablate writes it again") from None
    for what in ("preset", "settings", "fine_tuning_settings"):
        values = (getattr(record, what) for record in (there, mine))
        theirs, ours = (value if isinstance(value, str) else " ".join(value) or "none" for value in values)
        if theirs != ours:
            kind = what.replace("fine_tuning_", "fine-tuning ")
            raise InputError(f"{study.out} holds an ablation with {kind} {theirs}, not {ours}; name another --out")
    changed = [name for name, sha in hashes.items() if there.index_sha256.get(name, sha) != sha]
    if changed:
        raise InputError(
            f"shard set {changed[0]} has changed since {study.out} was started; name the folder of the set that it "
            "was started with: --shards FOLDER, or another --out"
        )
    return dataclasses.replace(there, shards=mine.shards, index_sha256={**there.index_sha256, **hashes})


def finished_nodes(plan: Plan, record: Record) -> set[str]:
    """Return the nodes that need not run: their results are recorded, and the folders of runs are complete."""
    return {
        node.name
        for node in plan.nodes
        if node.name in record.nodes and (node.benchmark or is_finished(plan.study.out / node.name / _stage(node)))
    }


def _stage(node: Node) -> str:
    return f"1-{node.stage}"


def run_ablation(plan: Plan, record: Record, *, launch: Launch) -> Results:
    """Run the unfinished nodes of a plan, with progress."""
    study, nodes, failures = plan.study, dict(record.nodes), dict[str, str]()
    done = finished_nodes(plan, record)
    left = [node for node in plan.nodes if node.name not in done]
    log.info("%d of %d runs and evaluations are done, %d remain", len(done), len(plan.nodes), len(left))
    with progress_bar() as progress:
        bar = progress.add_task("ablation", total=len(plan.nodes), completed=len(done), note="")
        for place, node in enumerate(left):
            progress.update(bar, note=f"{node.name}, {_time_left(plan, left[place:], nodes)}")
            if node.after in failures:
                failures[node.name] = f"not reached: {node.after} failed"
            else:
                began = time.monotonic()
                try:
                    ran = _run(study, node, launch=launch)
                    grades, note = read_grades(study, node) if node.benchmark else ({}, "")
                except InputError as error:
                    failures[node.name] = str(error)
                    log.error("%s failed: %s", node.name, error)
                else:
                    seconds = time.monotonic() - began if ran else 0.0
                    nodes[node.name] = CommandResult(seconds=seconds, grades=grades, note=note)
                    write_json(study.out / RECORD_FILE, dataclasses.replace(record, nodes=nodes))
                    times = f"{seconds:.0f} s, {_time_left(plan, left[place + 1 :], nodes)}"
                    log.info("%d/%d %s: %s", len(done) + place + 1, len(plan.nodes), node.name, times)
            progress.advance(bar)
    return Results(nodes=nodes, failures=failures)


def _time_left(plan: Plan, left: Sequence[Node], nodes: Mapping[str, CommandResult]) -> str:
    seconds = seconds_for(left, timed(nodes), every=plan.nodes)
    return "time left not known yet" if seconds is None else f"about {duration_text(seconds)} left"


def timed(nodes: Mapping[str, CommandResult]) -> dict[str, float]:
    """Return node -> seconds, of the nodes that were timed."""
    return {name: one.seconds for name, one in nodes.items() if one.seconds}


def duration_text(seconds: float) -> str:
    """Return `45 s`, `12 min` or `3 h 5 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


def _run(study: Study, node: Node, *, launch: Launch) -> bool:
    """Run or resume one node; return False if it is finished already. Raises InputError when it fails."""
    folder, log_file = study.out / node.name, study.out / "logs" / f"{node.name}.log"
    if node.stage and (folder / _stage(node) / STAGE_FILE).is_file() and is_finished(folder / _stage(node)):
        return False  # the ablation was killed before it recorded the run
    words = (*node.words, "--resume") if node.stage and (folder / RUN_FILE).is_file() else node.words
    with writing(log_file.parent, fix="name another --out"):
        log_file.parent.mkdir(parents=True, exist_ok=True)
    code = launch(words, log_file)
    if code:
        raise InputError(f"exit code {code}: {_last_line(log_file)} (all of it: {log_file})")
    if node.kind == "pre-train":
        steps = read_finished(folder / _stage(node)).steps
        if steps != node.steps:
            raise InputError(f"{folder} trained {steps} steps instead of {node.steps}")
    return True


def _last_line(path: Path) -> str:
    lines = [line.strip() for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error:")]
    return (errors or lines or ["no output"])[-1]


def read_grades(study: Study, node: Node) -> tuple[dict[str, float], str]:
    """Read the grades of an evaluation: percent by column of the table, and a note on them.

    Raises InputError when they are missing.
    """
    folder = study.out / node.name
    written = sorted(path for path in folder.glob("*.json") if not path.stem.endswith("-predictions"))
    if len(written) != 1:
        raise InputError(f"{folder} holds {len(written)} files of grades instead of one; remove it to evaluate again")
    grades = read_json(written[0], what="grades, written by msp-ds evaluate")
    try:
        return _columns(node.benchmark, grades["grades"])
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{written[0]} holds no grade called {error}; was it written by msp-ds evaluate?") from None


def _columns(benchmark: str, grades: dict[str, Any]) -> tuple[dict[str, float], str]:
    columns = METRICS[benchmark]
    if len(columns) == 2:
        ways = (grades["image_retrieval"], grades["text_retrieval"])
        means = [sum(float(way[name]) for name in _RECALLS) / len(_RECALLS) for way in ways]
        return dict(zip(columns, means, strict=True)), ""
    if "accuracy" in grades:
        return {columns[0]: float(grades["accuracy"]["percent"])}, ""
    note = f"{columns[0]}: LXMERT's look-up score, not the official one"
    return {columns[0]: float(grades["lookup"]["percent"])}, note
