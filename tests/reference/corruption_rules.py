"""What may be done to a pair, stated as rules and checked slot by slot.

Written from the paper, sections 3.1 and 4.4, and the readings that TaskOptions names, not from msp_ds/tasks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from tiny import CLS, MASK, NUM_PIECES, SEP

from msp_ds.config import TaskOptions
from msp_ds.records import Batch

UNTOUCHED = (
    "keys",
    "word_positions",
    "token_mask",
    "region_mask",
    "object_ids",
    "object_scores",
    "attribute_ids",
    "attribute_scores",
    "random_features",
)
"""Fields of a batch that corruption never changes."""


def broken_rules(clean: Batch, corrupted: Batch, options: TaskOptions) -> list[str]:
    """Every rule that a corrupted batch breaks, with its place; none if all is well."""
    faults = [f"{name} has changed" for name in UNTOUCHED if not getattr(corrupted, name).equal(getattr(clean, name))]
    if not corrupted.corruption.matched.equal(clean.corruption.matched):
        faults.append("matched has changed")
    for pair in range(len(clean.keys)):
        for fault in (*token_faults(clean, corrupted, pair, options), *region_faults(clean, corrupted, pair, options)):
            faults.append(f"pair {pair}: {fault}")
    return faults


def token_faults(clean: Batch, corrupted: Batch, pair: int, options: TaskOptions) -> Iterator[str]:
    """Only words are masked; what is not masked stays; a word is masked as a whole if the option says so."""
    old, new = clean.token_ids[pair].tolist(), corrupted.token_ids[pair].tolist()
    masked, present = corrupted.corruption.masked_tokens[pair].tolist(), clean.token_mask[pair].tolist()
    fate_of_word: dict[int, bool] = {}
    for slot, piece in enumerate(old):
        if masked[slot] and (not present[slot] or piece in (CLS, SEP)):
            yield f"slot {slot} is no word and masked"
        if not masked[slot] and new[slot] != piece:
            yield f"slot {slot} is not masked and changed"
        if not 0 <= new[slot] < NUM_PIECES:
            yield f"slot {slot} holds {new[slot]}, which is no piece"
        if options.mlm_unit == "word" and present[slot] and piece not in (CLS, SEP):
            word = int(clean.word_positions[pair, slot])
            if fate_of_word.setdefault(word, masked[slot]) != masked[slot]:
                yield f"word {word} is masked in part"


def region_faults(clean: Batch, corrupted: Batch, pair: int, options: TaskOptions) -> Iterator[str]:
    """Masked regions lose their feature or get a random one; triplets are shuffled; the others and all boxes stay."""
    old, new = clean.features[pair].tolist(), corrupted.features[pair].tolist()
    random_regions, present = clean.random_features[pair].tolist(), clean.region_mask[pair].tolist()
    masked, shuffled = (
        corrupted.corruption.masked_regions[pair].tolist(),
        corrupted.corruption.shuffled_regions[pair].tolist(),
    )
    order = corrupted.corruption.region_order[pair].tolist()
    yield from triplet_faults(shuffled, order, options)
    for slot, feature in enumerate(new):
        if not present[slot] and (masked[slot] or shuffled[slot]):
            yield f"slot {slot} is filler and a target"
        if masked[slot] and shuffled[slot]:
            yield f"slot {slot} is masked and shuffled"
        if masked[slot] and feature not in ([0.0] * len(feature), old[slot], *random_regions):
            yield f"slot {slot} is masked and holds neither nothing, nor a random region, nor its own feature"
        if not masked[slot] and feature != old[order[slot]]:
            yield f"slot {slot} does not hold the feature of slot {order[slot]}"
        box_of = order[slot] if options.ifrs_boxes == "move" else slot
        if corrupted.boxes[pair, slot].tolist() != clean.boxes[pair, box_of].tolist():
            yield f"slot {slot} does not have the box of slot {box_of}"


def triplet_faults(shuffled: list[bool], order: list[int], options: TaskOptions) -> Iterator[str]:
    """Slots are shuffled in threes that do not overlap, each among its own three, and never left as it was."""
    slot = 0
    while slot < len(order):
        if not shuffled[slot]:
            if order[slot] != slot:
                yield f"slot {slot} is in no triplet and holds another's feature"
            slot += 1
            continue
        three = [slot, slot + 1, slot + 2]
        if shuffled[slot : slot + 3] != [True] * 3 or sorted(order[slot : slot + 3]) != three:
            yield f"slots {three} are no triplet"
        if order[slot : slot + 3] == three:
            yield f"triplet {three} is as it was"
        if options.ifrs_choice == "stride3" and slot % 3:
            yield f"triplet {three} starts beside a stride of three"
        slot += 3


def fates_of_tokens(clean: Batch, corrupted: Batch) -> Counter[str]:
    """How many pieces there were to mask, how many were, and what became of those."""
    counts: Counter[str] = Counter()
    rows = zip(
        clean.token_ids.tolist(),
        corrupted.token_ids.tolist(),
        clean.token_mask.tolist(),
        corrupted.corruption.masked_tokens.tolist(),
        strict=True,
    )
    for old, new, present, masked in rows:
        for before, after, here, chosen in zip(old, new, present, masked, strict=True):
            counts["there"] += here and before not in (CLS, SEP)
            if chosen:
                counts["masked"] += 1
                counts["hidden" if after == MASK else "kept" if after == before else "replaced"] += 1
    return counts


def fates_of_regions(clean: Batch, corrupted: Batch) -> Counter[str]:
    """The same of regions."""
    counts: Counter[str] = Counter()
    rows = zip(
        clean.features.tolist(),
        corrupted.features.tolist(),
        clean.region_mask.tolist(),
        corrupted.corruption.masked_regions.tolist(),
        strict=True,
    )
    for old, new, present, masked in rows:
        for before, after, here, chosen in zip(old, new, present, masked, strict=True):
            counts["there"] += here
            if chosen:
                counts["masked"] += 1
                counts["hidden" if not any(after) else "kept" if after == before else "replaced"] += 1
    return counts
