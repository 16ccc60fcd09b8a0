"""GPUs: how much memory, and how fast they multiply by their makers' word."""

from __future__ import annotations

import dataclasses
import re
import time
from dataclasses import dataclass

import torch

from msp_ds.errors import InputError
from msp_ds.training.engine.execution import Precision

_MEASURED_SIZES = {"cuda": 4096, "cpu": 1024}
_LEAST_TIMES, _MEASURED_SECONDS = 3, 0.2


@dataclass(frozen=True, kw_only=True)
class Card:
    """One GPU."""

    title: str
    """As torch names it, or a part of that."""
    memory_gib: float
    fp32_tflops: float | None = None
    """Without TF32, as torch multiplies unless told otherwise."""
    half_tflops: float | None = None
    """fp16 or bf16 with sums in fp32, dense; None where it is no faster than fp32."""
    has_bf16: bool = False
    """Whether it multiplies bf16 in hardware; otherwise fp16 is used."""

    @property
    def precision(self) -> Precision:
        """What a run takes on it without --ds-config."""
        return "bf16" if self.has_bf16 else "fp16"

    def tflops(self, precision: Precision) -> float | None:
        """10^12 multiplications and additions a second, where that is known."""
        return self.fp32_tflops if precision == "fp32" else self.half_tflops or self.fp32_tflops


CARDS: dict[str, Card] = {
    "titanx": Card(title="GTX TITAN X", memory_gib=12, fp32_tflops=6.7),
    "titanx-pascal": Card(title="TITAN X (Pascal)", memory_gib=12, fp32_tflops=11.0),
    "v100": Card(title="V100", memory_gib=16, fp32_tflops=15.7, half_tflops=125),
    "t4": Card(title="T4", memory_gib=16, fp32_tflops=8.1, half_tflops=65),
    "rtx3090": Card(title="RTX 3090", memory_gib=24, fp32_tflops=35.6, half_tflops=71, has_bf16=True),
    "rtx4090": Card(title="RTX 4090", memory_gib=24, fp32_tflops=82.6, half_tflops=165, has_bf16=True),
    "a100": Card(title="A100", memory_gib=40, fp32_tflops=19.5, half_tflops=312, has_bf16=True),
    "h100": Card(title="H100", memory_gib=80, fp32_tflops=67, half_tflops=989, has_bf16=True),
    "h200": Card(title="H200", memory_gib=141, fp32_tflops=67, half_tflops=989, has_bf16=True),
}
"""By the name for --card. titanx is the Maxwell card of 2015, whose fp16 saves memory and no time."""

_MOST = 1e6
"""GiB and TFLOPS: more than a card will have for long."""


def find_card(name: str) -> Card:
    """The card called `name`, or one of which only the memory is known: `12gb`. Raises InputError for any other."""
    if name in CARDS:
        return CARDS[name]
    size = re.fullmatch(r"(\d{1,6})gb", name)
    if not size or not int(size[1]):
        raise InputError(f"no card is called {name!r}; cards are {', '.join(CARDS)}, or its memory alone, as in 12gb")
    return Card(title=f"a card of {size[1]} GB", memory_gib=float(size[1]))


def changed_card(card: Card, *, memory_gib: float | None = None, tflops: float | None = None) -> Card:
    """A card with another memory or another peak than it is known for. Raises InputError where one is not positive."""
    for flag, value in (("--memory-gb", memory_gib), ("--tflops", tflops)):
        if value is not None and not 0 < value <= _MOST:
            raise InputError(f"{flag} {value:g} is not positive" if value <= 0 else f"{flag} {value:g} is no card's")
    card = dataclasses.replace(card, memory_gib=memory_gib or card.memory_gib)
    if tflops is None:
        return card
    return dataclasses.replace(card, fp32_tflops=tflops, half_tflops=tflops if card.half_tflops else None)


def peak_flops(device: torch.device, precision: Precision) -> float:
    """Multiplications and additions a second: of one GPU by its maker's word, else as measured.

    On a CPU that is what this process reaches with its threads while the other ranks measure too. It takes a fifth of a
    second.
    """
    card = card_of(torch.cuda.get_device_name(device)) if device.type == "cuda" else None
    known = None if card is None else card.tflops(precision)
    return _measured_peak(device, precision) if known is None else known * 1e12


def card_of(name: str) -> Card | None:
    """The card that torch calls `name`, if it is a known one."""
    found = (card for card in CARDS.values() if re.search(rf"\b{re.escape(card.title)}(?!\w)", name))
    return next(found, None)


def _measured_peak(device: torch.device, precision: Precision) -> float:
    """What square matrices reach at best."""
    kind = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[precision]
    if device.type == "cpu" and precision == "fp16":
        kind = torch.float32  # which is as good there: many a CPU takes a second for one product of halves
    size = _MEASURED_SIZES[device.type]
    square = torch.ones(size, size, device=device, dtype=kind)
    times: list[float] = []
    while len(times) < _LEAST_TIMES or sum(times) < _MEASURED_SECONDS:
        _settle(device)
        began = time.perf_counter()
        torch.mm(square, square)
        _settle(device)
        times.append(time.perf_counter() - began)
    return float(2 * size**3 / min(times))


def _settle(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
