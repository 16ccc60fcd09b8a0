"""What fine-tuning asks, worked by hand: answers of VQA and GQA, two images of NLVR2, four pairs of retrieval."""

from __future__ import annotations

import dataclasses
import math

import pytest
import tiny
import torch
from torch import Tensor, nn

from msp_ds.downstream.nlvr2 import NLVR2, both_images
from msp_ds.downstream.retrieval import quadruples
from msp_ds.downstream.retrieval import score as score_retrieval
from msp_ds.downstream.vqa import GQA, VQA, wanted_scores
from msp_ds.model.encoder import Backbone
from msp_ds.model.heads import build_heads
from msp_ds.records import Batch, Encoded


class Fixed(nn.Module):
    """A head that has made up its mind."""

    def __init__(self, logits: list[list[float]]) -> None:
        super().__init__()
        self.logits = torch.tensor(logits)
        self.pairs: Tensor | None = None

    def forward(self, pair: Tensor) -> Tensor:
        self.pairs = pair
        return self.logits


def a_question_batch(ids: list[list[int]], scores: list[list[float]]) -> Batch:
    size = len(ids)
    return tiny.a_batch([5] * size, [3] * size, answer_ids=torch.tensor(ids), answer_scores=torch.tensor(scores))


QUESTIONS = a_question_batch([[2, 0], [1, -1], [-1, -1]], [[1.0, 0.3], [0.6, 0.0], [0.0, 0.0]])
"""Three questions over three answers, the last of which nobody can answer."""


def state(batch: Batch) -> Encoded:
    return tiny.encoded(batch)


def test_wanted_scores_stand_at_their_answers() -> None:
    assert wanted_scores(QUESTIONS, 3).tolist() == [
        pytest.approx([0.3, 0.0, 1.0]),
        pytest.approx([0.0, 0.6, 0.0]),
        [0.0, 0.0, 0.0],
    ]


def test_vqa_sums_the_binary_losses_of_all_answers() -> None:
    """With logit 0 every answer costs ln 2, whatever is wanted; one logit of 2 costs softplus(2) - 2 x its score."""
    heads = nn.ModuleDict({"answer": Fixed([[0.0, 0.0, 2.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]])})
    scored = VQA.score(heads, state(QUESTIONS), QUESTIONS, QUESTIONS, tiny.context())
    at_two = math.log1p(math.exp(2.0)) - 2.0 * 1.0
    assert float(scored.loss) == pytest.approx((8 * math.log(2.0) + at_two) / 3)


def test_vqa_is_graded_by_the_soft_score_of_the_largest_logit() -> None:
    heads = nn.ModuleDict({"answer": Fixed([[5.0, 0.0, 0.0], [0.0, 5.0, 0.0], [5.0, 0.0, 0.0]])})
    scored = VQA.score(heads, state(QUESTIONS), QUESTIONS, QUESTIONS, tiny.context())
    assert scored.metrics["accuracy/vqa"].mean() == pytest.approx((0.3 + 0.6 + 0.0) / 3)


def test_gqa_may_choose_one_answer_among_all() -> None:
    """Questions without a known answer are not asked; uniform logits over three answers cost ln 3."""
    heads = nn.ModuleDict({"answer": Fixed([[0.0, 0.0, 0.0]] * 3)})
    scored = GQA.score(heads, state(QUESTIONS), QUESTIONS, QUESTIONS, tiny.context(answer_loss="ce"))
    assert float(scored.loss) == pytest.approx(math.log(3.0))
    assert set(scored.metrics) == {"accuracy/gqa"}


class Table:
    """Four images, two captions each."""

    keys = torch.arange(8) * 7 + 1
    images = torch.tensor([0, 0, 1, 1, 2, 2, 3, 3])
    hard_negatives: Tensor | None = torch.tensor([[1, -1], [0, -1], [3, -1], [-1, -1]], dtype=torch.int32)
    num_images = 4
    local_images: Tensor | None = None
    second_images: Tensor | None = torch.tensor([1, 2, 0, 0, 3, 3, 2, 2])

    def some_pair_of(self, images: Tensor, chances: Tensor) -> Tensor:
        return images * 2 + (chances * 2).long()


def test_nlvr2_reads_each_statement_with_both_images() -> None:
    chosen = both_images(torch.tensor([0, 4]), Table(), tiny.context())
    assert chosen.pairs.tolist() == [0, 4, 0, 4]
    assert chosen.images.tolist() == [0, 2, 1, 3]


def test_nlvr2_puts_left_before_right() -> None:
    batch = a_question_batch([[1], [0], [1], [0]], [[1.0]] * 4)
    head = Fixed([[0.0, math.log(3.0)], [0.0, 0.0]])
    encoded = state(batch)
    scored = NLVR2.score(nn.ModuleDict({"statement": head}), encoded, batch, batch, tiny.context())
    assert head.pairs is not None
    assert torch.equal(head.pairs[1], torch.cat((encoded.pair[1], encoded.pair[3])))
    assert float(scored.loss) == pytest.approx((math.log(4.0 / 3.0) + math.log(2.0)) / 2)
    assert scored.metrics["accuracy/nlvr2"].mean() == 1.0  # a tie falls to index 0: false, as wanted


def test_a_quadruple_holds_one_match_and_three_mismatches() -> None:
    pairs = torch.arange(8)
    chosen = quadruples(pairs, Table(), tiny.context())
    own, other, hard, random = chosen.images.chunk(4)
    _, same, hard_text, random_text = chosen.pairs.chunk(4)
    assert torch.equal(own, Table.images)
    assert torch.equal(same, pairs)
    assert not (other == own).any()
    assert torch.equal(hard, own)
    assert torch.equal(random, own)
    images_of_text = Table.images[hard_text]
    assert images_of_text[:6].tolist() == [1, 1, 0, 0, 3, 3]  # the only hard negative
    assert not (images_of_text[6:] == 3).any()  # no hard negative: another image's
    assert not (Table.images[random_text] == own).any()
    assert chosen.matched.tolist() == [True] * 8 + [False] * 24


def test_a_quadruple_depends_on_its_pair_alone() -> None:
    whole = quadruples(torch.arange(8), Table(), tiny.context())
    one = quadruples(torch.tensor([5]), Table(), tiny.context())
    assert torch.equal(one.pairs, whole.pairs[5::8])
    assert torch.equal(one.images, whole.images[5::8])


def test_retrieval_is_twice_the_two_way_cross_entropy() -> None:
    batch = tiny.a_batch([5] * 4, [3] * 4)
    corruption = dataclasses.replace(batch.corruption, matched=torch.tensor([True, False, False, False]))
    batch = dataclasses.replace(batch, corruption=corruption)
    heads = nn.ModuleDict({"match": Fixed([[0.0, math.log(3.0)], [0.0, 0.0], [math.log(3.0), 0.0], [0.0, 0.0]])})
    scored = score_retrieval(heads, state(batch), batch, batch, tiny.context())
    assert float(scored.loss) == pytest.approx(2 * (2 * math.log(4.0 / 3.0) + 2 * math.log(2.0)) / 4)


def test_the_answer_head_has_the_released_shape() -> None:
    config = dataclasses.replace(tiny.CONFIG, num_answers=7)
    torch.manual_seed(0)
    heads = build_heads(["answer", "statement"], config, Backbone(config))
    shapes = {name: tuple(parameter.shape) for name, parameter in heads.named_parameters() if parameter.dim() == 2}
    wide = 2 * tiny.HIDDEN
    assert shapes == {
        "answer.dense.weight": (wide, tiny.HIDDEN),
        "answer.decoder.weight": (7, wide),
        "statement.dense.weight": (wide, wide),
        "statement.decoder.weight": (2, wide),
    }
