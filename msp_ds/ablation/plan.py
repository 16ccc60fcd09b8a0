"""The paper's Table 4 as a plan: its rows, the runs that they share, how many steps each takes. Nothing here trains.

A row's pre-training is a path of stages, each a run that starts from the one before. Rows whose paths begin alike, with
the same tasks, steps and seed, share those runs: the paths of a seed form a tree. All rows have the same number of
optimiser steps in all, divided evenly among their stages, the first ones taking what does not divide; so T → S and
P → S are alike in everything but the text of their first half.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from msp_ds.ablation.rows import AblationRow
from msp_ds.curriculum import BENCHMARKS, Stage, curriculum
from msp_ds.errors import InputError

ZERO_SHOT = "zero-shot-retrieval"
START_STEPS = 60
"""What starting a run costs, in optimiser steps of preset tiny: seconds of imports and of opening shards."""


@dataclass(frozen=True, kw_only=True)
class AblationRequest:
    """What a user wants an ablation to be about."""

    out: Path
    shards: Path
    rows: tuple[AblationRow, ...]
    benchmarks: tuple[str, ...]
    seeds: tuple[int, ...]
    setting: tuple[str, ...] = ()
    fine_tuning_setting: tuple[str, ...] = ()
    """What --set says to all runs of pre-training, and of fine-tuning."""
    fine_tuning_limit: int | None = None
    """End fine-tuning after so many steps."""
    images: int | None = None
    captions_per_image: int | None = None
    """Retrieval: only so many; None takes all."""


@dataclass(frozen=True, kw_only=True)
class Study(AblationRequest):
    """The same with what its preset and its shards say of it."""

    preset: str
    steps: int
    """Optimiser steps of each row's pre-training, over all of its stages."""
    batches: Mapping[str, int]
    """Part of a stage -> batches in an epoch of its shards."""
    fine_tuning: Mapping[str, int]
    """Benchmark -> optimiser steps of its fine-tuning."""


@dataclass(frozen=True, kw_only=True)
class Node:
    """One command of the plan."""

    name: str
    """Also its folder below the ablation's: `seed-9595/t200_s200`, `seed-9595/vqa/t200_s200`."""
    kind: str
    """What it does: `pre-train`, `fine-tune vqa`, `evaluate vqa`."""
    words: tuple[str, ...]
    """What follows `msp-ds`."""
    after: str | None
    """The node whose run it starts from."""
    stage: str = ""
    """Name of the one stage that the run trains; empty for an evaluation."""
    steps: int = 0
    """Optimiser steps of a run."""
    benchmark: str = ""
    """What an evaluation grades."""

    @property
    def work(self) -> float:
        """What it costs, in optimiser steps and their like, or in evaluations."""
        return self.steps + START_STEPS if self.stage else 1


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Every command of an ablation, and where the numbers of its table come from."""

    study: Study
    nodes: tuple[Node, ...]
    """Each after the one that it starts from; seed by seed, so that one seed's table is there early."""
    cells: Mapping[tuple[str, str], tuple[str, ...]]
    """(row, benchmark) -> the evaluations of its seeds; none where a row has nothing to evaluate."""
    paths: Mapping[str, str]
    """AblationRow -> its runs: `t200 → p200-titp → s200`."""
    unshared: int
    """Optimiser steps that pre-training would take if every row trained all of its stages."""


def chosen_benchmarks(names: str) -> tuple[str, ...]:
    """The benchmarks that `names` lists, separated by commas. Raises InputError for one that is none."""
    wanted = tuple(dict.fromkeys(name.strip() for name in names.split(",")))
    known = (ZERO_SHOT, *BENCHMARKS)
    unknown = [name for name in wanted if name not in known]
    if unknown:
        raise InputError(f"--benchmarks: nothing is called {unknown[0]!r}; benchmarks are {', '.join(known)}")
    return wanted


def even_shares(steps: int, *, num_stages: int) -> list[int]:
    """`steps` divided evenly among stages; the first ones take what does not divide."""
    return [steps // num_stages + (number < steps % num_stages) for number in range(num_stages)]


def plan_ablation(study: Study) -> Plan:
    """The plan of a study. Raises InputError when a row has more stages than steps."""
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
    """A row's stages as runs; two rows' runs of one name are the same run."""
    if not row.curriculum:
        return []
    stages = curriculum(row.curriculum)
    if study.steps < len(stages):
        raise InputError(f"--steps {study.steps} is too few for the {len(stages)} stages of {row.stages}")
    path: list[Node] = []
    for stage, steps in zip(stages, even_shares(study.steps, num_stages=len(stages)), strict=True):
        path.append(_stage_node(study, row, stage, steps=steps, seed=seed, parent=path[-1] if path else None))
    return path


def _stage_node(study: Study, row: AblationRow, stage: Stage, *, steps: int, seed: int, parent: Node | None) -> Node:
    spelling = "+".join(part.initial for part in stage.parts)
    dropped = [name for name in row.drop if name in {task.name for task in stage.tasks}]
    label = f"{spelling}{steps}" + "".join(f"-{name}" for name in dropped) + "".join(f",{one}" for one in row.setting)
    name = f"{parent.name}_{label}" if parent else f"seed-{seed}/{label}"
    epochs = -(-steps // sum(study.batches[part.name] for part in stage.parts))
    words = ["train", "--curriculum", spelling, "--max-steps", str(steps), "--epochs", str(epochs), "--keep", "1"]
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
    """What all runs are told."""
    told = {"--preset": study.preset, "--shards": study.shards, "--seed": seed, "--run-dir": study.out / name}
    return (str(word) for pair in told.items() for word in pair)


def _benchmark_nodes(study: Study, row: AblationRow, benchmark: str, *, seed: int, parent: Node | None) -> list[Node]:
    """What gives a row its grades on a benchmark, the evaluation last; nothing where it has none to give."""
    start = _path_name(parent)
    if benchmark == ZERO_SHOT:
        # Only a model whose last stage was asked about matching can say what matches.
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
    name = f"{folder}/{start}"
    tuned = Node(
        name=name,
        kind=f"fine-tune {benchmark}",
        words=(*words, *_common(study, name, seed=seed)),
        after=parent.name if parent else None,
        stage=benchmark,
        steps=min(study.fine_tuning[benchmark], limit or study.fine_tuning[benchmark]),
    )
    pool = _pool(study) if benchmark == "retrieval" else ""
    return [tuned, _evaluation(study, benchmark, name=f"{folder}-grades{pool}/{start}", run=tuned)]


def _label(node: Node) -> str:
    """What a pre-training run adds to the name of the run before it."""
    return node.name.removeprefix(f"{node.after}_") if node.after else _path_name(node)


def _path_name(run: Node | None) -> str:
    return run.name.partition("/")[2] if run else "none"


def _pool(study: Study) -> str:
    if study.images is None and study.captions_per_image is None:
        return ""
    return f"-{study.images or 'all'}x{study.captions_per_image or 'all'}"


def _evaluation(study: Study, benchmark: str, *, name: str, run: Node) -> Node:
    held_out = study.shards / held_out_set(benchmark) / "val"
    words = ["evaluate", "--task", benchmark, "--checkpoint", run_folder(study, run), "--shards", held_out]
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
    """The shards that a benchmark is graded on: zero-shot retrieval takes the captions of the sentence stage."""
    return "sentence" if benchmark == ZERO_SHOT else benchmark


def run_folder(study: Study, node: Node) -> Path:
    """Where a node leaves what it makes."""
    return study.out / node.name


def seconds_for(nodes: Sequence[Node], measured: Mapping[str, float], *, every: Sequence[Node]) -> float | None:
    """How long `nodes` will take, going by the seconds that others of `every` took; None before anything like them ran.

    A kind that has not run yet is taken to be as fast as the other runs, or the other evaluations.
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
