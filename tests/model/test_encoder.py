"""Each backbone has its published size, looks at nothing that is masked, and does not care where a region stands."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from tiny import CONFIG, FAMILY, a_batch, rng
from torch import Tensor, nn
from torch.nn import functional as F

from msp_ds.config import ModelConfig
from msp_ds.model.encoder import Backbone, count_parameters, initialise, paper_count
from msp_ds.model.heads import HEADS, build_heads
from msp_ds.presets import PRESETS
from msp_ds.records import Batch, Encoded

pytestmark = pytest.mark.usefixtures("float64")

REGION_FIELDS = ("features", "boxes", "region_mask")


def made(config: ModelConfig) -> Backbone:
    torch.manual_seed(3)
    return Backbone(config).eval()


@pytest.fixture(params=FAMILY)
def backbone(request: pytest.FixtureRequest) -> Backbone:
    """One of each kind."""
    return made(FAMILY[request.param])


@pytest.fixture
def lxmert_s() -> Backbone:
    return made(CONFIG)


@pytest.fixture(scope="module")
def paper_backbone() -> Backbone:
    """The model of the paper without its numbers."""
    with torch.device("meta"):
        return Backbone(ModelConfig())


def count(part: nn.Module) -> int:
    return sum(parameter.numel() for parameter in part.parameters())


@torch.no_grad()
def encode(backbone: Backbone, batch: Batch, **changes: Any) -> Encoded:
    return backbone(dataclasses.replace(batch, **changes))


def test_a_layer_has_three_attention_and_two_feed_forward_blocks(paper_backbone: Backbone) -> None:
    layer = paper_backbone.layers[0]
    assert count(layer.cross) == count(layer.text_self) == count(layer.region_self) == 2_363_904
    assert count(layer.text_feed_forward) == count(layer.region_feed_forward) == 4_723_968
    assert count(layer) == 16_539_648


def test_the_parts_have_the_papers_sizes(paper_backbone: Backbone) -> None:
    assert count_parameters(paper_backbone) == {
        "text embeddings": 23_837_184 - 2 * 768,  # BERT's, less the table of the two token types
        "region embeddings": 1_580_544,
        "cross-modality layers": 82_698_240,
        "text pooler": 590_592,
        "region pooler": 590_592,
        "visual [CLS] feature": 2048,
    }


def test_the_paper_counts_84_278_784(paper_backbone: Backbone) -> None:
    assert paper_count(paper_backbone) == 84_278_784


def test_no_parameter_is_counted_twice_or_forgotten(backbone: Backbone) -> None:
    assert sum(count_parameters(backbone).values()) == count(backbone)


def test_lxmert_counts_its_layers_apart() -> None:
    with torch.device("meta"):
        backbone = Backbone(PRESETS["lxmert"].model)
    parts = count_parameters(backbone)
    assert parts["language layers"] == 9 * 7_087_872
    assert parts["region layers"] == 5 * 7_087_872
    assert parts["cross-modality layers"] == 82_698_240
    assert "region pooler" not in parts
    assert "visual [CLS] feature" not in parts
    assert paper_count(backbone) == 183_508_992


def test_a_single_stream_counts_its_layers() -> None:
    with torch.device("meta"):
        backbone = Backbone(PRESETS["single-stream"].model)
    assert count_parameters(backbone)["single-stream layers"] == 12 * 7_087_872


def test_with_all_heads_the_model_is_the_released_one_less_its_dead_table(paper_backbone: Backbone) -> None:
    with torch.device("meta"):
        heads = build_heads(HEADS, ModelConfig(), paper_backbone)
    dead_rows, type_table = 30_521 * 2048, 2 * 768
    assert count(nn.ModuleList([paper_backbone, heads])) == 199_667_898 - dead_rows - type_table


@pytest.mark.parametrize("part", ["text", "regions", "pair"])
def test_padding_influences_nothing(backbone: Backbone, part: str) -> None:
    batch = a_batch(num_tokens=9, num_regions=7)
    noise = a_batch([9] * 3, [7] * 3, seed=5)
    token_pad, region_pad = ~batch.token_mask, ~batch.region_mask
    other = {
        "token_ids": torch.where(token_pad, noise.token_ids, batch.token_ids),
        "word_positions": torch.where(token_pad, 17, batch.word_positions),
        "features": torch.where(region_pad[..., None], noise.features, batch.features),
        "boxes": torch.where(region_pad[..., None], noise.boxes, batch.boxes),
    }
    seen = {"text": batch.token_mask, "regions": batch.region_mask, "pair": torch.ones(3).bool()}[part]
    clean, dirty = (
        getattr(states, part)[seen] for states in (encode(backbone, batch), encode(backbone, batch, **other))
    )
    assert torch.equal(clean, dirty)


def test_more_padding_changes_no_state(backbone: Backbone) -> None:
    tight, wide = a_batch((8, 5, 7), (6, 4, 5)), a_batch((8, 5, 7), (6, 4, 5), num_tokens=12, num_regions=9)
    padding = (0, 0, 0, 3)
    wide = dataclasses.replace(
        wide,
        token_ids=F.pad(tight.token_ids, (0, 4)),
        features=F.pad(tight.features, padding),
        boxes=F.pad(tight.boxes, padding),
    )
    torch.testing.assert_close(encode(backbone, wide).pair, encode(backbone, tight).pair, atol=1e-12, rtol=0)


def test_a_pair_does_not_hear_its_neighbours_in_the_batch(backbone: Backbone) -> None:
    batch, other = a_batch(), a_batch(seed=6)
    features = torch.cat((batch.features[:1], other.features[1:]))
    token_ids = torch.cat((batch.token_ids[:1], other.token_ids[1:]))
    mixed = encode(backbone, batch, features=features, token_ids=token_ids)
    torch.testing.assert_close(mixed.pair[0], encode(backbone, batch).pair[0], atol=1e-12, rtol=0)


def test_moving_regions_with_their_boxes_only_moves_their_states(backbone: Backbone) -> None:
    batch = a_batch()
    order = torch.randperm(6, generator=rng(1))
    moved = encode(backbone, batch, **{name: getattr(batch, name)[:, order] for name in REGION_FIELDS})
    still = encode(backbone, batch)
    torch.testing.assert_close(moved.pair, still.pair, atol=1e-12, rtol=0)
    torch.testing.assert_close(moved.text, still.text, atol=1e-12, rtol=0)
    here = batch.region_mask[:, order]
    torch.testing.assert_close(moved.regions[here], still.regions[:, order][here], atol=1e-12, rtol=0)


def test_moving_features_without_their_boxes_shows(backbone: Backbone) -> None:
    batch = a_batch(counts=(6, 6, 6))
    moved = encode(backbone, batch, features=batch.features[:, [1, 2, 0, 3, 4, 5]])
    assert (moved.pair - encode(backbone, batch).pair).abs().max() > 1e-3


def test_text_and_image_both_reach_the_pair_and_each_other(backbone: Backbone) -> None:
    batch, other = a_batch(), a_batch(seed=4)
    still = encode(backbone, batch)
    by_image = encode(backbone, batch, features=other.features)
    by_text = encode(backbone, batch, token_ids=other.token_ids)
    assert min((changed.pair - still.pair).abs().max() for changed in (by_image, by_text)) > 1e-3
    assert (by_image.text - still.text).abs().max() > 1e-3
    assert (by_text.regions - still.regions).abs().max() > 1e-3


def test_regions_come_back_without_the_visual_cls(backbone: Backbone) -> None:
    batch = a_batch()
    assert encode(backbone, batch).regions.shape == (3, 6, CONFIG.hidden_size)


def pooled(layer: nn.Linear, state: Tensor) -> Tensor:
    return torch.tanh(layer.weight @ state + layer.bias)


def test_the_pair_is_the_product_of_two_tanh_poolers(lxmert_s: Backbone) -> None:
    text, regions = torch.randn(2, 3, CONFIG.hidden_size, generator=rng(2))
    assert lxmert_s.region_pooler is not None
    wanted = pooled(lxmert_s.text_pooler, text[0]) * pooled(lxmert_s.region_pooler, regions[0])
    torch.testing.assert_close(lxmert_s.pool(text[None], regions[None])[0], wanted)


@pytest.mark.parametrize("name", ["LXMERT", "single stream"])
def test_without_a_visual_cls_the_pair_is_the_pooled_text_alone(name: str) -> None:
    backbone, batch = made(FAMILY[name]), a_batch()
    assert not [part for part in backbone.state_dict() if part.startswith(("region_pooler", "regions.cls"))]
    states = encode(backbone, batch)
    torch.testing.assert_close(states.pair[1], pooled(backbone.text_pooler, states.text[1, 0]))


@torch.no_grad()
def test_forward_runs_every_layer_and_pools_the_two_cls_states(lxmert_s: Backbone) -> None:
    backbone, batch = lxmert_s, a_batch()
    text, regions = backbone.text(batch.token_ids, batch.word_positions), backbone.regions(batch.features, batch.boxes)
    everywhere = torch.cat((torch.ones(3, 1).bool(), batch.region_mask), dim=1)
    for layer in backbone.layers:
        text, regions = layer(text, regions, batch.token_mask, everywhere)
    states = backbone(batch)
    assert torch.equal(states.text, text)
    assert torch.equal(states.regions, regions[:, 1:])
    assert torch.equal(states.pair, backbone.pool(text, regions))


@torch.no_grad()
def fast_pair(backbone: Backbone, batch: Batch, *, is_projected: bool = False) -> Tensor:
    """As retrieval computes it, each text and image embedded once, and perhaps projected too."""
    regions, region_mask = backbone.embed_images(batch.features, batch.boxes, batch.region_mask)
    text = backbone.embed_texts(batch.token_ids, batch.word_positions, batch.token_mask)
    if is_projected:
        text, regions = backbone.layers.project(text), backbone.layers.project(regions)
    return backbone.pool(*backbone.layers(text, regions, batch.token_mask, region_mask, cls_only=True))


@pytest.mark.parametrize("is_projected", [False, True])
def test_cls_states_alone_give_the_pair_of_forward(backbone: Backbone, is_projected: bool) -> None:
    batch = a_batch(num_tokens=9, num_regions=8)
    fast = fast_pair(backbone, batch, is_projected=is_projected)
    torch.testing.assert_close(fast, encode(backbone, batch).pair, atol=1e-12, rtol=0)


@pytest.mark.parametrize("is_projected", [False, True])
@pytest.mark.parametrize("name", FAMILY)
def test_one_layer_is_enough_for_cls_states_alone(name: str, is_projected: bool) -> None:
    backbone, batch = made(dataclasses.replace(FAMILY[name], num_layers=1)), a_batch([6] * 2, [5] * 2)
    fast = fast_pair(backbone, batch, is_projected=is_projected)
    torch.testing.assert_close(fast, encode(backbone, batch).pair, atol=1e-12, rtol=0)


def test_an_image_without_regions_spoils_nothing(backbone: Backbone) -> None:
    states = encode(backbone, a_batch(counts=(6, 0, 5)))
    assert states.text.isfinite().all()
    assert states.pair.isfinite().all()


@pytest.mark.parametrize("name", FAMILY)
def test_gradients_reach_every_parameter(name: str) -> None:
    backbone = made(FAMILY[name]).train()
    states, weights = backbone(a_batch()), torch.linspace(-1, 1, CONFIG.hidden_size)
    sum((state * weights).square().sum() for state in (states.text, states.regions, states.pair)).backward()
    for part, parameter in backbone.named_parameters():
        assert parameter.grad is not None, part
        # Softmax does not feel the bias of the keys: it adds the same to all scores of a query.
        assert parameter.grad.any() or part.endswith("key.bias"), part


def test_weights_start_as_bert_starts_them() -> None:
    part = nn.ModuleList([nn.Linear(200, 100), nn.Embedding(100, 200, padding_idx=0), nn.LayerNorm(7)])
    initialise(part, 0.02)
    for weight in (part[0].weight, part[1].weight):  # 20 000 numbers: four standard errors of the deviation are 0.0004
        assert weight.std().item() == pytest.approx(0.02, abs=0.0004)
        assert abs(weight.mean().item()) < 4 * 0.02 / 20_000**0.5
    assert not part[0].bias.any()
    assert part[1].weight[0].any()  # BERT's start fills the padding row too
    assert torch.equal(part[2].weight, torch.ones(7))


def test_a_hidden_feature_sends_back_no_exploding_gradient() -> None:
    embedding, nothing = Backbone(ModelConfig(num_layers=1, vocab_size=9)).regions.eval(), torch.zeros(1, 1, 2048)
    embedding(nothing, torch.zeros(1, 1, 4))[0, 1, :384].sum().backward()
    assert embedding.feature.bias.grad is not None
    assert embedding.feature.bias.grad.norm() < 1e4  # LayerNorm of the zero vector would send back a million
