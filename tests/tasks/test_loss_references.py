"""Every loss equals a slow one that walks over pairs, places and classes; and nothing asked is zero, never nan."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from tiny import CLS, CONFIG, a_batch, context, encoded
from torch import Tensor, nn

from msp_ds.model.encoder import Trunk
from msp_ds.model.heads import HEADS, build_heads
from msp_ds.records import IGNORE, Batch, Encoded
from msp_ds.tasks import TASKS
from msp_ds.tasks.task import Context, pose

LENGTHS, COUNTS = (12, 9, 10, 7), (9, 6, 9, 7)
MATCHED = torch.tensor([True, False, True, False])
OFTEN: dict[str, Any] = {"token_share": 0.4, "region_share": 0.3, "ifrs_share": 0.5}
"""Shares at which every pair of the little batch is asked about something."""

MISMATCH = [{"mismatch_losses": "keep"}, {"mismatch_losses": "drop"}]
NORMALISER = [{"region_normaliser": "expected"}, {"region_normaliser": "asked"}]


@pytest.fixture(scope="module")
def heads() -> nn.ModuleDict:
    torch.manual_seed(5)
    return build_heads(HEADS, CONFIG, Trunk(CONFIG))


@dataclasses.dataclass(frozen=True)
class Case:
    """What a score is given."""

    heads: nn.ModuleDict
    states: Encoded
    clean: Batch
    posed: Batch
    context: Context

    def loss(self, name: str) -> Tensor:
        return TASKS[name].score(self.heads, self.states, self.clean, self.posed, self.context).loss

    def pairs(self) -> list[int]:
        """The pairs that may be asked about."""
        drop = self.context.options.mismatch_losses == "drop"
        return [pair for pair in range(len(MATCHED)) if not (drop and not self.clean.marks.matched[pair])]

    def places(self, marked: Tensor) -> Iterator[tuple[int, int]]:
        """(pair, place) of every mark of a pair that may be asked about."""
        yield from ((pair, place) for pair in self.pairs() for place, here in enumerate(marked[pair].tolist()) if here)

    def gated(self, pair: int, region: int) -> Tensor:
        """The gated state of one region, computed alone."""
        head = self.heads["region"]
        return head(self.states.regions[pair, region][None], self.states.pair[pair][None])[0]

    def feature_errors(self, marked: Tensor, kind: str) -> list[float]:
        """For every mark the distance of the predicted feature from the original one, mean over its width."""
        errors = []
        for pair, region in self.places(marked):
            predicted = self.heads["region"].features(self.gated(pair, region)).tolist()
            original = self.clean.features[pair, region].tolist()
            errors.append(sum(distance(p - o, kind) for p, o in zip(predicted, original, strict=True)) / len(original))
        return errors

    def over_regions(self, total: float, asked: int) -> float:
        """A sum of region losses divided as the options say."""
        options = self.context.options
        if options.region_normaliser == "asked":
            return total / asked
        present = sum(int(self.clean.region_mask[pair].sum()) for pair in self.pairs())
        return total / max(options.region_share * present, 1.0)


def case(heads: nn.ModuleDict, **options: Any) -> Case:
    clean = a_batch(LENGTHS, COUNTS)
    clean = dataclasses.replace(clean, marks=dataclasses.replace(clean.marks, matched=MATCHED))
    asked = context(**{**OFTEN, **options})
    posed = pose(clean, [TASKS[name] for name in ("mlm", "moc", "ifrs")], asked)
    return Case(heads, encoded(clean), clean, posed, asked)


def distance(difference: float, kind: str) -> float:
    if kind == "mse":
        return difference**2
    return 0.5 * difference**2 if abs(difference) < 1 else abs(difference) - 0.5


def cross_entropy(logits: list[float], answer: int) -> float:
    return math.log(sum(math.exp(one) for one in logits)) - logits[answer]


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


@pytest.mark.parametrize("options", MISMATCH)
def test_mlm_is_the_mean_cross_entropy_of_the_masked_tokens(heads: nn.ModuleDict, options: dict[str, Any]) -> None:
    given = case(heads, **options)
    losses = [
        cross_entropy(
            heads["token"](given.states.text[pair, place]).tolist(), given.clean.token_ids[pair, place].item()
        )
        for pair, place in given.places(given.posed.marks.masked_tokens)
    ]
    assert len(losses) > 4
    assert given.loss("mlm").item() == pytest.approx(mean(losses), rel=1e-5)


@pytest.mark.parametrize("mismatch", MISMATCH)
@pytest.mark.parametrize("normaliser", NORMALISER)
@pytest.mark.parametrize("kind", ["smooth_l1", "mse"])
def test_mrfr_is_the_distance_to_the_original_features(
    heads: nn.ModuleDict, kind: str, normaliser: dict[str, Any], mismatch: dict[str, Any]
) -> None:
    given = case(heads, mrfr_loss=kind, **normaliser, **mismatch)
    errors = given.feature_errors(given.posed.marks.masked_regions, kind)
    assert len(errors) > 4
    assert given.loss("mrfr").item() == pytest.approx(given.over_regions(sum(errors), len(errors)), rel=1e-5)


@pytest.mark.parametrize("mismatch", MISMATCH)
@pytest.mark.parametrize("kind", ["mse", "smooth_l1"])
def test_ifrs_is_the_mean_distance_to_the_feature_that_belongs_there(
    heads: nn.ModuleDict, kind: str, mismatch: dict[str, Any]
) -> None:
    given = case(heads, ifrs_loss=kind, **mismatch)
    errors = given.feature_errors(given.posed.marks.shuffled_regions, kind)
    assert len(errors) >= 3
    assert given.loss("ifrs").item() == pytest.approx(mean(errors), rel=1e-5)


@pytest.mark.parametrize("mismatch", MISMATCH)
@pytest.mark.parametrize("normaliser", NORMALISER)
@pytest.mark.parametrize("weight", ["confidence", "none"])
@pytest.mark.parametrize("target", ["masked", "all"])
def test_moc_sums_object_and_attribute_cross_entropies(
    heads: nn.ModuleDict, target: str, weight: str, normaliser: dict[str, Any], mismatch: dict[str, Any]
) -> None:
    given = case(heads, moc_target=target, moc_weight=weight, **normaliser, **mismatch)
    clean, head = given.clean, heads["region"]
    marked = given.posed.marks.masked_regions if target == "masked" else clean.region_mask
    total, places = 0.0, list(given.places(marked))
    for pair, region in places:
        state = given.gated(pair, region)
        for logits, ids, scores in (
            (head.objects(state), clean.object_ids, clean.object_scores),
            (head.attributes(state), clean.attribute_ids, clean.attribute_scores),
        ):
            label = ids[pair, region].item()
            confidence = scores[pair, region].item() if weight == "confidence" else 1.0
            total += 0.0 if label == IGNORE else confidence * cross_entropy(logits.tolist(), label)
    assert given.loss("moc").item() == pytest.approx(given.over_regions(total, len(places)), rel=1e-5)


def test_over_their_expected_number_dropped_pairs_do_not_dilute_the_others(heads: nn.ModuleDict) -> None:
    # Every region masked: then the expected number is the actual one, and both normalisers must agree.
    losses = [
        case(heads, mismatch_losses="drop", region_normaliser=normaliser, region_share=1.0).loss("mrfr").item()
        for normaliser in ("expected", "asked")
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


@pytest.mark.parametrize("mismatch", MISMATCH)
def test_itm_hs_is_the_two_way_cross_entropy_of_all_pairs(heads: nn.ModuleDict, mismatch: dict[str, Any]) -> None:
    given = case(heads, **mismatch)
    logits = heads["match"](given.states.pair).tolist()
    losses = [cross_entropy(logits[pair], int(MATCHED[pair])) for pair in range(4)]
    assert given.loss("itm_hs").item() == pytest.approx(mean(losses), rel=1e-5)


def test_index_1_says_matched() -> None:
    sure = nn.ModuleDict({"match": nn.Identity()})
    clean = a_batch((5,), (3,))
    states = Encoded(text=torch.empty(0), regions=torch.empty(0), pair=torch.tensor([[-9.0, 9.0]]))
    score = TASKS["itm_hs"].score(sure, states, clean, clean, context())
    assert score.loss.item() < 1e-6
    assert score.tallies["accuracy/itm_hs"].mean() == 1.0


def unlabelled(clean: Batch) -> Batch:
    nothing = torch.full_like(clean.object_ids, IGNORE)
    return dataclasses.replace(clean, object_ids=nothing, attribute_ids=nothing)


def mismatched(batch: Batch) -> Batch:
    return dataclasses.replace(batch, marks=dataclasses.replace(batch.marks, matched=torch.zeros(4).bool()))


def assert_zero_with_finite_gradient(given: Case, name: str) -> None:
    loss = given.loss(name)
    assert loss.item() == 0.0
    loss.backward()
    states = (given.states.text, given.states.regions, given.states.pair)
    gradients = [state.grad for state in (*states, *given.heads.parameters()) if state.grad is not None]
    assert gradients
    assert not any(gradient.any() for gradient in gradients)  # a nan counts as something


@pytest.mark.parametrize("name", ["mlm", "mrfr", "moc", "ifrs"])
@pytest.mark.parametrize("normaliser", NORMALISER)
def test_an_untouched_batch_costs_nothing(name: str, normaliser: dict[str, Any]) -> None:
    fresh, clean = build_heads(HEADS, CONFIG, Trunk(CONFIG)), a_batch(LENGTHS, COUNTS)
    assert_zero_with_finite_gradient(Case(fresh, encoded(clean), clean, clean, context(**normaliser)), name)


@pytest.mark.parametrize("name", ["mlm", "mrfr", "moc", "ifrs", "titp", "tits"])
@pytest.mark.parametrize("normaliser", NORMALISER)
def test_only_mismatched_pairs_cost_nothing_when_they_are_dropped(name: str, normaliser: dict[str, Any]) -> None:
    given = case(build_heads(HEADS, CONFIG, Trunk(CONFIG)), mismatch_losses="drop", **normaliser)
    dropped = dataclasses.replace(given, clean=mismatched(given.clean), posed=mismatched(given.posed))
    assert_zero_with_finite_gradient(dropped, name)


@pytest.mark.parametrize("target", ["masked", "all"])
def test_regions_without_labels_cost_nothing(target: str) -> None:
    given = case(build_heads(HEADS, CONFIG, Trunk(CONFIG)), moc_target=target, moc_weight="none")
    assert_zero_with_finite_gradient(dataclasses.replace(given, clean=unlabelled(given.clean)), "moc")


@pytest.mark.parametrize("name", ["titp", "tits"])
def test_pairs_without_topics_are_kept_and_push_every_topic_down(heads: nn.ModuleDict, name: str) -> None:
    given = case(heads)
    nothing_said = dataclasses.replace(given.clean, token_ids=torch.full_like(given.clean.token_ids, CLS))
    loss = dataclasses.replace(given, clean=nothing_said).loss(name)
    logits = heads["topic"](given.states.pair).flatten().tolist()
    assert loss.item() == pytest.approx(mean([math.log(1 + math.exp(one)) for one in logits]), rel=1e-5)


@pytest.mark.parametrize("name", list(TASKS))
def test_losses_are_single_precision_scalars_even_of_half_precision_states(heads: nn.ModuleDict, name: str) -> None:
    given = case(heads)
    states = Encoded(**{part: getattr(given.states, part).bfloat16() for part in ("text", "regions", "pair")})
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = dataclasses.replace(given, states=states).loss(name)
    assert loss.dtype == torch.float32
    assert loss.shape == ()
    assert loss.isfinite()


@pytest.mark.parametrize("name", list(TASKS))
def test_every_task_teaches_its_heads(name: str) -> None:
    fresh = build_heads(TASKS[name].heads, CONFIG, Trunk(CONFIG))
    case(fresh).loss(name).backward()
    touched = {parameter.split(".")[0] for parameter, value in fresh.named_parameters() if value.grad is not None}
    assert touched == set(TASKS[name].heads)
