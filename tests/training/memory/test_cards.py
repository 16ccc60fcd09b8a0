"""Cards are found by name, by memory and by torch's name."""

from __future__ import annotations

import pytest
import torch

from msp_ds.errors import InputError
from msp_ds.training.memory.cards import CARDS, card_of, changed_card, find_card, peak_flops


def test_a_card_is_found_by_torchs_name() -> None:
    assert card_of("NVIDIA GeForce GTX TITAN X") is CARDS["titanx"]
    assert card_of("NVIDIA TITAN X (Pascal)") is CARDS["titanx-pascal"]
    assert card_of("NVIDIA H100 80GB HBM3") is CARDS["h100"]
    assert card_of("Tesla T4") is CARDS["t4"]
    assert card_of("NVIDIA T400 4GB") is None


def test_a_card_without_fast_fp16_multiplies_it_as_fp32() -> None:
    assert CARDS["titanx"].precision == "fp16"
    assert CARDS["titanx"].tflops("fp16") == CARDS["titanx"].tflops("fp32") == 6.7
    assert CARDS["h100"].precision == "bf16"


def test_of_a_memory_alone_no_peak_is_known() -> None:
    card = find_card("12gb")
    assert (card.memory_gib, card.tflops("fp16")) == (12, None)
    assert changed_card(card, tflops=9.0).tflops("fp16") == 9.0
    assert changed_card(card, memory_gib=11.5).memory_gib == 11.5


@pytest.mark.parametrize("name", ["titany", "0gb", "gb", ""])
def test_other_names_are_errors(name: str) -> None:
    with pytest.raises(InputError, match="cards are titanx"):
        find_card(name)


def test_what_is_not_positive_is_an_error() -> None:
    with pytest.raises(InputError, match="--tflops 0 is not positive"):
        changed_card(CARDS["t4"], tflops=0)


def test_the_peak_of_a_cpu_is_measured_and_draws_no_random_number() -> None:
    before = torch.get_rng_state()
    assert 1e8 < peak_flops(torch.device("cpu"), "fp32") < 1e15
    assert torch.equal(torch.get_rng_state(), before)
