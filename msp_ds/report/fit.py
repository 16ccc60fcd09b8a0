"""Prediction of the memory and time that a preset needs on a card, from shapes and measured constants."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import RenderableType

from msp_ds.curriculum import STAGES, Granularity
from msp_ds.errors import InputError
from msp_ds.preparation.recipe import MAX_TOKENS
from msp_ds.presets import Preset, get_preset
from msp_ds.terminal import Table, styled
from msp_ds.training.engine.execution import Execution
from msp_ds.training.memory.cards import Card
from msp_ds.training.memory.cost_model import Workload, count_weights, pair_bytes, training_flops
from msp_ds.training.memory.memory import state_bytes
from msp_ds.training.monitoring.throughput import GIB

CONTEXT_BYTES = 0.6 * GIB  # memory of a GPU's libraries beside the tensors: assumed, not measured
PEAK_UTILISATION = {"plain": 0.6, "matrix units": 0.25}
"""Fraction of the peak FLOP/s that a step reaches: 0.63 to 0.71 was measured in fp32, 0.26 where bf16 multiplies six
times as fast as fp32 (both on a CPU; `speed/mfu` of a run is the value of its GPU)."""
PAPER_PAIRS = {"token": 120_000, "phrase": 340_000, "sentence": 620_000}
"""Pairs of each stage in the paper (section 4.1)."""


@dataclass(frozen=True, kw_only=True)
class Fit:
    """Predicted needs of one stage."""

    stage: str
    weights: int  # parameters of backbone and heads
    batch_size: int
    num_tokens: int
    state_bytes: float  # weights, gradients, moments and copies in half precision
    pair_bytes: float
    """Activations of one pair for the backward pass, with their gradients and the allocator's slack."""
    flops: float  # operations for one pair, forward and backward
    memory_bytes: float  # memory of the card
    pairs_per_second: float | None
    epochs: int

    @property
    def bytes_needed(self) -> float:
        """Memory for the whole batch in one forward pass."""
        return CONTEXT_BYTES + self.state_bytes + self.batch_size * self.pair_bytes

    @property
    def largest_micro_batch(self) -> int:
        """Pairs that fit in one forward pass; 0 if the weights alone do not fit."""
        return max(0, int((self.memory_bytes - CONTEXT_BYTES - self.state_bytes) / self.pair_bytes))

    @property
    def hours(self) -> float | None:
        """Duration for the paper's number of pairs; None if the card's speed is not known."""
        if self.pairs_per_second is None:
            return None
        return self.epochs * PAPER_PAIRS[self.stage] / self.pairs_per_second / 3600


def stage_fit(part: Granularity, preset: Preset, card: Card, execution: Execution, *, batch_size: int | None) -> Fit:
    """Predict the needs of a stage on a card; batch_size: pairs, by default those of the preset."""
    row = preset.schedule[part.name]
    num_tokens = {str(name): count for name, count in MAX_TOKENS.items()}[part.name]
    workload = Workload(model=preset.model, tasks=part.tasks, options=preset.tasks, num_tokens=num_tokens)
    half, weights, peak = execution.precision != "fp32", count_weights(workload), card.tflops(execution.precision)
    flops, speed = training_flops(workload), None
    if peak is not None:
        is_fast = half and card.half_tflops is not None
        speed = PEAK_UTILISATION["matrix units" if is_fast else "plain"] * peak * 1e12 / flops
    return Fit(
        stage=part.name,
        weights=weights,
        batch_size=batch_size or row.batch_size,
        num_tokens=workload.num_tokens,
        state_bytes=state_bytes(execution, weights, world_size=1),
        pair_bytes=pair_bytes(workload, half=half),
        flops=flops,
        memory_bytes=card.memory_gib * GIB,
        pairs_per_second=speed,
        epochs=row.epochs,
    )


def fit_table(name: str, card: Card, execution: Execution, *, batch_size: int | None = None) -> Table:
    """Return a table of the stages of a preset on a card. Raises InputError for a batch that is not positive."""
    if batch_size is not None and batch_size < 1:
        raise InputError(f"--batch-size {batch_size} is not positive")
    preset = get_preset(name)
    fits = [stage_fit(part, preset, card, execution, batch_size=batch_size) for part in STAGES]
    how = f"{execution.precision}, ZeRO {execution.zero_stage}"
    title = f"Preset {name} on {card.title}, {card.memory_gib:g} GiB, {how}: a prediction"
    table = Table("", title=title)
    table.caption = (
        "Texts of the longest kind, 36 regions; one card alone. 0.6 GiB for a GPU's libraries and 10 % of the "
        "activations lost between them are assumed; the time is that of the multiplications, at the fraction of the "
        "peak that was measured on a CPU."
    )
    for fit in fits:
        table.add_column(fit.stage, justify="right")
    for what, cells in _rows(fits):
        table.add_row(what, *cells)
    return table


def _rows(fits: list[Fit]) -> list[tuple[str, Sequence[RenderableType]]]:
    rows: list[tuple[str, Sequence[RenderableType]]] = [
        ("parameters, heads included", [f"{fit.weights / 1e6:.1f} M" for fit in fits]),
        ("pairs in a batch x tokens of a text", [f"{fit.batch_size} x {fit.num_tokens}" for fit in fits]),
        ("weights, gradients, moments", [_gib(fit.state_bytes) for fit in fits]),
        ("activations, MiB a pair", [f"{fit.pair_bytes / 2**20:.1f}" for fit in fits]),
        ("activations of the batch", [_gib(fit.batch_size * fit.pair_bytes) for fit in fits]),
        ("all together", [_gib(fit.bytes_needed) for fit in fits]),
        ("fits", [_verdict(fit) for fit in fits]),
        ("largest micro batch", [f"{fit.largest_micro_batch:,}" for fit in fits]),
        ("GFLOP a pair, forward and backward", [f"{fit.flops / 1e9:.1f}" for fit in fits]),
    ]
    if fits[0].pairs_per_second is not None:
        rows.append(("pairs a second", [f"{fit.pairs_per_second or 0:,.0f}" for fit in fits]))
        rows.append(("hours for the paper's pairs", [f"{fit.hours or 0:.1f}" for fit in fits]))
    return rows


def _verdict(fit: Fit) -> RenderableType:
    if fit.bytes_needed <= fit.memory_bytes:
        return styled(("yes", "green"))
    if fit.largest_micro_batch:
        divisor = next(size for size in range(fit.largest_micro_batch, 0, -1) if fit.batch_size % size == 0)
        return styled((f"with micro_batch {divisor}", "yellow"))
    return styled(("no", "red"))


def _gib(count: float) -> str:
    return f"{count / GIB:.2f} GiB"
