"""Topics are the pieces that are both said and seen, worked by hand; their loss and scores likewise."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from tiny import CLS, NUM_PIECES, SEP, VOCABULARY_TABLES, a_batch, context
from torch import Tensor, nn

from msp_ds.records import IGNORE, Batch, Encoded, MeanMetric
from msp_ds.tasks import TASKS
from msp_ds.tasks.corruptions import mask_tokens
from msp_ds.tasks.topics import Topics, detection_metrics, score_topics, topic_targets


def pair(words: list[int], objects: list[int], attributes: list[int] | None = None, **fields: Any) -> Batch:
    """One text of these pieces and one image of these labels, all trusted by 0.5."""
    token_ids = torch.tensor([[CLS, *words, SEP]])
    labels = {
        "object_ids": torch.tensor([objects]),
        "attribute_ids": torch.tensor([attributes or [IGNORE] * len(objects)]),
    }
    scores = {name: torch.full((1, len(objects)), 0.5) for name in ("object_scores", "attribute_scores")}
    return a_batch((len(words) + 2,), (len(objects),), token_ids=token_ids, **{**labels, **scores, **fields})


def topics(batch: Batch, *, attributes: bool = False, **options: Any) -> list[set[int]]:
    found = topic_targets(batch, context(**options), attributes=attributes)
    lists = [pieces[wanted].tolist() for pieces, wanted in zip(found.pieces, found.wanted, strict=True)]
    assert all(len(set(pieces)) == len(pieces) for pieces in lists)  # each once
    return [set(pieces) for pieces in lists]


# Objects (first name): 0 -> 5; 1 -> 6 7; 2 -> 8; 3 -> 9; 4 -> 5 10. Synonyms add 11 to 0 and 4, 12 to 3.
# Attributes: 0 -> 13; 1 -> 14; 2 -> 15. Pieces 7 and 10 are function words.


def test_topics_are_both_said_and_seen() -> None:
    assert topics(pair([5, 6, 9, 16], [1, 0, 2])) == [{5, 6}]


def test_a_label_of_two_pieces_gives_those_that_are_said() -> None:
    assert topics(pair([7, 17], [1])) == [{7}]
    assert topics(pair([7, 6, 17], [1])) == [{6, 7}]


def test_a_word_that_is_said_twice_is_one_topic() -> None:
    assert topics(pair([5, 16, 5, 8, 5], [0, 2])) == [{5, 8}]


def test_nothing_in_common_gives_no_topic() -> None:
    assert topics(pair([16, 17], [0, 1])) == [set()]


def test_regions_without_a_label_name_nothing() -> None:
    assert topics(pair([5, 9], [IGNORE, 3])) == [{9}]
    assert topics(pair([5, 9], [IGNORE, IGNORE])) == [set()]


def test_only_trusted_labels_count() -> None:
    batch = pair([5, 8], [0, 2], object_scores=torch.tensor([[0.39, 0.4]]))
    assert topics(batch, topic_min_score=0.4) == [{8}]
    assert topics(batch) == [{5, 8}]


def test_content_words_leave_function_pieces_out() -> None:
    batch = pair([6, 7, 5, 10], [1, 4])
    assert topics(batch) == [{5, 6, 7, 10}]
    assert topics(batch, topic_words="content") == [{5, 6}]


def test_synonyms_count_on_request() -> None:
    batch = pair([11, 12, 9], [0, 3])
    assert topics(batch) == [{9}]
    assert topics(batch, topic_synonyms="all") == [{9, 11, 12}]


def test_attributes_count_on_request_where_trusted() -> None:
    batch = pair([13, 14, 5], [0, 0, 0], [0, 1, IGNORE], attribute_scores=torch.tensor([[0.9, 0.1, 0.0]]))
    assert topics(batch) == [{5}]
    assert topics(batch, attributes=True) == [{5, 13, 14}]
    assert topics(batch, attributes=True, topic_min_score=0.2) == [{5, 13}]


def test_cls_sep_and_padding_are_no_topics_even_if_a_label_holds_them() -> None:
    strange = dataclasses.replace(VOCABULARY_TABLES, object_pieces=torch.tensor([[CLS, SEP, 0], [5, -1, -1]]))
    batch = a_batch(
        (4, 3),
        (2, 2),
        token_ids=torch.tensor([[CLS, 5, 16, SEP], [CLS, 16, SEP, 0]]),
        object_ids=torch.tensor([[0, 1], [0, 1]]),
    )
    assert topics(batch, tables=strange) == [{5}, set()]


def test_each_pair_has_its_own_topics() -> None:
    one, other = pair([5, 8], [0, 3]), pair([9, 8], [0, 3])
    both = a_batch(
        (4, 4), (2, 2), token_ids=torch.cat((one.token_ids, other.token_ids)), object_ids=torch.tensor([[0, 3]] * 2)
    )
    assert topics(both) == [{5}, {9}]


class Ask:
    """A score of a task of topics on one pair, with logits chosen by hand."""

    def __init__(
        self, batch: Batch, *, topics: set[int], name: str = "tits", corrupted: Batch | None = None, **options: Any
    ) -> None:
        logits = torch.full((len(batch.keys), NUM_PIECES), -2.0)
        logits[:, list(topics)] = 0.4  # a chance of 0.6
        states = Encoded(text=torch.empty(0), regions=torch.empty(0), pair=logits)
        heads = nn.ModuleDict({"topic": nn.Identity()})
        score = TASKS[name].score(heads, states, batch, corrupted or batch, context(**options))
        self.loss = score.loss.item()
        self.metrics = {key: metric.mean() for key, metric in score.metrics.items()}


def softplus(x: float) -> float:
    return math.log(1 + math.exp(x))


def test_the_loss_is_the_binary_cross_entropy_over_the_vocabulary() -> None:
    scored = Ask(pair([5, 8, 9], [0, 2]), topics={5, 9})  # wanted 5 and 8, found 5 and 9
    hit, false_alarm, miss, silence = softplus(-0.4), softplus(0.4), softplus(2), softplus(-2)
    assert scored.loss == pytest.approx((hit + false_alarm + miss + 17 * silence) / NUM_PIECES, rel=1e-5)


def test_precision_recall_and_f1_are_worked_by_hand() -> None:
    scored = Ask(pair([5, 8, 9, 6], [0, 2, 3]), topics={5, 8, 17})  # wanted 5, 8, 9: two hits of three each
    assert scored.metrics == pytest.approx({"precision/tits": 2 / 3, "recall/tits": 2 / 3, "f1/tits": 2 / 3})


def test_targets_are_those_before_masking() -> None:
    clean = pair([5, 8], [0, 2])
    corrupted = mask_tokens(clean, context(token_probability=1.0))
    assert not torch.equal(corrupted.token_ids, clean.token_ids)
    assert Ask(clean, topics={5, 8}, corrupted=corrupted).metrics["f1/tits"] == 1.0


def test_attributes_are_topics_of_phrases_only() -> None:
    batch = pair([13, 5], [0], [0])
    assert Ask(batch, name="titp", topics={5, 13}, topic_attributes=True).metrics["f1/titp"] == 1.0
    assert Ask(batch, name="titp", topics={5}).metrics["f1/titp"] == 1.0
    assert Ask(batch, name="tits", topics={5}, topic_attributes=True).metrics["f1/tits"] == 1.0


@pytest.mark.parametrize("name", ["titp", "tits"])
def test_mismatched_pairs_count_unless_dropped(name: str) -> None:
    token_ids = torch.tensor([[CLS, 5, SEP], [CLS, 16, SEP]])  # topics {5} and none
    batch = a_batch((3, 3), (1, 1), token_ids=token_ids, object_ids=torch.tensor([[0], [0]]))
    batch = dataclasses.replace(
        batch, corruption=dataclasses.replace(batch.corruption, matched=torch.tensor([True, False]))
    )
    kept, dropped = (Ask(batch, name=name, topics={5}, mismatch_losses=how) for how in ("keep", "drop"))
    right, wrong = (softplus(-0.4) + 19 * softplus(-2)) / 20, (softplus(0.4) + 19 * softplus(-2)) / 20
    assert kept.loss == pytest.approx((right + wrong) / 2, rel=1e-5)
    assert dropped.loss == pytest.approx(right, rel=1e-5)
    assert kept.metrics[f"precision/{name}"] == 0.5
    assert dropped.metrics[f"precision/{name}"] == 1.0


def bits(*places: int) -> Tensor:
    return torch.isin(torch.arange(8), torch.tensor(places))


def detected(found: Tensor, wanted: Tensor) -> dict[str, MeanMetric]:
    return detection_metrics("x", (found & wanted).sum(), found.sum(), wanted.sum())


def test_detection_counts_hits_found_and_wanted() -> None:
    metrics = detected(bits(0, 1, 2), bits(1, 2, 3, 4))
    means = {name: metric.mean() for name, metric in metrics.items()}
    assert means == pytest.approx({"precision/x": 2 / 3, "recall/x": 1 / 2, "f1/x": 4 / 7})


def test_detections_add_up_over_batches() -> None:
    found, wanted = torch.stack([bits(0, 1), bits(2)]), torch.stack([bits(1), bits(2, 3, 4)])
    whole, parts = (
        detected(found, wanted),
        [detected(f, w) for f, w in zip(found, wanted, strict=True)],
    )
    for name, metric in whole.items():
        summed = parts[0][name] + parts[1][name]
        assert (summed.total.item(), summed.count.item()) == (metric.total.item(), metric.count.item())


def test_scores_of_no_pair_are_zero_and_uncounted() -> None:
    score = score_topics(
        "x", torch.zeros(2, 8), Topics(torch.ones(2, 3).long(), torch.ones(2, 3).bool()), torch.zeros(2).bool()
    )
    assert score.loss.item() == 0.0
    assert all(math.isnan(metric.mean()) for metric in score.metrics.values())
