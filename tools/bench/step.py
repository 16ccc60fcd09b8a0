"""One training step of the paper's model beside transformers' LXMERT and the released code's way.

    python tools/bench/step.py                             (a CPU: some ten minutes of an idle core, 12 GB of memory)
    python tools/bench/step.py --batch-size 16 --repeat 3  (a first look, 2 minutes)
    python tools/bench/step.py --device cuda               (a GPU: pairs/s, ratio to the peak, hours of the schedule)

A step is forward, backward, clipping and AdamW, with dropout. All variants live in one process and take turns, every
other round in reverse; times are process CPU time of one thread (on a GPU, the clock), ratios the median of those of
each round. LXMERT's model (0-0-5, its four losses) meets transformers'; the paper's sentence stage (with topics, gate
and visual [CLS]) meets the released way. Ours corrupt their batch within the step; what the others read is made ready.
"""

from __future__ import annotations

import contextlib
import dataclasses
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

try:
    import transformers  # noqa: F401
except ImportError as error:
    raise SystemExit(f"error: {error}; it is what a step is measured against: pip install -e '.[test]'") from None
import torch
import typer
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from msp_ds.config import ModelConfig, OptimConfig
from msp_ds.evaluation.precision import multiplies_bf16
from msp_ds.model.encoder import Backbone
from msp_ds.tasks import TASKS
from msp_ds.tasks.targets import count_targets
from msp_ds.tasks.task import corrupt
from msp_ds.terminal import Table, Terminal, run_tool
from msp_ds.training.engine.engine import build_optimizer
from msp_ds.training.pretraining_model import NOT_COUNTED, PretrainingModel
from tools.bench.common import figures
from tools.bench.common.cost import held_after
from tools.bench.common.step_peers import ReleasedManner, transformers_inputs, transformers_lxmert
from tools.bench.common.step_pool import PAIRS, Draw, Pool, a_context, on_device

LXMERT_TASKS = ("mlm", "mrfr", "moc", "itm_hs")
Loss = Callable[[Draw], Tensor]


@dataclass(kw_only=True)
class Subject:
    """A model in training."""

    name: str
    module: nn.Module
    optimizer: torch.optim.Optimizer
    loss: Loss


@dataclass(kw_only=True)
class Variant:
    """A subject in a precision, and what its steps took."""

    subject: Subject
    precision: str
    forward: list[float] = field(default_factory=list)
    backward: list[float] = field(default_factory=list)
    update: list[float] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)
    saved_bytes: int = 0
    flops: float = 0.0
    peak_bytes: int = 0

    @property
    def name(self) -> str:
        """`transformers fp32`."""
        return f"{self.subject.name} {self.precision}"

    @property
    def steps(self) -> list[float]:
        """Seconds of each step."""
        return [sum(parts) for parts in zip(self.forward, self.backward, self.update, strict=True)]


def ours(name: str, config: ModelConfig, tasks: tuple[str, ...], device: torch.device) -> Subject:
    """Our model on some tasks, as the training loop drives it, less DeepSpeed."""
    chosen, context = [TASKS[task] for task in tasks], a_context(config)
    model = PretrainingModel(Backbone(config), chosen, on_device(context, device)).to(device)

    def loss(draw: Draw) -> Tensor:
        # On the way to a GPU the feed counts what is asked about.
        padded_counts = count_targets(draw.bucketed, chosen, context) if device.type == "cuda" else NOT_COUNTED
        total: Tensor = model(draw.bucketed.to(device), chosen, 0, padded_counts).total
        return total

    return Subject(name=name, module=model, optimizer=build_optimizer(model, OptimConfig()), loss=loss)


def theirs(name: str, module: nn.Module, loss: Loss) -> Subject:
    """A peer with torch's AdamW and its defaults."""
    return Subject(name=name, module=module, optimizer=torch.optim.AdamW(module.parameters(), lr=1e-5), loss=loss)


def as_lxmert(config: ModelConfig) -> ModelConfig:
    """The model that transformers' is: the same layers, another pair and other heads."""
    return dataclasses.replace(config, visual_cls=False, positions="pieces", region_gate="none")


def builders(config: ModelConfig, device: torch.device) -> dict[str, Callable[[], Subject]]:
    """By name what makes transformers' LXMERT, ours of its kind, the released way, and our sentence stage."""
    tasks, there = [TASKS[name] for name in LXMERT_TASKS], on_device(a_context(config), device)
    corrupted: dict[int, Any] = {}

    def ready(draw: Draw) -> Any:
        """The padded batch, clean and corrupted, on the device: made once."""
        if id(draw) not in corrupted:
            clean = draw.padded.to(device)
            corrupted[id(draw)] = (clean, corrupt(clean, tasks, there))
        return corrupted[id(draw)]

    def transformers_way() -> Subject:
        lxmert = transformers_lxmert(config).to(device)
        return theirs("transformers", lxmert, lambda draw: lxmert(**transformers_inputs(*ready(draw))).loss)

    def released_way() -> Subject:
        released = ReleasedManner(config).to(device)
        return theirs("released way", released, lambda draw: released(*ready(draw), there))

    return {
        "transformers": transformers_way,
        "ours, LXMERT": lambda: ours("ours, LXMERT", as_lxmert(config), LXMERT_TASKS, device),
        "released way": released_way,
        "ours, LXMERT-S": lambda: ours("ours, LXMERT-S", config, (*LXMERT_TASKS, "tits"), device),
    }


def subjects(config: ModelConfig, device: torch.device) -> list[Subject]:
    """All subjects of `builders`."""
    return [build() for build in builders(config, device).values()]


def one_step(variant: Variant, draw: Draw, clock: figures.Clock, *, keep: bool) -> None:
    """Train a step and keep its times, or not, to warm up."""
    subject, began = variant.subject, time.perf_counter()
    times = [clock.now()]
    with in_precision(variant.precision, clock.device):
        loss = subject.loss(draw)
    times.append(clock.now())
    loss.backward()
    times.append(clock.now())
    nn.utils.clip_grad_norm_(subject.module.parameters(), 1.0)
    subject.optimizer.step()
    subject.optimizer.zero_grad(set_to_none=True)
    times.append(clock.now())
    if keep:
        parts = (variant.forward, variant.backward, variant.update)
        for part, before, after in zip(parts, times, times[1:], strict=False):
            part.append(after - before)
        variant.wall.append(time.perf_counter() - began)


@contextlib.contextmanager
def in_precision(precision: str, device: torch.device) -> Iterator[None]:
    """bf16: autocast, fp32 weights."""
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16"):
        yield


def measure_memory(variant: Variant, draw: Draw, device: torch.device) -> None:
    """Bytes that the forward pass leaves for the backward pass, and the operations of both."""

    def forward() -> Tensor:
        with in_precision(variant.precision, device):
            return variant.subject.loss(draw)

    loss, variant.saved_bytes = held_after(forward, device=device.type)
    del loss
    with in_precision(variant.precision, device), FlopCounterMode(display=False) as counter:
        variant.subject.loss(draw).backward()
    variant.flops = float(counter.get_total_flops())
    variant.subject.optimizer.zero_grad(set_to_none=True)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        one_step(variant, draw, figures.Clock(device), keep=False)
        variant.peak_bytes = torch.cuda.max_memory_allocated(device)


def peak(precision: str, clock: figures.Clock, *, size: int) -> float:
    """Operations a second of a product of two square matrices, the best of five."""
    kind = torch.bfloat16 if precision == "bf16" else torch.float32
    one, other = (torch.randn(size, size, device=clock.device).to(kind) for _ in range(2))
    times = []
    for _ in range(6):
        began = clock.now()
        torch.mm(one, other)
        times.append(clock.now() - began)
    return 2 * size**3 / min(times[1:])


PAIRINGS = (
    ("ours, LXMERT fp32", "transformers fp32"),
    ("ours, LXMERT bf16", "transformers fp32"),
    ("ours, LXMERT bf16", "transformers bf16"),
    ("ours, LXMERT-S fp32", "released way fp32"),
    ("ours, LXMERT-S bf16", "released way fp32"),
    ("ours, LXMERT-S bf16", "released way bf16"),
)


def measured(variants: list[Variant], pool: Pool, *, repeat: int, clock: figures.Clock) -> dict[str, Any]:
    """Everything there is to say, as plain JSON."""
    warm_up, *draws = pool.draws(repeat + 1) if clock.device.type == "cuda" else [pool.draws(1)[0], *pool.draws(repeat)]
    size = 2048 if clock.device.type == "cpu" else 8192
    precisions = dict.fromkeys(variant.precision for variant in variants)
    before = {name: peak(name, clock, size=size) for name in precisions}
    for variant in variants:
        one_step(variant, warm_up, clock, keep=False)
        measure_memory(variant, warm_up, clock.device)
    for number, draw in enumerate(draws):
        for variant in variants[:: -1 if number % 2 else 1]:
            one_step(variant, draw, clock, keep=True)
    after = {name: peak(name, clock, size=size) for name in precisions}
    peaks = {name: max(before[name], after[name]) for name in precisions}
    by_name = {variant.name: variant for variant in variants}
    return {
        "variants": {one.name: summary(one, pool.batch_size, peaks[one.precision]) for one in variants},
        "ratios": {
            f"{one} to {other}": figures.spread(by_name[other].steps, by_name[one].steps)
            for one, other in PAIRINGS
            if one in by_name and other in by_name
        },
        "peak_flops": {"before": before, "after": after},
        "text_slots_a_pair": pool.mean_slots(),
    }


def summary(variant: Variant, batch_size: int, peak_flops: float) -> dict[str, float]:
    """Medians of a variant's steps, its memory and its ratio to the peak."""
    forward_backward = [sum(both) for both in zip(variant.forward, variant.backward, strict=True)]
    wall = statistics.median(variant.wall)
    return {
        "seconds_a_step": statistics.median(variant.steps),
        "forward": statistics.median(variant.forward),
        "backward": statistics.median(variant.backward),
        "update": statistics.median(variant.update),
        "wall_to_cpu": sum(variant.wall) / sum(variant.steps),
        "pairs_a_second": batch_size / wall,
        "hours_of_schedule": figures.SCHEDULE_PAIRS / (batch_size / wall) / 3600,
        "operations_a_pair": variant.flops / batch_size,
        "peak_ratio": variant.flops / statistics.median(forward_backward) / peak_flops,
        "saved_mib_a_pair": variant.saved_bytes / batch_size / 2**20,
        "peak_memory_gib": variant.peak_bytes / 2**30,
    }


def tables(found: dict[str, Any]) -> Iterator[Table]:
    """The variants, and the ratios between them."""
    names = ("s a step", "forward", "backward", "update", "wall/CPU", "GFLOP a pair", "of peak", "saved MiB a pair")
    shown = Table("", *names, "hours of 20.4 M pairs")
    for name, one in found["variants"].items():
        shown.add_row(
            name,
            *(f"{one[key]:.3f}" for key in ("seconds_a_step", "forward", "backward", "update", "wall_to_cpu")),
            f"{one['operations_a_pair'] / 1e9:.2f}",
            f"{one['peak_ratio']:.0%}",
            f"{one['saved_mib_a_pair']:.1f}",
            f"{one['hours_of_schedule']:.2f}",
        )
    yield shown
    compared = Table("times faster", "median of rounds", "least to most", "of all rounds")
    for name, one in found["ratios"].items():
        compared.add_row(name, *figures.spread_cells(one, 2))
    yield compared


def main(
    batch_size: Annotated[int, typer.Option(min=1, max=PAIRS, help="Pairs in a step.")] = 64,
    repeat: Annotated[int, typer.Option(min=1, help="Rounds that count, after one that does not.")] = 5,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    out: Annotated[Path | None, typer.Option(help="JSON file to write.")] = None,
) -> None:
    """Time a training step beside its peers."""
    place, config = figures.choose_device(device), ModelConfig()
    pool = Pool(config, batch_size=batch_size)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    precisions = ("fp32", "bf16") if multiplies_bf16(place) else ("fp32",)
    variants = [Variant(subject=one, precision=how) for one in subjects(config, place) for how in precisions]
    found = figures.hardware(place) | {"batch_size": batch_size, "repeat": repeat}
    found |= measured(variants, pool, repeat=repeat, clock=figures.Clock(place))
    console = Terminal(width=160)
    for table in tables(found):
        console.print(table)
    figures.write_figures(found, out, console)
    figures.warn_if_busy(max(one["wall_to_cpu"] for one in found["variants"].values()), console)


if __name__ == "__main__":
    run_tool(lambda: typer.run(main))
