"""What is taken from foreign weights, what is left out and why, and what is refused; and the way back."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import pytest
import torch
from foreign_weights import CLS_ID, MODEL, bert, lxmert, lxmert_s
from torch import Tensor

from msp_ds.config import ModelConfig
from msp_ds.errors import InputError
from msp_ds.exchange.weights_import import model_shapes
from msp_ds.model.weights.conversion import (
    ConversionOptions,
    ConversionReport,
    RenamedWeights,
    check_fit,
    rename_weights,
    sizes_of,
    tied,
    to_theirs,
    untied,
)
from msp_ds.model.weights.forms import FORMS, get_form


def reading(form: str, *, model: ModelConfig = MODEL, **changes: Any) -> ConversionOptions:
    fields = {"form": FORMS[form], "model": frozenset(model_shapes(model)), "cls_id": CLS_ID, "where": "some.pth"}
    return ConversionOptions(**{**fields, **changes})


def brought_in(tensors: dict[str, Tensor], form: str, **changes: Any) -> tuple[RenamedWeights, ConversionReport]:
    how = reading(form, **changes)
    taken = rename_weights(tensors, how)
    return taken, check_fit(taken, how, shapes=model_shapes(changes.get("model", MODEL)))


def test_all_of_lxmert_s_is_taken() -> None:
    foreign = lxmert_s()
    taken, report = brought_in(foreign, "lxmert-s")
    assert (report.fresh, report.absent_heads) == ((), ())
    assert taken.weights.keys() == model_shapes(MODEL).keys() - {"heads.token.decoder.weight"}
    assert torch.equal(taken.weights["backbone.region_pooler.bias"], foreign["bert.pooler_f.dense.bias"])
    assert torch.equal(taken.weights["heads.topic.dense.weight"], foreign["cls.seq_relationship_new.weight"])


def test_of_the_visual_table_the_row_of_cls_is_taken_and_of_the_types_the_first() -> None:
    foreign = lxmert_s()
    taken, report = brought_in(foreign, "lxmert-s")
    assert torch.equal(taken.weights["backbone.regions.cls_feature"], foreign["bert.word_embeddings.weight"][2])
    types = foreign["bert.embeddings.token_type_embeddings.weight"]
    assert torch.equal(taken.weights["backbone.text.type_vector"], types[0])
    assert report.taken["backbone.regions.cls_feature"] == "bert.word_embeddings.weight[2]"
    assert set(report.left_out) == {
        "bert.word_embeddings.weight[the other rows]",
        "bert.embeddings.token_type_embeddings.weight[the other rows]",
    }


def test_lxmert_lacks_the_visual_cls_and_the_topic_head() -> None:
    _, report = brought_in(lxmert(language=3, region=1), "lxmert")
    assert report.fresh == (
        "backbone.region_pooler.bias",
        "backbone.region_pooler.weight",
        "backbone.regions.cls_feature",
    )
    assert report.absent_heads == ("topic",)
    reasons = {name: why for name, why in report.left_out.items() if "layer." in name}
    assert len(reasons) == 3 * 16
    assert reasons["bert.encoder.layer.2.attention.self.query.weight"] == "this model has no such part"
    assert "question answering" in report.left_out["answer_head.logit_fc.0.weight"]


def test_berts_next_sentence_head_is_not_taken_for_the_match_head() -> None:
    taken, report = brought_in(dict(bert().state_dict()), "bert")
    assert "match" in report.absent_heads
    assert not any(name.startswith("heads.match.") for name in taken.weights)
    assert "index 0 says yes there, in the match head here index 1" in report.left_out["cls.seq_relationship.weight"]
    assert len([name for name in report.fresh if name.startswith("backbone.layers.")]) == 2 * 42
    assert report.taken["backbone.text_pooler.weight"] == "bert.pooler.dense.weight"
    assert report.taken["heads.token.decoder.bias"] == "cls.predictions.bias"


def test_old_spellings_and_half_precision_give_the_same_weights() -> None:
    foreign = lxmert_s()
    old = {
        "module." + name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): one
        for name, one in foreign.items()
    }
    expected, spelled = rename_weights(foreign, reading("lxmert-s")), rename_weights(old, reading("lxmert-s"))
    assert all(torch.equal(spelled.weights[name], tensor) for name, tensor in expected.weights.items())
    halved = rename_weights({name: tensor.half() for name, tensor in foreign.items()}, reading("lxmert-s"))
    assert {tensor.dtype for tensor in halved.weights.values()} == {torch.float32}


def test_a_head_of_another_task_is_carried_along() -> None:
    answers = torch.randn(3, 64)
    taken, report = brought_in(lxmert_s() | {"heads.vqa.out.weight": answers}, "lxmert-s")
    assert torch.equal(taken.weights["heads.vqa.out.weight"], answers)
    assert report.taken["heads.vqa.out.weight"] == "heads.vqa.out.weight"


def test_what_data_decide_is_read_off_the_weights() -> None:
    taken = rename_weights(lxmert_s(), reading("lxmert-s"))
    assert sizes_of(taken.weights) == {"vocab_size": 40, "feature_width": 16, "num_objects": 7, "num_attributes": 5}
    assert sizes_of({}) == {}


X_LAYER = "bert.encoder.x_layers.1.visual_attention.att.query.weight"
FAULTS = [
    (lambda weights: weights.pop(X_LAYER), f"some.pth lacks {X_LAYER}, part of the released LXMERT-S; check --from"),
    (
        lambda weights: [weights.pop(name) for name in list(weights) if "x_layers.1." in name],
        "lacks bert.encoder.x_layers.1.visual_attention.att.key.bias and 41 more, part of",
    ),
    (lambda weights: weights.pop("bert.pooler_f.dense.bias"), "lacks bert.pooler_f.dense.bias, part of"),
    (lambda weights: weights.pop("cls.LayerNorm.bias"), "lacks cls.LayerNorm.bias, part of"),
    (lambda weights: weights.pop("bert.word_embeddings.weight"), "lacks bert.word_embeddings.weight, part of"),
    (
        lambda weights: weights.update({"bert.surprise": torch.zeros(1)}),
        "holds bert.surprise, which is no part of the released LXMERT-S; check --from, or leave such tensors out",
    ),
    (
        lambda weights: weights.update({X_LAYER: torch.zeros(32, 32)}),
        f"some.pth is of another model: {X_LAYER} is (32, 32) there, backbone.layers.1.cross.query.weight (64, 64) "
        "here; name the model that fits with --preset or --set",
    ),
    (
        lambda weights: weights.update({X_LAYER.replace("1", "2"): torch.zeros(64, 64)}),
        "this model has no backbone.layers.2.cross.query.weight",
    ),
    (
        lambda weights: weights.update({f"module.{X_LAYER}": torch.zeros(64, 64)}),
        f"holds {X_LAYER} and module.{X_LAYER}, which are two names of the same weights",
    ),
    (lambda weights: weights.update({X_LAYER: torch.full((64, 64), torch.nan)}), "holds numbers that are not finite"),
    (lambda weights: weights.update({X_LAYER: torch.zeros(64, 64, dtype=torch.int8)}), "holds int8, not plain weights"),
    (
        lambda weights: weights.update({"cls.predictions.decoder.weight": torch.zeros(40, 64)}),
        "the token head's decoder is not the table of word embeddings, to which it is tied",
    ),
    (
        lambda weights: weights["bert.word_embeddings.weight"][2].zero_(),
        "row 2, that of [CLS], is all zero; give the right vocabulary with --vocab",
    ),
    (
        lambda weights: weights.update({"bert.word_embeddings.weight": torch.ones(2, 16)}),
        "is (2, 16); a table with a row 2 was expected",
    ),
]


@pytest.mark.parametrize(("spoil", "complaint"), FAULTS, ids=[complaint[:50] for _, complaint in FAULTS])
def test_weights_that_do_not_fit_are_refused(spoil: Any, complaint: str) -> None:
    weights = lxmert_s()
    spoil(weights)
    with pytest.raises(InputError, match=re.escape(complaint)) as error:
        brought_in(weights, "lxmert-s")
    assert "\n" not in str(error.value)


def test_unknown_tensors_can_be_left_out() -> None:
    weights = lxmert_s() | {"bert.surprise": torch.zeros(1)}
    _, report = brought_in(weights, "lxmert-s", drop_unknown=True)
    assert report.left_out["bert.surprise"] == "no part of this form of weights"


def test_the_row_of_cls_needs_the_vocabulary() -> None:
    with pytest.raises(
        InputError, match=r"the one row of bert.word_embeddings.weight is that of \[CLS\]; give --vocab"
    ):
        rename_weights(lxmert_s(), reading("lxmert-s", cls_id=None))


def test_a_topic_head_with_a_norm_is_not_taken_as_a_plain_one() -> None:
    plain = dataclasses.replace(MODEL, topic_head="plain")
    with pytest.raises(InputError, match=r"it holds cls.LayerNorm.bias, for which this model has no heads.topic.norm"):
        brought_in(lxmert_s(), "lxmert-s", model=plain)


def test_an_unknown_form_is_named() -> None:
    with pytest.raises(InputError, match="no form of weights is called 'uniter'; forms are lxmert-s, lxmert, bert"):
        get_form("uniter")


@pytest.mark.parametrize("form", ["lxmert-s", "hf-lxmert"])
def test_there_and_back_changes_no_bit(form: str) -> None:
    weights = rename_weights(lxmert_s() | {"heads.vqa.out.weight": torch.randn(3, 64)}, reading("lxmert-s")).weights
    theirs, extra = to_theirs(weights, FORMS[form], cls_id=CLS_ID, where="some run")
    again = rename_weights(theirs | extra, reading(form)).weights
    assert again.keys() == weights.keys()
    assert all(torch.equal(again[name], tensor) for name, tensor in weights.items())


def test_hugging_face_has_no_name_for_what_lxmert_s_adds() -> None:
    weights = rename_weights(lxmert_s(), reading("lxmert-s")).weights
    theirs, extra = to_theirs(weights, FORMS["hf-lxmert"], cls_id=None, where="some run")
    assert sorted(extra) == [
        "backbone.region_pooler.bias",
        "backbone.region_pooler.weight",
        "backbone.regions.cls_feature",
        "heads.topic.dense.bias",
        "heads.topic.dense.weight",
        "heads.topic.norm.bias",
        "heads.topic.norm.weight",
    ]
    expected = {name for name in lxmert() if not name.startswith("answer_head.")}
    assert theirs.keys() == expected - {"cls.predictions.decoder.weight"}


def test_a_table_of_which_one_row_is_read_is_zero_elsewhere() -> None:
    weights = rename_weights(lxmert_s(), reading("lxmert-s")).weights
    table = to_theirs(weights, FORMS["lxmert-s"], cls_id=CLS_ID, where="")[0]["bert.word_embeddings.weight"]
    assert table.shape == (40, 16)
    assert table.any(dim=1).nonzero().flatten().tolist() == [CLS_ID]


def test_an_encoder_of_another_kind_has_no_place_there() -> None:
    weights = rename_weights(lxmert_s(), reading("lxmert-s")).weights
    weights["backbone.layers.0.self_attention.query.weight"] = torch.zeros(64, 64)
    complaint = "for which Hugging Face's LXMERT has no place; export it with --to safetensors"
    with pytest.raises(InputError, match=complaint):
        to_theirs(weights, FORMS["hf-lxmert"], cls_id=None, where="some run")


def test_berts_layers_go_to_the_text_alone_or_to_a_single_stream() -> None:
    layers, family = dict(bert().state_dict()), {"visual_cls": False, "positions": "pieces"}
    changes: dict[str, Any] = {"encoder": "single-stream", "num_layers": 3, **family}
    taken, report = brought_in(layers, "bert", model=dataclasses.replace(MODEL, **changes))
    assert all(name.startswith("backbone.regions.") for name in report.fresh)
    expected = layers["bert.encoder.layer.2.output.dense.weight"]
    assert torch.equal(taken.weights["backbone.layers.2.feed_forward.narrow.weight"], expected)
    changes = {"language_layers": 3, **family}
    taken, report = brought_in(layers, "bert", model=dataclasses.replace(MODEL, **changes))
    assert torch.equal(taken.weights["backbone.language_layers.2.feed_forward.narrow.weight"], expected)
    assert len([name for name in report.fresh if name.startswith("backbone.layers.")]) == 2 * 42


def test_the_tied_decoder_is_the_table_of_words() -> None:
    words = torch.randn(4, 2)
    bare = {"backbone.text.word.weight": words, "heads.token.decoder.bias": torch.zeros(4)}
    assert tied(bare)["heads.token.decoder.weight"] is words
    assert untied(tied(bare), where="").keys() == bare.keys()
    assert tied({"backbone.text.word.weight": words}).keys() == {"backbone.text.word.weight"}
