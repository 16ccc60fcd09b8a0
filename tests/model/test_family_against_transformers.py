"""LXMERT with its layers of one modality, and the single stream, give the states and gradients of transformers' models.

The weights are copied by name from ours to theirs, so the names are checked as well.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence

import pytest
import torch
from tiny import CONFIG, FAMILY, a_batch
from torch import Tensor, nn
from transformers import BertConfig, LxmertConfig, LxmertModel
from transformers.models.bert.modeling_bert import BertEncoder

from msp_ds.config import ModelConfig
from msp_ds.model.encoder import Backbone
from msp_ds.records import Batch, Encoded

pytestmark = pytest.mark.usefixtures("float64")

BERT_LAYER = (
    (r"self_attention\.(query|key|value)", r"attention.self.\1"),
    (r"self_attention\.output", "attention.output.dense"),
    (r"self_attention\.norm", "attention.output.LayerNorm"),
    (r"feed_forward\.widen", "intermediate.dense"),
    (r"feed_forward\.narrow", "output.dense"),
    (r"feed_forward\.norm", "output.LayerNorm"),
)
LXMERT = (
    (r"^text\.word", "embeddings.word_embeddings"),
    (r"^text\.position", "embeddings.position_embeddings"),
    (r"^text\.norm", "embeddings.LayerNorm"),
    (r"^text_pooler", "pooler.dense"),
    (r"^regions\.(feature|box)_norm", lambda found: f"encoder.visn_fc.{THEIR_WORD[found[1]]}_layer_norm"),
    (r"^regions\.(feature|box)", lambda found: f"encoder.visn_fc.{THEIR_WORD[found[1]]}_fc"),
    (r"^language_layers", "encoder.layer"),
    (r"^region_layers", "encoder.r_layers"),
    (r"^layers", "encoder.x_layers"),
    (r"\.cross\.(query|key|value)", r".visual_attention.att.\1"),
    (r"\.cross\.output", ".visual_attention.output.dense"),
    (r"\.cross\.norm", ".visual_attention.output.LayerNorm"),
    (r"(text|region)_self\.(query|key|value)", lambda found: f"{STREAM[found[1]]}_self_att.self.{found[2]}"),
    (r"(text|region)_self\.output", lambda found: f"{STREAM[found[1]]}_self_att.output.dense"),
    (r"(text|region)_self\.norm", lambda found: f"{STREAM[found[1]]}_self_att.output.LayerNorm"),
    (r"(text|region)_feed_forward\.widen", lambda found: f"{STREAM[found[1]]}_inter.dense"),
    (r"(text|region)_feed_forward\.narrow", lambda found: f"{STREAM[found[1]]}_output.dense"),
    (r"(text|region)_feed_forward\.norm", lambda found: f"{STREAM[found[1]]}_output.LayerNorm"),
    *BERT_LAYER,
)
STREAM = {"text": "lang", "region": "visn"}
THEIR_WORD = {"feature": "visn", "box": "box"}

SHAPES = [((8, 5, 7), (6, 4, 5)), ((3,), (1,)), ((12, 2), (3, 9))]
"""Lengths of texts and numbers of regions, with and without padding."""


def their_name(name: str, rules: Sequence[tuple]) -> str:
    for pattern, theirs in rules:
        name = re.sub(pattern, theirs, name)
    return name


def a_backbone(config: ModelConfig) -> Backbone:
    torch.manual_seed(7)
    backbone = Backbone(config).eval()
    for parameter in backbone.parameters():  # LayerNorms and biases too
        nn.init.normal_(parameter, std=0.3)
    return backbone


def lxmert_of(backbone: Backbone) -> LxmertModel:
    config = backbone.config
    model = LxmertModel(
        LxmertConfig(
            vocab_size=config.vocab_size,
            hidden_size=config.hidden_size,
            num_attention_heads=config.num_heads,
            intermediate_size=config.intermediate_size,
            max_position_embeddings=config.max_positions,
            l_layers=config.language_layers,
            r_layers=config.region_layers,
            x_layers=config.num_layers,
            visual_feat_dim=config.feature_width,
        )
    ).eval()
    weights = {their_name(name, LXMERT): value for name, value in backbone.state_dict().items()}
    types = weights.pop("text.type_vector")
    weights["embeddings.token_type_embeddings.weight"] = types.expand(2, -1)
    model.load_state_dict(weights)
    return model


def theirs_on(model: LxmertModel, batch: Batch) -> Encoded:
    out = model(
        input_ids=batch.token_ids,
        visual_feats=batch.features.double(),
        visual_pos=batch.boxes.double(),
        attention_mask=batch.token_mask.double(),
        visual_attention_mask=batch.region_mask.double(),
        token_type_ids=torch.zeros_like(batch.token_ids),
    )
    return Encoded(text=out.language_output, regions=out.vision_output, pair=out.pooled_output)


def loss_of(states: Encoded, batch: Batch) -> Tensor:
    """A number that hears of each state that is no padding."""
    weights = torch.linspace(-1, 1, CONFIG.hidden_size)
    kept = (states.text[batch.token_mask], states.regions[batch.region_mask], states.pair)
    return torch.stack([(part * weights).sin().sum() for part in kept]).sum()


@pytest.mark.parametrize("layers", [(2, 1), (9, 5), (0, 0)], ids=["2-2-1", "9-5-5", "0-2-0"])
@pytest.mark.parametrize(("lengths", "counts"), SHAPES)
def test_lxmert_equals_transformers(layers: tuple[int, int], lengths: tuple[int, ...], counts: tuple[int, ...]) -> None:
    cross_layers = 5 if layers == (9, 5) else 2
    config = dataclasses.replace(
        FAMILY["LXMERT"], language_layers=layers[0], region_layers=layers[1], num_layers=cross_layers
    )
    backbone, batch = a_backbone(config), a_batch(lengths, counts)
    model = lxmert_of(backbone)
    ours, theirs = backbone(batch), theirs_on(model, batch)
    for name, kept in (("text", batch.token_mask), ("regions", batch.region_mask), ("pair", slice(None))):
        torch.testing.assert_close(getattr(ours, name)[kept], getattr(theirs, name)[kept], atol=1e-12, rtol=0)
    loss_of(ours, batch).backward()
    loss_of(theirs, batch).backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    for name, parameter in backbone.named_parameters():
        wanted = gradients[their_name(name, LXMERT)]
        # Theirs leaves row 0 of the positions, that of the [CLS], untrained.
        rows = slice(1, None) if name == "text.position.weight" else slice(None)
        torch.testing.assert_close(parameter.grad[rows], wanted[rows], atol=1e-12, rtol=1e-9, msg=name)


@torch.no_grad()
@pytest.mark.parametrize("name", ["single stream", "single stream with a visual [CLS]"])
@pytest.mark.parametrize(("lengths", "counts"), SHAPES)
def test_the_single_stream_equals_transformers_bert_on_the_joined_embeddings(
    name: str, lengths: tuple[int, ...], counts: tuple[int, ...]
) -> None:
    backbone, batch = a_backbone(FAMILY[name]), a_batch(lengths, counts)
    config = backbone.config
    bert = BertEncoder(
        BertConfig(
            hidden_size=config.hidden_size,
            num_attention_heads=config.num_heads,
            intermediate_size=config.intermediate_size,
            num_hidden_layers=config.num_layers,
            attn_implementation="eager",
        )
    ).eval()
    bert.load_state_dict(
        {f"layer.{their_name(part, BERT_LAYER)}": value for part, value in backbone.layers.state_dict().items()}
    )
    text = backbone.text(batch.token_ids, batch.word_positions)
    regions = backbone.regions(batch.features, batch.boxes)
    first = regions.shape[1] - batch.region_mask.shape[1]
    here = torch.cat((batch.token_mask, torch.ones(len(lengths), first).bool(), batch.region_mask), dim=1)
    bias = (~here)[:, None, None, :].double() * torch.finfo(torch.float64).min
    states = bert(torch.cat((text, regions), dim=1), attention_mask=bias).last_hidden_state
    ours, num_tokens = backbone(batch), text.shape[1]
    torch.testing.assert_close(ours.text, states[:, :num_tokens], atol=1e-12, rtol=0)
    torch.testing.assert_close(ours.regions, states[:, num_tokens + first :], atol=1e-12, rtol=0)
