"""A weights folder: the files of an import, and training from it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from foreign_weights import MODEL, SETTINGS, bert, hf_lxmert, lxmert, lxmert_s, write_vocabulary
from safetensors.torch import load_file
from small_world import files_below

from msp_ds.config import RunConfig
from msp_ds.data.format.shards import open_set
from msp_ds.errors import CheckpointError, InputError, ShardError
from msp_ds.exchange.weights_import import ImportPlan, import_weights
from msp_ds.model.encoder import Backbone
from msp_ds.model.heads import HEADS, build_heads
from msp_ds.training.checkpointing import inference
from msp_ds.training.checkpointing.checkpoint import load_backbone, read_weights
from msp_ds.training.checkpointing.inference import load_trained
from msp_ds.training.checkpointing.run_folder import check_same_backbone, find_checkpoint
from msp_ds.training.checkpointing.weights_folder import (
    StoredWeights,
    WeightsCard,
    is_weights_folder,
    prepared_folder,
    read_card,
    read_folder_weights,
    write_card,
    write_weights,
)
from msp_ds.training.options import RunOptions
from msp_ds.training.planning import new_config


def brought_in(source: Path, form: str, out: Path, **changes: Any) -> WeightsCard:
    return import_weights(ImportPlan(source=source, form=form, out=out, **{"settings": SETTINGS, **changes}))


@pytest.fixture
def released(tmp_path: Path) -> Path:
    """An LXMERT-S checkpoint and its vocabulary."""
    torch.save(lxmert_s(), tmp_path / "model_LXRT.pth")
    write_vocabulary(tmp_path)
    return tmp_path / "model_LXRT.pth"


def test_the_folder_says_where_its_weights_are_from(released: Path, tmp_path: Path) -> None:
    card = brought_in(released, "lxmert-s", tmp_path / "out", vocab=tmp_path / "vocab.txt")
    assert files_below(tmp_path / "out") == {"weights.safetensors", "model.json", "vocab.txt"}
    written = json.loads((tmp_path / "out" / "model.json").read_text())
    assert (written["format"], written["version"], written["source"]) == (
        "msp-ds weights",
        2,
        "lxmert-s model_LXRT.pth",
    )
    assert written["inputs_sha256"] == {"model_LXRT.pth": hashlib.sha256(released.read_bytes()).hexdigest()}
    assert written["vocabulary_sha256"] == hashlib.sha256((tmp_path / "vocab.txt").read_bytes()).hexdigest()
    assert written["report"]["taken"]["heads.match.dense.weight"] == "cls.seq_relationship.weight"
    assert read_card(tmp_path / "out") == card
    assert card.model == MODEL
    stored = load_file(tmp_path / "out" / "weights.safetensors")
    assert "heads.token.decoder.weight" not in stored
    assert read_folder_weights(tmp_path / "out")["heads.token.decoder.weight"].shape == (40, 64)


def fine_tuned(**head: tuple[int, ...]) -> dict[str, torch.Tensor]:
    """What the released code for fine-tuning saves on several GPUs: the backbone wrapped, a head of such shapes."""
    backbone = {
        f"lxrt_encoder.model.module.{name}": one for name, one in lxmert_s().items() if name.startswith("bert.")
    }
    return backbone | {name.replace("__", "."): torch.randn(*shape) for name, shape in head.items()}


def logit_fc(inputs: int, outputs: int) -> dict[str, tuple[int, ...]]:
    """Linear, GELU, LayerNorm, Linear, 128 wide inside."""
    shapes = {"0__weight": (128, inputs), "0__bias": (128,), "2__weight": (128,), "2__bias": (128,)}
    shapes |= {"3__weight": (outputs, 128), "3__bias": (outputs,)}
    return {f"logit_fc__{name}": shape for name, shape in shapes.items()}


FINE_TUNED: list[tuple[dict[str, tuple[int, ...]], dict[str, str]]] = [
    (
        logit_fc(64, 3),
        {
            "heads.answer.dense.weight": "logit_fc.0.weight",
            "heads.answer.norm.bias": "logit_fc.2.bias",
            "heads.answer.decoder.weight": "logit_fc.3.weight",
        },
    ),
    (
        logit_fc(128, 2),
        {"heads.statement.dense.weight": "logit_fc.0.weight", "heads.statement.decoder.bias": "logit_fc.3.bias"},
    ),
    (
        {"seq_relationship_new__weight": (2, 64), "seq_relationship_new__bias": (2,)},
        {
            "heads.match.dense.weight": "seq_relationship_new.weight",
            "heads.match.dense.bias": "seq_relationship_new.bias",
        },
    ),
]


@pytest.mark.parametrize(("head", "places"), FINE_TUNED, ids=["VQA and GQA", "NLVR2", "retrieval"])
@pytest.mark.parametrize("form", ["lxmert-s", "lxmert"])
def test_heads_of_the_fine_tuned_models_are_taken(
    tmp_path: Path, head: dict[str, tuple[int, ...]], places: dict[str, str], form: str
) -> None:
    source_weights = fine_tuned(**head)
    if form == "lxmert":
        source_weights = {
            name: one for name, one in source_weights.items() if "pooler_f" not in name and "bert.word_emb" not in name
        }
    torch.save(source_weights, tmp_path / "BEST.pth")
    card = brought_in(tmp_path / "BEST.pth", form, tmp_path / "out", vocab=write_vocabulary(tmp_path))
    weights = read_weights(tmp_path / "out")
    assert card.report is not None
    for ours, theirs in places.items():
        assert card.report.taken[ours] == theirs
        assert torch.equal(weights[ours], source_weights[theirs])
    kind = next(iter(places)).split(".")[1]
    assert card.report.absent_heads == tuple(sorted({"match", "region", "token", "topic"} - {kind}))
    assert card.model.num_answers == (3 if kind == "answer" else 0)


def test_an_answer_head_that_does_not_fit_its_answers_or_the_model_is_refused(tmp_path: Path) -> None:
    torch.save(fine_tuned(**logit_fc(64, 3)), tmp_path / "vqa.pth")
    (tmp_path / "answers.json").write_text('["yes", "no"]')
    files = {"vocab": write_vocabulary(tmp_path), "answers": tmp_path / "answers.json"}
    with pytest.raises(InputError, match=r"vqa.pth chooses among 3 answers, .*answers.json lists 2; name those"):
        brought_in(tmp_path / "vqa.pth", "lxmert-s", tmp_path / "out", **files)
    torch.save(fine_tuned(**logit_fc(32, 3)), tmp_path / "narrow.pth")
    with pytest.raises(InputError, match=r"logit_fc.0.weight is \(128, 32\) there, heads.answer.dense.weight"):
        brought_in(tmp_path / "narrow.pth", "lxmert-s", tmp_path / "out", vocab=write_vocabulary(tmp_path))
    torch.save(lxmert_s(), tmp_path / "pretrained.pth")
    with pytest.raises(InputError, match=r"has no head that chooses among answers; leave --answers out"):
        brought_in(tmp_path / "pretrained.pth", "lxmert-s", tmp_path / "out", **files)


@pytest.mark.parametrize(
    "name",
    ["logit_fc.3.weight", "logit_fc.0.weight", "lxrt_encoder.model.module.bert.embeddings.word_embeddings.weight"],
)
def test_a_single_number_in_the_place_of_a_table_is_refused(tmp_path: Path, name: str) -> None:
    torch.save(fine_tuned(**logit_fc(64, 3)) | {name: torch.tensor(1.0)}, tmp_path / "spoilt.pth")
    with pytest.raises(InputError, match=r"spoilt\.pth (is of another model|has 30522 word pieces)"):
        brought_in(tmp_path / "spoilt.pth", "lxmert-s", tmp_path / "out", vocab=write_vocabulary(tmp_path))


def test_lxmerts_pretrained_answer_head_is_taken_where_its_answers_are_named(tmp_path: Path) -> None:
    torch.save(lxmert(), tmp_path / "lxmert.pth")  # its answer head has three answers
    left_out = brought_in(tmp_path / "lxmert.pth", "lxmert", tmp_path / "without").report
    assert left_out is not None
    assert left_out.left_out["answer_head.logit_fc.3.bias"] == (
        "LXMERT's head for question answering; name its answers with --answers all_ans.json to take it"
    )
    (tmp_path / "all_ans.json").write_text(json.dumps([{"ans": name, "dsets": ["vqa"]} for name in "abc"]))
    card = brought_in(tmp_path / "lxmert.pth", "lxmert", tmp_path / "with", answers=tmp_path / "all_ans.json")
    assert (card.model.num_answers, card.answers_sha256) == (3, hashlib.sha256(b'["a", "b", "c"]').hexdigest())
    head = read_weights(tmp_path / "with")["heads.answer.decoder.bias"]
    assert torch.equal(head, lxmert()["answer_head.logit_fc.3.bias"])


def test_two_heads_for_one_place_are_refused(tmp_path: Path) -> None:
    torch.save(lxmert_s() | {"seq_relationship_new.bias": torch.zeros(2)}, tmp_path / "both.pth")
    with pytest.raises(InputError, match=r"cls.seq_relationship.bias and seq_relationship_new.bias, which are both"):
        brought_in(tmp_path / "both.pth", "lxmert-s", tmp_path / "out", vocab=write_vocabulary(tmp_path))


@pytest.mark.parametrize("wrapper", ["", "bert.", "module.bert.", "model.bert.", "_orig_mod.module.bert."])
def test_a_bare_backbone_of_lxmert_s_is_taken_under_any_wrapper(tmp_path: Path, wrapper: str) -> None:
    backbone = {name.removeprefix("bert."): one for name, one in lxmert_s().items() if name.startswith("bert.")}
    torch.save({"state_dict": {f"{wrapper}{name}": one for name, one in backbone.items()}}, tmp_path / "backbone.pt")
    write_vocabulary(tmp_path)
    report = brought_in(tmp_path / "backbone.pt", "lxmert-s", tmp_path / "out", vocab=tmp_path / "vocab.txt").report
    assert report is not None
    assert (report.fresh, report.absent_heads) == ((), ("match", "region", "token", "topic"))
    weights = read_weights(tmp_path / "out")
    assert torch.equal(weights["backbone.regions.cls_feature"], backbone["word_embeddings.weight"][2])
    assert torch.equal(weights["backbone.region_pooler.bias"], backbone["pooler_f.dense.bias"])


def test_a_region_decoder_that_training_went_without_starts_fresh(tmp_path: Path) -> None:
    source_weights = {name: one for name, one in lxmert_s().items() if "decoder_dict.attr" not in name}
    torch.save(source_weights, tmp_path / "no_attributes.pth")
    report = brought_in(
        tmp_path / "no_attributes.pth", "lxmert-s", tmp_path / "out", vocab=write_vocabulary(tmp_path)
    ).report
    assert report is not None
    assert report.fresh == ("heads.region.attribute_decoder.bias", "heads.region.attribute_decoder.weight")
    weights = read_weights(tmp_path / "out")
    assert weights["heads.region.attribute_decoder.weight"].shape == (400, 64)
    assert torch.equal(
        weights["heads.region.object_decoder.bias"], source_weights["obj_predict_head.decoder_dict.obj.bias"]
    )
    torch.save(
        source_weights | {"obj_predict_head.decoder_dict.attr.weight": torch.zeros(5, 64)}, tmp_path / "torn.pth"
    )
    with pytest.raises(InputError, match=r"lacks obj_predict_head.decoder_dict.attr.bias, part of"):
        brought_in(tmp_path / "torn.pth", "lxmert-s", tmp_path / "other", vocab=write_vocabulary(tmp_path))


def test_what_stays_fresh_depends_on_the_seed_alone(tmp_path: Path) -> None:
    torch.save(lxmert(), tmp_path / "lxmert.pth")
    for name, seed in (("one", 1), ("same", 1), ("other", 2)):
        torch.manual_seed(seed * 17 + len(name))
        brought_in(tmp_path / "lxmert.pth", "lxmert", tmp_path / name, seed=seed)
    one, same, other = (load_file(tmp_path / name / "weights.safetensors") for name in ("one", "same", "other"))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert {name for name in one if not torch.equal(one[name], other[name])} == {
        "backbone.regions.cls_feature",
        "backbone.region_pooler.weight",
    }


def test_what_means_something_else_here_is_remarked(tmp_path: Path) -> None:
    torch.save(lxmert(), tmp_path / "lxmert.pth")
    report = brought_in(tmp_path / "lxmert.pth", "lxmert", tmp_path / "out").report
    assert report is not None
    remarks = " ".join(report.remarks)
    for words in ("the pair was tanh(text pooler) alone", "was not gated by the pair", "counted word pieces from 0"):
        assert words in remarks


def test_a_folder_of_hugging_face_is_brought_in(tmp_path: Path) -> None:
    hf_lxmert(language=1, region=1).save_pretrained(tmp_path / "hf")
    card = brought_in(tmp_path / "hf", "hf-lxmert", tmp_path / "out")
    assert card.report is not None
    assert card.report.taken["backbone.text.word.weight"] == "lxmert.embeddings.word_embeddings.weight"
    assert len([name for name in card.report.left_out if ".layer." in name or ".r_layers." in name]) == 2 * 16


def test_bert_is_brought_in_from_its_folder(tmp_path: Path) -> None:
    bert().save_pretrained(tmp_path / "bert")
    card = brought_in(tmp_path / "bert", "bert", tmp_path / "out")
    assert card.report is not None
    assert card.report.absent_heads == ("match", "region", "topic")
    weights = read_weights(tmp_path / "out")
    assert torch.equal(weights["backbone.text_pooler.bias"], bert().state_dict()["bert.pooler.dense.bias"])
    assert {name.split(".")[1] for name in weights if name.startswith("heads.")} == {"token"}


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        (
            ["hidden_size=128"],
            "its hidden_size is 64, here hidden_size is 128; name the model that fits with --preset or",
        ),
        (["num_layers=3"], "its x_layers is 2, here num_layers is 3; .* --set num_layers=2"),
        (["num_heads=4"], "its num_attention_heads is 2, here num_heads is 4"),
    ],
)
def test_a_folder_of_another_model_is_refused_by_its_config(
    tmp_path: Path, settings: list[str], complaint: str
) -> None:
    hf_lxmert().save_pretrained(tmp_path / "hf")
    with pytest.raises(InputError, match=rf"config.json describes another model: {complaint}"):
        brought_in(tmp_path / "hf", "hf-lxmert", tmp_path / "out", settings=[*SETTINGS, *settings])
    assert not (tmp_path / "out").exists()


def test_an_approximate_gelu_is_refused(tmp_path: Path) -> None:
    hf_lxmert().save_pretrained(tmp_path / "hf")
    path = tmp_path / "hf" / "config.json"
    path.write_text(path.read_text().replace('"hidden_act": "gelu"', '"hidden_act": "gelu_new"'))
    with pytest.raises(InputError, match="has hidden_act gelu_new; only gelu, the exact one, is supported"):
        brought_in(tmp_path / "hf", "hf-lxmert", tmp_path / "out")


def test_a_vocabulary_of_another_size_is_refused(released: Path, tmp_path: Path) -> None:
    words = tmp_path / "vocab.txt"
    words.write_text(words.read_text() + "one more\n")
    with pytest.raises(InputError, match=r"has 40 word pieces, .*vocab.txt lists 41; name the vocabulary"):
        brought_in(released, "lxmert-s", tmp_path / "out", vocab=words)


def test_an_unfinished_folder_is_not_left_behind(tmp_path: Path) -> None:
    def interrupted() -> None:
        with prepared_folder(tmp_path / "out", overwrite=False) as folder:
            (folder / "half").touch()
            raise KeyError

    with pytest.raises(KeyError):
        interrupted()
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_is_cleared_and_a_second_writer_is_refused(tmp_path: Path) -> None:
    (tmp_path / ".out.writing").mkdir()
    for name in ("weights.safetensors", ".tmpbJQS6n"):  # the second as safetensors leaves it
        (tmp_path / ".out.writing" / name).touch()

    def second() -> None:
        with prepared_folder(tmp_path / "out", overwrite=False):
            pytest.fail("two write at once")

    with prepared_folder(tmp_path / "out", overwrite=False) as folder:
        assert list(folder.iterdir()) == []
        (folder / "whole").touch()
        with pytest.raises(InputError, match=r"out\S* is being written by process"):
            second()
    assert files_below(tmp_path) == {"out/whole"}


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("{}", "says no such format"),
        (
            '{"format": "msp-ds weights", "version": 3}',
            "is of version 3, this program reads 2; import or export it again",
        ),
        ('{"format": "msp-ds weights", "version": 2}', "missing key model"),
        ("[", "is not valid JSON"),
    ],
)
def test_a_spoilt_card_is_named(tmp_path: Path, text: str, complaint: str) -> None:
    (tmp_path / "model.json").write_text(text)
    with pytest.raises(InputError, match=rf"model\.json.*{complaint}") as error:
        read_card(tmp_path)
    assert "\n" not in str(error.value)


@pytest.fixture(scope="module")
def for_the_shards(small_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A weights folder of the tiny preset with the words of the small world, and a head of another task."""
    config = new_config(RunOptions(shards=str(small_shards)))
    torch.manual_seed(3)
    backbone = Backbone(config.model)
    heads = build_heads(HEADS, config.model, backbone)
    weights = {f"backbone.{name}": tensor for name, tensor in backbone.state_dict().items()}
    weights |= {f"heads.{name}": tensor for name, tensor in heads.state_dict().items()}
    del weights["heads.token.decoder.weight"]
    weights["heads.vqa.out.bias"] = torch.zeros(3)
    card = WeightsCard(model=config.model, vocabulary_sha256=config.vocabulary_sha256, source="a test")
    folder = tmp_path_factory.mktemp("stored")
    stored = StoredWeights(card=card, weights=weights, vocabulary=None)
    write_weights(folder, stored)
    write_card(folder, stored)
    return folder


def a_run(small_shards: Path, **changes: Any) -> RunConfig:
    return dataclasses.replace(new_config(RunOptions(shards=str(small_shards))), **changes)


def test_training_starts_from_a_weights_folder(small_shards: Path, for_the_shards: Path) -> None:
    assert is_weights_folder(for_the_shards)
    assert find_checkpoint(for_the_shards) == for_the_shards
    config = a_run(small_shards)
    check_same_backbone(for_the_shards, config)
    backbone = Backbone(config.model)
    summary = load_backbone(backbone, for_the_shards)
    assert summary.endswith("heads left behind: match, region, token, topic, vqa")
    assert torch.equal(backbone.text.word.weight, read_weights(for_the_shards)["backbone.text.word.weight"])


def test_a_start_from_weights_of_another_model_or_other_words_is_refused(
    small_shards: Path, for_the_shards: Path
) -> None:
    other = a_run(
        small_shards, model=dataclasses.replace(new_config(RunOptions(shards=str(small_shards))).model, num_layers=3)
    )
    with pytest.raises(CheckpointError, match=r"its num_layers is 2, here it is 3; check --preset \(it is a test\)"):
        check_same_backbone(for_the_shards, other)
    with pytest.raises(CheckpointError, match=r"was trained on another vocabulary .* write the shards with --vocab"):
        check_same_backbone(for_the_shards, a_run(small_shards, vocabulary_sha256="0" * 64))


def test_an_answer_head_is_not_carried_to_other_answers(
    small_shards: Path, for_the_shards: Path, tmp_path: Path
) -> None:
    card = dataclasses.replace(read_card(for_the_shards), answers_sha256="1" * 64)
    stored = StoredWeights(card=card, weights={}, vocabulary=None)
    write_weights(tmp_path, stored)
    write_card(tmp_path, stored)
    other = a_run(small_shards, answers_sha256="2" * 64)
    with pytest.raises(CheckpointError, match=r"chooses among other answers than those of .*--answers FILE"):
        check_same_backbone(tmp_path, other, heads={"answer"})
    check_same_backbone(tmp_path, other)  # the backbone alone knows no answers


def test_weights_that_do_not_name_their_words_are_taken_with_a_warning(
    small_shards: Path, for_the_shards: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    card = dataclasses.replace(read_card(for_the_shards), vocabulary_sha256=None)
    stored = StoredWeights(card=card, weights={}, vocabulary=None)
    write_weights(tmp_path, stored)
    write_card(tmp_path, stored)
    with caplog.at_level(logging.WARNING, "msp_ds"):
        check_same_backbone(tmp_path, a_run(small_shards))
    assert "does not say which word pieces it knows: only their number is compared" in caplog.text


def test_weights_can_be_graded_and_a_head_of_another_task_is_left_alone(
    small_shards: Path, for_the_shards: Path
) -> None:
    held_out = open_set(small_shards / "sentence" / "val")
    model = load_trained(for_the_shards, shards=held_out, needed_heads=("match",), preset="tiny")
    assert sorted(model.heads) == ["match", "region", "token", "topic"]
    assert model.config is None
    match = read_weights(for_the_shards)["heads.match.dense.weight"]
    assert torch.equal(model.heads["match"].dense.weight, match)
    with pytest.raises(CheckpointError, match="is not of preset small: its hidden_size is 128, that of the preset 384"):
        load_trained(for_the_shards, shards=held_out, needed_heads=("match",), preset="small")


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"num_layers": 10**6}, r"model.json.model: num_layers 1000000 is not in 1 to 256"),
        ({"vocab_size": 10**12}, r"model.json.model: vocab_size 1000000000000 is not in 1 to 16,777,216"),
        ({"init_std": float("inf")}, r"model.json should be .* Infinity is not a JSON number"),
        # Half a gigabyte is possible, but the file has other shapes.
        ({"intermediate_size": 1 << 17}, "is of another model: backbone.layers.0.region_feed_forward.narrow.weight is"),
    ],
)
def test_sizes_that_a_card_makes_up_are_refused_before_they_are_allocated(
    small_shards: Path,
    for_the_shards: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, Any],
    complaint: str,
) -> None:
    built: list[torch.device] = []
    monkeypatch.setattr(
        inference, "Backbone", lambda model: built.append(torch.get_default_device()) or Backbone(model)
    )
    (tmp_path / "weights.safetensors").symlink_to(for_the_shards / "weights.safetensors")
    card = json.loads((for_the_shards / "model.json").read_text())
    (tmp_path / "model.json").write_text(json.dumps({**card, "model": {**card["model"], **changes}}))
    held_out = open_set(small_shards / "sentence" / "val")
    with pytest.raises(InputError, match=complaint):
        load_trained(tmp_path, shards=held_out, needed_heads=("match",), preset=None)
    assert set(built) <= {torch.device("meta")}


def test_sizes_that_a_user_makes_up_are_refused(released: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"--set model: num_layers 1000000 is not in 1 to 256"):
        brought_in(released, "lxmert-s", tmp_path / "out", settings=["num_layers=1000000"])


def test_weights_without_a_head_that_is_needed_say_so(small_shards: Path, for_the_shards: Path, tmp_path: Path) -> None:
    weights = load_file(for_the_shards / "weights.safetensors")
    kept = {name: tensor for name, tensor in weights.items() if "heads.match." not in name}
    stored = StoredWeights(card=read_card(for_the_shards), weights=kept, vocabulary=None)
    write_weights(tmp_path, stored)
    write_card(tmp_path, stored)
    held_out = open_set(small_shards / "sentence" / "val")
    with pytest.raises(CheckpointError, match="has heads region, token, topic but no match head"):
        load_trained(tmp_path, shards=held_out, needed_heads=("match",), preset=None)


def test_weights_of_other_words_are_not_graded(small_shards: Path, for_the_shards: Path, tmp_path: Path) -> None:
    card = dataclasses.replace(read_card(for_the_shards), vocabulary_sha256="0" * 64)
    stored = StoredWeights(card=card, weights=load_file(for_the_shards / "weights.safetensors"), vocabulary=None)
    write_weights(tmp_path, stored)
    write_card(tmp_path, stored)
    complaint = re.escape(f"write it with --vocab {tmp_path / 'vocab.txt'}: msp-ds shard --stage sentence")
    with pytest.raises(ShardError, match=complaint):
        load_trained(tmp_path, shards=open_set(small_shards / "sentence" / "val"), needed_heads=("match",), preset=None)
