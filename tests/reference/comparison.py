"""Random batches, among them empty ones, scored by msp_ds and by the slow losses: who says what, and how far apart."""

from __future__ import annotations

import copy
import dataclasses
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from reference.slow_heads import SlowHeads
from reference.slow_losses import SLOW_LOSSES, Names, Pair, Piece, Question, Region
from tiny import CLS, CONFIG, NUM_PIECES, SEP, VOCABULARY_TABLES, a_batch, encoded, rng
from tiny import context as a_context
from torch import Tensor, nn

from msp_ds.model.encoder import Backbone
from msp_ds.model.heads import HEADS, build_heads
from msp_ds.records import IGNORE, Batch, Encoded
from msp_ds.tasks import TASKS
from msp_ds.tasks.task import Context, corrupt

NUM_BATCHES = 200

CHOICES: dict[str, Sequence[Any]] = {
    "mlm_unit": ("piece", "word"),
    "mrfr_loss": ("smooth_l1", "mse"),
    "region_normaliser": ("expected", "asked"),
    "moc_target": ("masked", "all"),
    "moc_weight": ("confidence", "none"),
    "ifrs_choice": ("scan", "stride3"),
    "ifrs_loss": ("mse", "smooth_l1"),
    "ifrs_boxes": ("stay", "move"),
    "topic_words": ("raw", "content"),
    "topic_synonyms": ("first", "all"),
    "topic_attributes": (False, True),
    "topic_min_score": (0.0, 0.5),
    "mismatch_losses": ("keep", "drop"),
    "mismatch_losses_of": ({}, {"mlm": "keep", "moc": "drop", "tits": "keep"}),
}
"""Every option that a loss or its targets depend on, with every value; of a number, two."""
GATES, TOPIC_HEADS = ("pair", "none"), ("gelu-layernorm", "plain")

EMPTY_KINDS = ("everything masked", "nothing masked", "no topic", "no label", "all filler", "all mismatched")
"""The kinds of batches beside the ordinary one. all filler: not one region is there."""
SILENT_WORDS = (16, 17, 18, 19)
"""Pieces of tiny.VOCABULARY_TABLES that are in no label's name."""
NEVER = 1e-9
"""A probability that can be divided by and that chooses nothing."""


@dataclass(frozen=True, kw_only=True)
class Example:
    """A batch, clean and corrupted, with heads and states in float64 that an encoder could have made of it."""

    kind: str
    heads: nn.ModuleDict
    states: Encoded
    clean: Batch
    corrupted: Batch
    context: Context

    def fast_loss(self, name: str) -> Tensor:
        """What msp_ds says of one task."""
        return TASKS[name].score(self.heads, self.states, self.clean, self.corrupted, self.context).loss

    def in_single_precision(self) -> Example:
        """The same example as training has it."""
        return dataclasses.replace(
            self, heads=copy.deepcopy(self.heads).float(), states=converted(self.states, torch.float32)
        )


def converted(states: Encoded, dtype: torch.dtype) -> Encoded:
    """The same states in another type, as leaves that gradients can reach."""
    parts = {item.name: getattr(states, item.name) for item in dataclasses.fields(states)}
    return Encoded(**{name: part.detach().to(dtype).requires_grad_() for name, part in parts.items()})


def double_heads(gate: str, topic_head: str) -> nn.ModuleDict:
    """All heads in float64, every weight away from its start: a bias of zero would hide a forgotten bias."""
    config = dataclasses.replace(CONFIG, region_gate=gate, topic_head=topic_head)
    heads = build_heads(HEADS, config, Backbone(config))
    maker = rng(11)
    with torch.no_grad():
        for parameter in heads.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=maker)
    return heads.double()


def examples(count: int = NUM_BATCHES) -> Iterator[Example]:
    """`count` examples, half of them ordinary, with options drawn evenly; the same ones every time."""
    both = {(gate, topic): double_heads(gate, topic) for gate in GATES for topic in TOPIC_HEADS}
    draw = random.Random(2021)
    for number in range(count):
        kind = EMPTY_KINDS[number // 2 % len(EMPTY_KINDS)] if number % 2 else "ordinary"
        options = {name: draw.choice(values) for name, values in CHOICES.items()}
        probability = {"nothing masked": NEVER, "everything masked": 1.0}.get(kind)
        # With every region masked no triplet is left to be shuffled: IFRS has its turn in the other kinds.
        probabilities = {
            "token_probability": probability or 0.4,
            "region_probability": probability or 0.2,
            "ifrs_probability": probability or 0.5,
        }
        heads = both[draw.choice(GATES), draw.choice(TOPIC_HEADS)]
        clean = a_clean_batch(kind, draw, seed=number)
        context = a_context(seed=number, **options, **probabilities)
        yield Example(
            kind=kind,
            heads=heads,
            states=converted(encoded(clean, seed=number), torch.float64),
            clean=clean,
            corrupted=corrupt(clean, list(TASKS.values()), context),
            context=context,
        )


def a_clean_batch(kind: str, draw: random.Random, *, seed: int) -> Batch:
    """One to four pairs of up to eight pieces and nine regions, padded by chance."""
    size = draw.randint(1, 4)
    lengths = [draw.randint(3, 8) for _ in range(size)]
    counts = [0 if kind == "all filler" else draw.randint(1, 9) for _ in range(size)]
    padded = {"num_tokens": max(lengths) + draw.randint(0, 2), "num_regions": max(counts) + draw.randint(1, 3)}
    batch = a_batch(lengths, counts, seed=seed, **padded)
    positions = two_pieces_a_word(batch) if draw.random() < 0.5 else batch.word_positions
    matched = torch.tensor([kind != "all mismatched" and draw.random() < 0.6 for _ in range(size)])
    changes: dict[str, Any] = {"word_positions": positions}
    if kind == "no topic":
        is_word = batch.token_mask & (batch.token_ids != CLS) & (batch.token_ids != SEP)
        changes["token_ids"] = torch.where(is_word, draw.choice(SILENT_WORDS), batch.token_ids)
    if kind == "no label":
        changes["object_ids"] = changes["attribute_ids"] = torch.full_like(batch.object_ids, IGNORE)
    return dataclasses.replace(batch, corruption=dataclasses.replace(batch.corruption, matched=matched), **changes)


def two_pieces_a_word(batch: Batch) -> Tensor:
    """int64 [B, T]: word positions if every word had two pieces."""
    return torch.where(batch.word_positions > 1, batch.word_positions // 2 + 1, batch.word_positions)


def question(example: Example) -> Question:
    """The example without tensors and without padding."""
    clean, corruption, states = example.clean, example.corrupted.corruption, example.states
    pairs = []
    for b, matched in enumerate(corruption.matched.tolist()):
        pieces = [
            Piece(
                id=int(clean.token_ids[b, t]),
                special=int(clean.token_ids[b, t]) in (CLS, SEP),
                masked=bool(corruption.masked_tokens[b, t]),
                state=states.text[b, t].tolist(),
            )
            for t in range(int(clean.token_mask[b].sum()))
        ]
        regions = [
            Region(
                feature=clean.features[b, r].tolist(),
                object_id=int(clean.object_ids[b, r]),
                object_score=float(clean.object_scores[b, r]),
                attribute_id=int(clean.attribute_ids[b, r]),
                attribute_score=float(clean.attribute_scores[b, r]),
                masked=bool(corruption.masked_regions[b, r]),
                shuffled=bool(corruption.shuffled_regions[b, r]),
                state=states.regions[b, r].tolist(),
            )
            for r in range(int(clean.region_mask[b].sum()))
        ]
        pairs.append(Pair(pieces=pieces, regions=regions, state=states.pair[b].tolist(), matched=matched))
    return Question(pairs=pairs, heads=slow_heads(example.heads), names=plain_names(), options=example.context.options)


def slow_heads(heads: nn.ModuleDict) -> SlowHeads:
    """The weights as plain numbers."""
    return SlowHeads(
        weights={name: weight.tolist() for name, weight in heads.state_dict().items()},
        gated=bool(heads["region"].gated),
        plain_topics=bool(heads["topic"].plain),
    )


def plain_names() -> Names:
    """tiny.VOCABULARY_TABLES as its docstring has it: object 0 is `5` or `11`, object 1 `6 7`, ..."""
    return Names(
        objects=[[[5], [11]], [[6, 7]], [[8]], [[9], [12]], [[5, 10], [11]]],
        attributes=[[13], [14], [15]],
        function_pieces=set(torch.arange(NUM_PIECES)[VOCABULARY_TABLES.is_function_piece].tolist()),
    )


@dataclass(kw_only=True)
class Agreement:
    """What came of the comparison for one loss."""

    batches: int = 0
    empty: int = 0
    """Batches in which it had no targets; for topics, in which there was none."""
    double: float = 0.0
    """Largest absolute difference in float64."""
    single: float = 0.0
    """Largest difference of the loss in float32, as in training; of losses above 1, relative to them."""

    def add(self, example: Example, the_question: Question, name: str) -> None:
        """Scores one batch both ways."""
        slow = SLOW_LOSSES[name](the_question)
        self.batches += 1
        self.empty += slow.num_targets == 0
        self.double = max(self.double, abs(example.fast_loss(name).item() - slow.loss))
        rounded = example.in_single_precision().fast_loss(name).item()
        self.single = max(self.single, abs(rounded - slow.loss) / max(1.0, slow.loss))


def agreements(compared: Iterable[Example], *, advance: Callable[[], None] = lambda: None) -> dict[str, Agreement]:
    """The agreement of each loss over some examples; `advance` is called after each."""
    found = {name: Agreement() for name in SLOW_LOSSES}
    for example in compared:
        the_question = question(example)
        for name, agreement in found.items():
            agreement.add(example, the_question, name)
        advance()
    return found
