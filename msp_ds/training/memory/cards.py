"""GPUs: their memory and their peak speed as their makers state it."""

import dataclasses
import re
import time
from dataclasses import dataclass

import torch

from msp_ds.errors import InputError
from msp_ds.training.engine.execution import Precision

_MEASURED_SIZES = {"cuda": 4096, "cpu": 1024}
_MIN_RUNS, _MEASURED_SECONDS = 3, 0.2


@dataclass(frozen=True, kw_only=True)
class Card:
    """One GPU."""

    title: str  # name in torch, or a part of it
    memory_gib: float
    fp32_tflops: float | None = None  # without TF32, which is torch's default
    half_tflops: float | None = None
    """Dense fp16 or bf16 with fp32 accumulation; None where it is no faster than fp32."""
    has_bf16: bool = False  # whether it multiplies bf16 in hardware

    @property
    def precision(self) -> Precision:
        """The precision of a run without --ds-config."""
        return "bf16" if self.has_bf16 else "fp16"

    def tflops(self, precision: Precision) -> float | None:
        """Peak in 10^12 floating-point operations per second; None where it is unknown."""
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
"""Name for --card -> card. titanx is the Maxwell card of 2015, where fp16 saves memory but no time."""

_MAX_VALUE = 1e6  # GiB and TFLOPS: larger values are taken for mistakes


def find_card(name: str) -> Card:
    """The card of a name, or a card of which only the memory is known: `12gb`. Raises InputError for other names."""
    if name in CARDS:
        return CARDS[name]
    size = re.fullmatch(r"(\d{1,6})gb", name)
    if not size or not int(size[1]):
        raise InputError(f"no card is called {name!r}; cards are {', '.join(CARDS)}, or its memory alone, as in 12gb")
    return Card(title=f"a card of {size[1]} GB", memory_gib=float(size[1]))


def changed_card(card: Card, *, memory_gib: float | None = None, tflops: float | None = None) -> Card:
    """A card with another memory or peak. Raises InputError for a value that is not positive or far too large."""
    for flag, value in (("--memory-gb", memory_gib), ("--tflops", tflops)):
        if value is not None and not 0 < value <= _MAX_VALUE:
            raise InputError(f"{flag} {value:g} is not positive" if value <= 0 else f"{flag} {value:g} is no card's")
    card = dataclasses.replace(card, memory_gib=memory_gib or card.memory_gib)
    if tflops is None:
        return card
    return dataclasses.replace(card, fp32_tflops=tflops, half_tflops=tflops if card.half_tflops else None)


def peak_flops(device: torch.device, precision: Precision) -> float:
    """Peak floating-point operations per second: of a known GPU as its maker states it, else as measured here.

    Measuring takes 0.2 s. On a CPU it gives what this process reaches with its threads while other ranks measure too.
    """
    card = card_of(torch.cuda.get_device_name(device)) if device.type == "cuda" else None
    known = None if card is None else card.tflops(precision)
    return _measured_peak(device, precision) if known is None else known * 1e12


def card_of(name: str) -> Card | None:
    """The card of a name in torch; None for an unknown one."""
    return next((card for card in CARDS.values() if re.search(rf"\b{re.escape(card.title)}(?!\w)", name)), None)


def _measured_peak(device: torch.device, precision: Precision) -> float:
    """The best of several products of square matrices."""
    dtype = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[precision]
    if device.type == "cpu" and precision == "fp16":
        dtype = torch.float32  # many CPUs take a second for one product in fp16
    size = _MEASURED_SIZES[device.type]
    square = torch.ones(size, size, device=device, dtype=dtype)
    times: list[float] = []
    while len(times) < _MIN_RUNS or sum(times) < _MEASURED_SECONDS:
        _synchronize(device)
        began = time.perf_counter()
        torch.mm(square, square)
        _synchronize(device)
        times.append(time.perf_counter() - began)
    return float(2 * size**3 / min(times))


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
