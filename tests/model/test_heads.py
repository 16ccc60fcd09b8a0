"""Heads read the right states, and start alike whatever the order in which tasks name them."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from tiny import CONFIG, NUM_PIECES, rng
from torch import Tensor, nn
from torch.nn import functional as F

from msp_ds.config import ModelConfig
from msp_ds.errors import InputError
from msp_ds.model.encoder import Backbone
from msp_ds.model.heads import HEADS, build_heads

pytestmark = pytest.mark.usefixtures("float64")

PLAIN = dataclasses.replace(CONFIG, topic_head="plain")


@pytest.fixture
def backbone() -> Backbone:
    torch.manual_seed(3)
    return Backbone(CONFIG)


def states(num_rows: int = 4, *, seed: int = 0) -> Tensor:
    return torch.randn(num_rows, CONFIG.hidden_size, generator=rng(seed))


def start(backbone: Backbone, *names: str, config: ModelConfig = CONFIG) -> nn.ModuleDict:
    torch.manual_seed(11)
    return build_heads(names, config, backbone)


def transformed(head: nn.Module, state: Tensor) -> Tensor:
    """Linear, exact GELU, LayerNorm, from their formulas."""
    wide = head.transform.dense.weight @ state + head.transform.dense.bias
    activated = wide * 0.5 * (1 + torch.erf(wide / math.sqrt(2)))
    return (activated - activated.mean()) / (activated.var(unbiased=False) + 1e-12).sqrt()


def test_the_token_decoder_is_the_word_table(backbone: Backbone) -> None:
    head = start(backbone, "token")["token"]
    assert head.decoder.weight is backbone.text.word.weight
    assert head.decoder.bias.shape == (NUM_PIECES,)


def test_building_a_token_head_leaves_the_word_table_as_it_was(backbone: Backbone) -> None:
    before = backbone.text.word.weight.clone()
    start(backbone, "token")
    assert torch.equal(backbone.text.word.weight, before)


def test_token_logits_are_transformed_states_against_every_word(backbone: Backbone) -> None:
    head, text = start(backbone, "token")["token"], states()
    head.decoder.bias.data = torch.linspace(-1, 1, NUM_PIECES)
    wanted = backbone.text.word.weight @ transformed(head, text[2]) + head.decoder.bias
    torch.testing.assert_close(head(text)[2], wanted)


def test_region_states_are_gated_by_their_pair(backbone: Backbone) -> None:
    head, regions, pair = start(backbone, "region")["region"], states(), states(seed=1)
    torch.testing.assert_close(head(regions, pair)[1], transformed(head, regions[1]) * pair[1])
    assert not head(regions, torch.zeros_like(pair)).any()


def test_without_a_gate_region_states_are_the_transformed_ones(backbone: Backbone) -> None:
    config = dataclasses.replace(CONFIG, region_gate="none")
    head, regions = start(backbone, "region", config=config)["region"], states()
    torch.testing.assert_close(head(regions, states(seed=1))[1], transformed(head, regions[1]))


def test_each_region_decoder_has_its_own_width(backbone: Backbone) -> None:
    head, gated = start(backbone, "region")["region"], states()
    sizes = [decode(gated).shape[1] for decode in (head.objects, head.attributes, head.features)]
    assert sizes == [CONFIG.num_objects, CONFIG.num_attributes, CONFIG.feature_width]


def test_a_closed_gate_leaves_the_decoders_bias(backbone: Backbone) -> None:
    head = start(backbone, "region")["region"]
    head.object_decoder.bias.data = torch.arange(5.0)
    gated = head(states(), torch.zeros(4, CONFIG.hidden_size))
    assert torch.equal(head.objects(gated), torch.arange(5.0).expand(4, 5))


def test_topic_logits_are_normed_gelu_scores(backbone: Backbone) -> None:
    head, pair = start(backbone, "topic")["topic"], states()
    wanted = F.layer_norm(F.gelu(pair @ head.dense.weight.T), (NUM_PIECES,), eps=1e-12)
    torch.testing.assert_close(head(pair), wanted)


def test_a_plain_topic_head_is_a_linear_layer_alone(backbone: Backbone) -> None:
    head, pair = start(backbone, "topic", config=PLAIN)["topic"], states()
    torch.testing.assert_close(head(pair), pair @ head.dense.weight.T)
    assert {name for name, _ in head.named_parameters()} == {"dense.weight", "dense.bias"}


def test_both_topic_heads_start_from_the_same_weights(backbone: Backbone) -> None:
    normed, plain = (start(backbone, "topic", config=config)["topic"] for config in (CONFIG, PLAIN))
    assert torch.equal(normed.dense.weight, plain.dense.weight)


def test_the_released_topic_head_starts_with_a_loss_of_0_805() -> None:
    config = dataclasses.replace(CONFIG, vocab_size=4000, hidden_size=64, init_std=0.02)
    torch.manual_seed(0)
    head = HEADS["topic"](config, None)  # type: ignore[arg-type]  # needs no backbone
    logits = head(torch.randn(16, 64, generator=rng(0)))
    loss = F.binary_cross_entropy_with_logits(logits, torch.zeros_like(logits))
    assert loss.item() == pytest.approx(0.805, abs=0.01)  # measured on the released model


@pytest.mark.parametrize("kind", ["gelu-layernorm", "plain"])
def test_a_fresh_topic_head_gives_every_piece_of_an_empty_pair_its_prior(backbone: Backbone, kind: str) -> None:
    config = dataclasses.replace(CONFIG, topic_head=kind, topic_prior=0.001)
    logits = start(backbone, "topic", config=config)["topic"](torch.zeros(1, CONFIG.hidden_size))
    torch.testing.assert_close(torch.sigmoid(logits), torch.full((1, NUM_PIECES), 0.001))


def test_the_match_head_is_one_linear_layer_to_two_logits(backbone: Backbone) -> None:
    head, pair = start(backbone, "match")["match"], states()
    torch.testing.assert_close(head(pair), pair @ head.dense.weight.T)
    assert head(pair).shape == (4, 2)


def test_initial_heads_do_not_depend_on_the_order_of_their_names(backbone: Backbone) -> None:
    forward, backward = start(backbone, *HEADS, "token"), start(backbone, *reversed(HEADS))
    assert list(forward) == list(backward) == sorted(HEADS)
    for one, other in zip(forward.parameters(), backward.parameters(), strict=True):
        assert torch.equal(one, other)


def test_an_initial_head_does_not_depend_on_the_other_heads(backbone: Backbone) -> None:
    alone, among = start(backbone, "topic")["topic"], start(backbone, *HEADS)["topic"]
    for one, other in zip(alone.parameters(), among.parameters(), strict=True):
        assert torch.equal(one, other)


def test_only_the_requested_heads_are_built(backbone: Backbone) -> None:
    assert list(start(backbone, "match")) == ["match"]
    assert not len(start(backbone))


def test_an_unknown_head_is_refused_with_the_known_ones(backbone: Backbone) -> None:
    with pytest.raises(InputError, match=r"'reply'.*token, region, topic, match, answer, statement"):
        start(backbone, "token", "reply")
