"""The plan of the paper's Table 4: the runs of each row, which rows share them, and their steps. Nothing here trains.

The pre-training of a row is a path of stages, each a run that starts from the one before. Rows whose paths begin with
the same tasks, steps and seed share those runs: the paths of a seed form a tree. All rows have the same total number of
optimiser steps, divided evenly among their stages with the remainder in the first ones; so T → S and P → S differ only
in the text of their first half.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from msp_ds.ablation.rows import AblationRow
from msp_ds.curriculum import BENCHMARKS, Stage, curriculum
from msp_ds.errors import InputError

ZERO_SHOT = "zero-shot-retrieval"
START_STEPS = 60  # cost of starting a run (imports, opening shards) in optimiser steps of preset tiny


@dataclass(frozen=True, kw_only=True)
class AblationRequest:
    """The user's choices for an ablation."""

    out: Path
    shards: Path
    rows: tuple[AblationRow, ...]
    benchmarks: tuple[str, ...]
    seeds: tuple[int, ...]
    setting: tuple[str, ...] = ()
    """Values of --set for all pre-training runs."""
    fine_tuning_setting: tuple[str, ...] = ()
    """Values of --set for all fine-tuning runs."""
    fine_tuning_limit: int | None = None
    """Maximal number of fine-tuning steps; None for the whole schedule."""
    images: int | None = None
    """Number of images for retrieval; None for all."""
    captions_per_image: int | None = None
    """Number of captions of each image for retrieval; None for all."""


@dataclass(frozen=True, kw_only=True)
class Study(AblationRequest):
    """A request with the values that its preset and its shards add."""

    preset: str
    steps: int
    """Optimiser steps of each row's pre-training, over all of its stages."""
    batches: Mapping[str, int]
    """Granularity -> batches in an epoch of its shards."""
    fine_tuning: Mapping[str, int]
    """Benchmark -> optimiser steps of its fine-tuning."""


@dataclass(frozen=True, kw_only=True)
class Node:
    """One command of the plan: a run or an evaluation."""

    name: str  # also its folder in the ablation's folder: `seed-9595/t200_s200`, `seed-9595/vqa/t200_s200`
    kind: str  # kind of work: `pre-train`, `fine-tune vqa`, `evaluate vqa`
    words: tuple[str, ...]  # arguments of `msp-ds`
    after: str | None  # the node whose run it starts from
    stage: str = ""  # stage that the run trains; empty for an evaluation
    steps: int = 0  # optimiser steps of a run
    benchmark: str = ""  # benchmark of an evaluation; empty for a run

    @property
    def work(self) -> float:
        """Cost in optimiser steps for a run, in evaluations for an evaluation."""
        return self.steps + START_STEPS if self.stage else 1


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All commands of an ablation, and the evaluations behind each cell of its table."""

    study: Study
    nodes: tuple[Node, ...]
    """Each after the one that it starts from; seed by seed, so that the table of the first seed is ready early."""
    cells: Mapping[tuple[str, str], tuple[str, ...]]
    """(row, benchmark) -> evaluations of its seeds; empty where a row has nothing to evaluate."""
    paths: Mapping[str, str]  # row -> its runs: `t200 → p200-titp → s200`
    unshared: int  # optimiser steps that pre-training would take if every row trained all of its stages


def chosen_benchmarks(names: str) -> tuple[str, ...]:
    """Parse benchmark names separated by commas. Raises InputError for an unknown one."""
    wanted = tuple(dict.fromkeys(name.strip() for name in names.split(",")))
    known = (ZERO_SHOT, *BENCHMARKS)
    unknown = [name for name in wanted if name not in known]
    if unknown:
        raise InputError(f"--benchmarks: nothing is called {unknown[0]!r}; benchmarks are {', '.join(known)}")
    return wanted


def even_split(steps: int, *, num_stages: int) -> list[int]:
    """Divide `steps` evenly among stages; the first ones take the remainder."""
    return [steps // num_stages + (number < steps % num_stages) for number in range(num_stages)]


def plan_ablation(study: Study) -> Plan:
    """Plan a study. Raises InputError when a row has more stages than steps."""
    nodes: dict[str, Node] = {}
    cells: dict[tuple[str, str], tuple[str, ...]] = {}
    paths: dict[str, str] = {}
    unshared = 0
    for seed in study.seeds:
        for row in study.rows:
            path = _pre_training(study, row, seed=seed)
            paths[row.name] = " → ".join(_label(node) for node in path) or "none"
            unshared += sum(node.steps for node in path)
            for node in path:
                nodes.setdefault(node.name, node)
            for benchmark in study.benchmarks:
                chain = _benchmark_nodes(study, row, benchmark, seed=seed, parent=path[-1] if path else None)
                for node in chain:
                    nodes.setdefault(node.name, node)
                cells[row.name, benchmark] = (*cells.get((row.name, benchmark), ()), *(n.name for n in chain[-1:]))
    return Plan(study=study, nodes=tuple(nodes.values()), cells=cells, paths=paths, unshared=unshared)


def _pre_training(study: Study, row: AblationRow, *, seed: int) -> list[Node]:
    """The stages of a row as runs; runs of equal name in two rows are one run."""
    if not row.curriculum:
        return []
    stages = curriculum(row.curriculum)
    if study.steps < len(stages):
        raise InputError(f"--steps {study.steps} is too few for the {len(stages)} stages of {row.stages}")
    path: list[Node] = []
    for stage, steps in zip(stages, even_split(study.steps, num_stages=len(stages)), strict=True):
        path.append(_stage_node(study, row, stage, steps=steps, seed=seed, parent=path[-1] if path else None))
    return path


def _stage_node(study: Study, row: AblationRow, stage: Stage, *, steps: int, seed: int, parent: Node | None) -> Node:
    spelling = "+".join(part.initial for part in stage.parts)
    dropped = [name for name in row.drop if name in {task.name for task in stage.tasks}]
    label = f"{spelling}{steps}" + "".join(f"-{name}" for name in dropped) + "".join(f",{one}" for one in row.setting)
    name = f"{parent.name}_{label}" if parent else f"seed-{seed}/{label}"
    epochs = -(-steps // sum(study.batches[part.name] for part in stage.parts))
    words = ["train", "--curriculum", spelling, "--max-steps", str(steps), "--epochs", str(epochs)]
    words += ["--save-total-limit", "1"]
    for flag, values in (("--drop", dropped), ("--set", (*study.setting, *row.setting))):
        words += [word for value in values for word in (flag, value)]
    words += ["--init", str(study.out / parent.name)] if parent else []
    return Node(
        name=name,
        kind="pre-train",
        words=(*words, *_common(study, name, seed=seed)),
        after=parent.name if parent else None,
        stage=stage.name,
        steps=steps,
    )


def _common(study: Study, name: str, *, seed: int) -> Iterable[str]:
    flags = {"--preset": study.preset, "--shards": study.shards, "--seed": seed, "--run-dir": study.out / name}
    return (str(word) for flag in flags.items() for word in flag)


def _benchmark_nodes(study: Study, row: AblationRow, benchmark: str, *, seed: int, parent: Node | None) -> list[Node]:
    """The commands that grade a row on a benchmark, the evaluation last; none if the row cannot be graded on it."""
    start = _path_name(parent)
    if benchmark == ZERO_SHOT:
        # Zero-shot retrieval needs a last stage with a matching task.
        last = curriculum(row.curriculum, drop=row.drop)[-1] if parent else None
        if parent is None or last is None or not any("match" in task.heads for task in last.tasks):
            return []
        return [_evaluation(study, benchmark, name=f"seed-{seed}/{ZERO_SHOT}{_pool(study)}/{start}", run=parent)]
    limit = study.fine_tuning_limit
    folder = f"seed-{seed}/{benchmark}{limit or ''}"
    words = ["finetune", "--task", benchmark]
    words += ["--max-steps", str(limit)] if limit else []
    words += [word for setting in study.fine_tuning_setting for word in ("--set", setting)]
    words += ["--init", str(study.out / parent.name)] if parent else ["--from-scratch"]
    name, pool = f"{folder}/{start}", _pool(study) if benchmark == "retrieval" else ""
    tuned = Node(
        name=name,
        kind=f"fine-tune {benchmark}",
        words=(*words, *_common(study, name, seed=seed)),
        after=parent.name if parent else None,
        stage=benchmark,
        steps=min(study.fine_tuning[benchmark], limit or study.fine_tuning[benchmark]),
    )
    return [tuned, _evaluation(study, benchmark, name=f"{folder}-grades{pool}/{start}", run=tuned)]


def _label(node: Node) -> str:
    """The part of a run's name after the name of the run before it."""
    return node.name.removeprefix(f"{node.after}_") if node.after else _path_name(node)


def _path_name(run: Node | None) -> str:
    return run.name.partition("/")[2] if run else "none"


def _pool(study: Study) -> str:
    if study.images is None and study.captions_per_image is None:
        return ""
    return f"-{study.images or 'all'}x{study.captions_per_image or 'all'}"


def _evaluation(study: Study, benchmark: str, *, name: str, run: Node) -> Node:
    held_out = study.shards / held_out_set(benchmark) / "val"
    words = ["evaluate", "--task", benchmark, "--checkpoint", study.out / run.name, "--shards", held_out]
    limits = {"--images": study.images, "--captions-per-image": study.captions_per_image}
    if benchmark in (ZERO_SHOT, "retrieval"):
        words += [word for flag, count in limits.items() if count is not None for word in (flag, count)]
    words += ["--out", study.out / name]
    return Node(
        name=name,
        kind=f"evaluate {benchmark}",
        words=tuple(str(word) for word in words),
        after=run.name,
        benchmark=benchmark,
    )


def held_out_set(benchmark: str) -> str:
    """Return the shard set that a benchmark is graded on: for zero-shot retrieval that of the sentence stage."""
    return "sentence" if benchmark == ZERO_SHOT else benchmark


def seconds_for(nodes: Sequence[Node], measured: Mapping[str, float], *, every: Sequence[Node]) -> float | None:
    """Estimate the seconds of `nodes` from the `measured` ones of `every`; None before a similar node has run.

    A kind that has not run yet counts as fast as the other runs, or the other evaluations.
    """
    total = 0.0
    for node in nodes:
        alike = [one for one in every if one.name in measured and one.kind == node.kind]
        similar = [one for one in every if one.name in measured and bool(one.stage) == bool(node.stage)]
        known = alike or similar
        if not known:
            return None
        total += node.work * sum(measured[one.name] for one in known) / sum(one.work for one in known)
    return total
