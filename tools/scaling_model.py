"""How pairs a second grow with GPUs and machines: arithmetic on measured compute and bytes and on given link speeds.

n GPUs, g of them in a machine. P parameters. A ring of n carries 2 (n - 1) / n of a message's bytes over its slowest
link for an all-reduce, half of that for a reduce-scatter or an all-gather, in 2 (n - 1) or n - 1 hops.
Weak points: one ring, links that nobody else uses, compute that grows with the pairs and with nothing else, and none of
the work that ZeRO itself has on host and device.
"""

from __future__ import annotations

from dataclasses import dataclass

FULL, HALF = 4, 2
"""Bytes of a number."""
MOMENTS = 12
"""Bytes of a parameter's fp32 master copy and two moments."""
BACKWARD_SHARE = 2 / 3
"""Of a forward and a backward pass, in which gradients can travel."""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """GPUs and what joins them."""

    gpus_a_node: int
    inside: float
    """Bytes a second between two GPUs of a machine."""
    between: float
    """Bytes a second between two machines."""
    hop: float
    """Seconds that a message takes whatever its size."""

    def ring_seconds(self, message: float, gpus: int, *, rounds: int) -> float:
        """A message through the ring once (reduce-scatter, all-gather) or twice (all-reduce)."""
        if gpus == 1:
            return 0.0
        speed = self.inside if gpus <= self.gpus_a_node else min(self.inside, self.between)
        return rounds * (gpus - 1) * (message / gpus / speed + self.hop)


@dataclass(frozen=True, kw_only=True)
class Work:
    """What a GPU has to do alone."""

    seconds_a_pair: float
    """Forward and backward."""
    update_seconds: float
    """Clipping and the optimiser, for all parameters."""
    parameters: int
    pair_bytes: float
    """Kept of each pair for the backward pass."""


@dataclass(frozen=True, kw_only=True)
class Way:
    """How a step is executed."""

    zero_stage: int
    micro_batch: int
    """Pairs of a GPU in a forward pass."""
    accumulation: int = 1
    """Forward passes of a step."""
    overlap: bool = True
    """Whether gradients travel during the backward pass: with ZeRO off always, else by the file of --ds-config."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """One optimiser step on n GPUs."""

    seconds: float
    travelling: float
    """Seconds of messages."""
    waiting: float
    """Of these, seconds in which nothing is computed."""
    pairs: int
    bytes_held: float
    """On each GPU: weights, gradients, moments, buffers left out, and what a forward pass keeps."""

    @property
    def pairs_a_second(self) -> float:
        """Of all GPUs."""
        return self.pairs / self.seconds


def step_on(gpus: int, machine: Machine, work: Work, way: Way) -> Step:
    """What a step takes.

    Without ZeRO gradients are fp32 and travel once a step. With it they and the weights have 16 bits: stage 1 sends
    gradients once a step, stage 2 after each forward pass, and both gather the new weights; stage 3 gathers the weights
    for each forward and each backward pass instead.
    """
    parameters, passes = work.parameters, way.accumulation
    compute = way.micro_batch * work.seconds_a_pair
    room = BACKWARD_SHARE * compute if way.overlap else 0.0  # of each pass
    once = machine.ring_seconds(HALF * parameters, gpus, rounds=1)
    if way.zero_stage == 0:
        messages, hidden, after = machine.ring_seconds(FULL * parameters, gpus, rounds=2), room, 0.0
    elif way.zero_stage == 1:
        messages, hidden, after = once, room, once
    elif way.zero_stage == 2:
        messages, hidden, after = passes * once, passes * room, once
    else:
        messages, hidden, after = 3 * passes * once, passes * (compute if way.overlap else 0.0), 0.0
    waiting = max(0.0, messages - hidden) + after
    update = work.update_seconds / (gpus if way.zero_stage else 1)
    return Step(
        seconds=passes * compute + waiting + update,
        travelling=messages + after,
        waiting=waiting,
        pairs=gpus * way.micro_batch * passes,
        bytes_held=state_bytes(parameters, gpus, way.zero_stage) + way.micro_batch * work.pair_bytes,
    )


def state_bytes(parameters: int, gpus: int, zero_stage: int) -> float:
    """Weights, gradients and moments of one GPU. Without ZeRO in fp32, with autocast's 16-bit copies of the weights."""
    if zero_stage == 0:
        return parameters * (2.0 * FULL + 8 + HALF)
    split = {1: MOMENTS, 2: MOMENTS + HALF, 3: MOMENTS + 2 * HALF}[zero_stage]
    return parameters * (MOMENTS + 2 * HALF - split + split / gpus)


def efficiency(gpus: int, machine: Machine, work: Work, way: Way) -> float:
    """Pairs a second of n GPUs, to n times those of one that does the same work alone without ZeRO."""
    alone = Way(zero_stage=0, micro_batch=way.micro_batch, accumulation=way.accumulation)
    one = step_on(1, machine, work, alone).pairs_a_second
    return step_on(gpus, machine, work, way).pairs_a_second / (gpus * one)
