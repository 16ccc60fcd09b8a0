"""The whole way of a step, from the shards to the checkpoint, beside the bare step on the same corrupted batches.

    python tools/bench/end_to_end.py --preset tiny           (a minute; makes a demo world under --folder first)
    python tools/bench/end_to_end.py                         (the small preset; some four minutes of an idle core)
    python tools/bench/end_to_end.py --preset paper --batch-size 32 --steps 4 --repeat 3
    python tools/bench/end_to_end.py --preset paper --device cuda --batch-size 128 --steps 50

The whole way is the training loop of `msp-ds train` on the sentence stage: reading, corruption, DeepSpeed's step, the
guards, a report each tenth step, a checkpoint in round 4 (some fourteen times as often as by default) and one at the
end; validation is left out. The bare step is forward, backward, clipping and AdamW on batches corrupted beforehand.
Both are in one process, a round of steps each in turn, on one thread; CPU time counts the threads that read and write
too. The bar: 1.05 times the bare step.
"""

from __future__ import annotations

import dataclasses
import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import torch
import typer

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from msp_ds.config import RunConfig
from msp_ds.demo_world import make_world
from msp_ds.preparation.recipe import Recipe, load_recipe
from msp_ds.preparation.writing.shard_building import build_shards
from msp_ds.terminal import Table, Terminal, run_tool
from msp_ds.training.distributed.runtime import start_runtime
from msp_ds.training.engine.execution import find_shipped
from msp_ds.training.options import RunOptions
from msp_ds.training.planning import new_config
from tools.bench.common import figures

if TYPE_CHECKING:
    from tools.bench.common.whole_steps import Round

BAR = 1.05
"""Times the bare step that the whole way may take."""
IMAGES, HOLDOUT = 700, 100
"""Images of the demo world for the measurement, and those of them that are held out."""
STATE_BYTES = 12
"""Bytes of a parameter between two steps: fp32 weight and two moments."""


def demo_shards(folder: Path) -> Path:
    """The sentence stage of a demo world in `folder`, made unless it is there."""
    shards = folder / "shards"
    if not (shards / "sentence" / "train").is_dir():
        world = folder / "world"
        make_world(world, images=IMAGES, seed=0, feature_width=2048)
        build_shards(recipe_in(folder), stage="sentence", out=shards)
    return shards


def recipe_in(folder: Path) -> Recipe:
    """The demo's recipe, of a smaller world in `folder`."""
    recipe = load_recipe(find_shipped(Path("shards/demo.toml")))

    def there(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(map(there, value))
        return str(folder / value) if isinstance(value, str) and value.startswith("world/") else value

    paths = {item.name: there(getattr(recipe, item.name)) for item in dataclasses.fields(recipe)}
    return dataclasses.replace(recipe, **{**paths, "world": None, "benchmarks": {}, "holdout": HOLDOUT})


def compared(rounds: list[Round], *, steps: int) -> dict[str, Any]:
    """The whole way to the bare step, round by round, the first left out; and where the time of a step goes, in ms."""
    counted = rounds[1:]
    num_steps = steps * len(counted)

    def milliseconds(all_times: list[figures.Times]) -> dict[str, float]:
        total = sum(all_times, figures.Times())
        return {"cpu": 1e3 * total.seconds / num_steps, "wall": 1e3 * total.wall / num_steps}

    corruption, bare, whole = ([getattr(one, name) for one in counted] for name in ("corruption", "bare", "whole"))
    phases = {
        name: milliseconds([one.phases[name] for one in counted if name in one.phases])
        for name in ("wait", "step", "report", "save")
    }
    wall = sum(one.wall for one in whole)
    return {
        "to_bare": figures.spread([one.seconds for one in whole], [one.seconds for one in bare]),
        "to_bare_by_the_wall": figures.spread([one.wall for one in whole], [one.wall for one in bare]),
        "milliseconds": {
            "whole": milliseconds(whole),
            **phases,
            "corruption": milliseconds(corruption),
            "bare": milliseconds(bare),
            "background": milliseconds([figures.Times(seconds=one.seconds - one.thread) for one in whole]),
        },
        "wait_ratio": sum(one.phases["wait"].wall for one in counted) / wall,
        "pairs_a_second": sum(one.pairs for one in counted) / wall,
        "flops_a_second": sum(one.flops for one in counted) / wall,
        "wall_to_cpu": sum(one.wall for one in bare) / sum(one.seconds for one in bare),
    }


def table(found: dict[str, Any], *, on_gpu: bool = False) -> Table:
    """The time of each part of a step; on a GPU wall time only, since it is synchronised only at the ends of rounds."""
    times = found["milliseconds"]
    rest = {kind: times["step"][kind] - times["bare"][kind] - times["corruption"][kind] for kind in ("cpu", "wall")}
    rows = {
        "the bare step: forward, backward, clipping, AdamW": times["bare"],
        "corruption": times["corruption"],
        "in the step beside these: DeepSpeed, guards, metrics": None if on_gpu else rest,
        "waiting for data": times["wait"],
        "reports": times["report"],
        "saving, as far as the loop waits": times["save"],
        "threads that read and write, meanwhile": None if on_gpu else times["background"],
        "all": times["whole"],
    }
    kinds = ("wall",) if on_gpu else ("cpu", "wall")
    title = f"{found['preset']}, B = {found['batch_size']}, {found['repeat']} rounds of {found['steps']} steps"
    shown = Table("ms a step", *kinds, f"{kinds[0]}, of the bare step", title=title)
    for name, one in rows.items():
        if one is not None:
            ratio = one[kinds[0]] / times["bare"][kinds[0]]
            shown.add_row(name, *(f"{one[kind]:.1f}" for kind in kinds), f"{ratio:.1%}")
    return shown


def main(  # noqa: PLR0913, one parameter a flag
    preset: Annotated[str, typer.Option(help="Whose model is trained.")] = "small",
    shards: Annotated[Path | None, typer.Option(help="Folder with a sentence stage. [a demo world]")] = None,
    folder: Annotated[Path, typer.Option(help="Where the demo world is made and kept.")] = Path("bench/end_to_end"),
    batch_size: Annotated[int, typer.Option(min=1, help="Pairs in a step.")] = 64,
    steps: Annotated[int, typer.Option(min=1, help="Of a round.")] = 10,
    repeat: Annotated[int, typer.Option(min=1, help="Rounds that count, after one that does not.")] = 5,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    out: Annotated[Path | None, typer.Option(help="JSON file to write.")] = None,
) -> None:
    """Time the whole way of a step beside the bare step."""
    figures.choose_device(device)
    config = config_of(shards or demo_shards(folder), preset=preset, batch_size=batch_size)
    runtime = start_runtime(os.environ)  # tells DeepSpeed the device, which the next line imports
    from tools.bench.common.whole_steps import Course, train_whole

    torch.set_num_threads(1)
    course = Course(
        config=config,
        steps=steps,
        num_rounds=repeat + 1,
        save_every=3 * steps + (steps + 1) // 2,
        precision="bf16" if device == "cuda" else "fp32",
    )
    with tempfile.TemporaryDirectory() as run:
        rounds, peak = train_whole(course, runtime=runtime, folder=Path(run))
    torch.distributed.destroy_process_group()
    facts = {"preset": preset, "batch_size": batch_size, "steps": steps, "repeat": repeat}
    found = figures.hardware(runtime.device) | facts | compared(rounds, steps=steps)
    console = Terminal(width=140)
    console.print(table(found, on_gpu=device == "cuda"))
    for line in summary_lines(found, peak, most_bytes=max(one.gpu_bytes for one in rounds), parameters=count(config)):
        console.print(line)
    figures.warn_if_busy(found["wall_to_cpu"], console)
    figures.write_figures(found, out, console)


def config_of(shards: Path, *, preset: str, batch_size: int) -> RunConfig:
    """The sentence stage alone. Raises InputError for a batch that the set is too small for."""
    config = new_config(RunOptions(curriculum="s", preset=preset, shards=str(shards), batch_size=batch_size))
    return dataclasses.replace(config, shards=str(shards))


def count(config: RunConfig) -> int:
    """Parameters of what is trained."""
    from msp_ds.curriculum import curriculum
    from msp_ds.training.memory.cost_model import Workload, count_weights

    tasks = curriculum(config.curriculum)[0].parts[0].tasks
    return count_weights(Workload(model=config.model, tasks=tasks, options=config.tasks, num_tokens=1))


def summary_lines(found: dict[str, Any], peak: float | None, *, most_bytes: int, parameters: int) -> list[str]:
    """The lines below the table."""
    ratio, wall, speed = found["to_bare"], found["to_bare_by_the_wall"], found["pairs_a_second"]
    lines = [
        f"the whole way takes {ratio['median']:.3f} times the bare step ({ratio['least']:.3f} to {ratio['most']:.3f}; "
        f"of all {ratio['of_sums']:.3f}; by the wall {wall['median']:.3f}, of all {wall['of_sums']:.3f}): "
        f"{'within' if ratio['median'] <= BAR else 'above'} the bar of {BAR}",
        f"{speed:,.1f} pairs/s, wait_ratio {found['wait_ratio']:.2%}; the paper's 20.4 M pairs take "
        f"{figures.SCHEDULE_PAIRS / speed / 3600:.2f} hours",
    ]
    if peak is not None:
        gib = (most_bytes + STATE_BYTES * parameters) / 2**30
        lines.append(f"MFU {found['flops_a_second'] / peak:.1%}, peak memory {gib:.2f} GiB beside the bare copy")
    return lines


if __name__ == "__main__":
    run_tool(lambda: typer.run(main))
