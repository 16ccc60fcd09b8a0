"""Our names and theirs meet one to one, and old or wrapped spellings are the same names."""

from __future__ import annotations

import pytest
import torch
from foreign_weights import MODEL, bert, lxmert

from msp_ds.model.encoder import Backbone
from msp_ds.model.heads import HEADS, build_heads
from msp_ds.model.weights.forms import FORMS
from msp_ds.model.weights.lxmert_names import BERT, LXMERT, LXMERT_S
from msp_ds.model.weights.names import NameTable, normalised_name, numbers_out

PAIRS_BY_HAND = {
    "backbone.text.word.weight": "bert.embeddings.word_embeddings.weight",
    "backbone.regions.box_norm.bias": "bert.encoder.visn_fc.box_layer_norm.bias",
    "backbone.layers.3.cross.query.weight": "bert.encoder.x_layers.3.visual_attention.att.query.weight",
    "backbone.layers.11.text_self.output.bias": "bert.encoder.x_layers.11.lang_self_att.output.dense.bias",
    "backbone.layers.0.region_feed_forward.widen.weight": "bert.encoder.x_layers.0.visn_inter.dense.weight",
    "backbone.layers.0.region_feed_forward.norm.weight": "bert.encoder.x_layers.0.visn_output.LayerNorm.weight",
    "backbone.language_layers.8.self_attention.value.bias": "bert.encoder.layer.8.attention.self.value.bias",
    "backbone.region_layers.4.feed_forward.narrow.weight": "bert.encoder.r_layers.4.output.dense.weight",
    "backbone.region_pooler.weight": "bert.pooler_f.dense.weight",
    "heads.token.decoder.bias": "cls.predictions.bias",
    "heads.region.attribute_decoder.weight": "obj_predict_head.decoder_dict.attr.weight",
    "heads.topic.norm.weight": "cls.LayerNorm.weight",
    "heads.match.dense.bias": "cls.seq_relationship.bias",
}


@pytest.mark.parametrize(("ours", "theirs"), PAIRS_BY_HAND.items())
def test_a_name_is_found_both_ways(ours: str, theirs: str) -> None:
    assert LXMERT_S.to_theirs(ours) == theirs
    assert LXMERT_S.to_ours(theirs) == (ours,)


@pytest.mark.parametrize("table", [LXMERT, LXMERT_S, BERT], ids=["LXMERT", "LXMERT-S", "BERT"])
def test_no_name_of_ours_stands_twice(table: NameTable) -> None:
    ours = [name for name, _ in table.pairs]
    assert len(ours) == len(set(ours))


@pytest.mark.parametrize("table", [LXMERT, LXMERT_S], ids=["LXMERT", "LXMERT-S"])
def test_no_name_of_theirs_has_two_meanings(table: NameTable) -> None:
    theirs = [name for _, name in table.pairs]
    assert len(theirs) == len(set(theirs))


def test_every_tensor_of_ours_has_a_place_in_the_released_form() -> None:
    with torch.device("meta"):
        backbone = Backbone(MODEL)
        heads = build_heads(HEADS, MODEL, backbone)
    ours = [f"backbone.{name}" for name in backbone.state_dict()] + [f"heads.{name}" for name in heads.state_dict()]
    form = FORMS["lxmert-s"]
    assert [name for name in ours if form.table.to_theirs(name) is None and form.row_of_ours(name) is None] == []


@pytest.mark.parametrize(("form", "saved"), [("lxmert", lxmert), ("bert", lambda: bert().state_dict())])
def test_every_tensor_of_theirs_has_a_place_or_a_reason(form: str, saved: object) -> None:
    known = FORMS[form]
    for name in map(normalised_name, saved()):  # type: ignore[operator]
        place = known.table.to_ours(name) or known.row_of_theirs(name)
        assert place or any(name.startswith(begin) for begin in known.not_ours), name


@pytest.mark.parametrize(
    "spelling",
    [
        "module.bert.embeddings.LayerNorm.gamma",
        "lxrt_encoder.model.module.bert.embeddings.LayerNorm.weight",
        "lxmert.embeddings.LayerNorm.weight",
        "embeddings.LayerNorm.gamma",
    ],
)
def test_spellings_of_a_name_are_one(spelling: str) -> None:
    assert normalised_name(spelling) == "bert.embeddings.LayerNorm.weight"


def test_a_bias_was_called_beta_once() -> None:
    assert (
        normalised_name("module.cls.predictions.transform.LayerNorm.beta") == "cls.predictions.transform.LayerNorm.bias"
    )


def test_numbers_are_taken_out_of_a_name() -> None:
    assert numbers_out("backbone.layers.12.cross.key.bias") == ("backbone.layers.{k}.cross.key.bias", ["12"])
    assert numbers_out("cls.LayerNorm") == ("cls.LayerNorm", [])
