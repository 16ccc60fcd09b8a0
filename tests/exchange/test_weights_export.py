"""Exports load in other projects, compute the same there, list their differences, and import again bit for bit."""

from __future__ import annotations

import dataclasses
import html
import re
from pathlib import Path
from typing import Any

import markdown
import pytest
import torch
from foreign_weights import MODEL, PIECES, a_stored_model, write_vocabulary
from small_world import files_below
from tiny import FP32_BOUND
from transformers import AutoTokenizer, LxmertForPreTraining, LxmertModel

from msp_ds.data.format.text import WordPieces
from msp_ds.data.format.vocabulary import train_vocabulary
from msp_ds.errors import InputError
from msp_ds.exchange.weights_card import ExportForm, model_card
from msp_ds.exchange.weights_export import ExportPlan, export_weights
from msp_ds.exchange.weights_import import ImportPlan, import_weights
from msp_ds.model.encoder import Backbone
from msp_ds.model.heads import HEADS, build_heads
from msp_ds.model.weights.conversion import tied
from msp_ds.records import Batch
from msp_ds.training.checkpointing.weights_folder import (
    Grade,
    History,
    TrainedSet,
    TrainedStage,
    WeightsCard,
    read_folder_weights,
    read_stored,
)
from tools.check.equality_with_transformers import a_batch, their_inputs

COMES_BACK: dict[ExportForm, str | None] = {"hf": "hf-lxmert", "lxmert-s": "lxmert-s", "safetensors": None}
"""Form -> that of the import; a weights folder needs none."""


def export(source: Path, form: ExportForm, out: Path, **changes: Any) -> tuple[str, ...]:
    return export_weights(ExportPlan(source=source, form=form, out=out, **changes)).remarks


@pytest.mark.parametrize("form", COMES_BACK)
@pytest.mark.parametrize("with_words", [True, False], ids=["known words", "unknown words"])
def test_out_in_and_out_again_gives_the_same_bytes(tmp_path: Path, form: ExportForm, with_words: bool) -> None:
    model = MODEL if with_words else dataclasses.replace(MODEL, vocab_size=30522)
    vqa = {"heads__vqa__out__weight": torch.randn(3, 64)}
    source = a_stored_model(tmp_path, model=model, with_words=with_words, **vqa)
    export(source, form, tmp_path / "one")
    kind, between = COMES_BACK[form], tmp_path / "one"
    if kind is not None:
        between = tmp_path / "between"
        report = import_weights(ImportPlan(source=tmp_path / "one", form=kind, out=between)).report
        assert report is not None
        assert (report.fresh, report.absent_heads, report.remarks) == ((), (), ())
    export(between, form, tmp_path / "two")
    names = files_below(tmp_path / "one")
    assert names == files_below(tmp_path / "two")
    assert {"README.md", "model.json"} <= names
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name
    before, after = read_stored(source), read_stored(between)
    assert after.card == before.card
    assert after.weights.keys() == before.weights.keys()
    assert all(torch.equal(after.weights[name], tensor) for name, tensor in before.weights.items())
    assert torch.equal(after.weights["heads.vqa.out.weight"], vqa["heads__vqa__out__weight"])


def test_transformers_loads_the_folder_and_misses_nothing(tmp_path: Path) -> None:
    export(a_stored_model(tmp_path), "hf", tmp_path / "hf")
    for kind in (LxmertModel, LxmertForPreTraining):
        model, loading = kind.from_pretrained(tmp_path / "hf", output_loading_info=True)
        assert not loading["missing_keys"]
        assert not loading["mismatched_keys"]
        if kind is LxmertForPreTraining:
            assert not loading["unexpected_keys"]
        assert (model.config.l_layers, model.config.r_layers, model.config.x_layers) == (0, 0, 2)


TEXTS = [
    "Is the horse's tail on?",
    "a #1 sign, [not] a U.S.A. t-shirt",
    "Caf\u00e9 \u6211\u4eec\u4f60\u597d\u3002 na\u00efve\u2026 \ud55c\uad6d \u3044\u306c",
    "tab\tnew\nline \u00a0 zero\u200bwidth \x0b e\u0301 \ufffd",
    "unphotographable " + "x" * 120,
    "",
]


@pytest.mark.parametrize("known_by", ["tokenizer.json", "vocab.txt"])
def test_transformers_tokenizer_gives_our_ids(tmp_path: Path, known_by: str) -> None:
    words = train_vocabulary(TEXTS)
    (tmp_path / "vocab.txt").write_bytes(words.data)
    model = dataclasses.replace(MODEL, vocab_size=len(words.pieces))
    export(a_stored_model(tmp_path, model=model, with_words=False), "hf", tmp_path / "hf", vocab=tmp_path / "vocab.txt")
    if known_by == "vocab.txt":  # what older versions read
        (tmp_path / "hf" / "tokenizer.json").unlink()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "hf")
    ours = WordPieces(words)
    for text in TEXTS:
        assert tokenizer(text)["input_ids"] == ours.encode(text, max_tokens=99).token_ids, text
    first, second = (ours.ids_of(text) for text in TEXTS[:2])
    assert tokenizer(*TEXTS[:2])["input_ids"] == [ours.cls_id, *first, ours.sep_id, *second, ours.sep_id]
    assert (tokenizer.model_max_length, tokenizer.vocab_size) == (32, len(words.pieces))
    specials = {name: tokenizer.convert_tokens_to_ids(piece) for name, piece in tokenizer.special_tokens_map.items()}
    assert specials == {"pad_token": 0, "unk_token": 1, "cls_token": 2, "sep_token": 3, "mask_token": 4}
    assert tokenizer.decode(tokenizer("is the horse on")["input_ids"], skip_special_tokens=True) == "is the horse on"


def of_words(batch: Batch) -> Batch:
    """The batch with positions of whole words: two pieces a word, [CLS] first, padding 0."""
    places = torch.arange(batch.token_ids.shape[1])
    positions = torch.where(places == 0, 1, (places - 1) // 2 + 2)
    return dataclasses.replace(batch, word_positions=positions * batch.token_mask)


@torch.no_grad()
def test_the_code_on_the_card_gives_our_states(tmp_path: Path) -> None:
    source = a_stored_model(tmp_path)
    export(source, "hf", tmp_path / "hf")
    code = re.search(r"states of msp-ds:\n\n```python\n(.*?)```", (tmp_path / "hf" / "README.md").read_text(), re.S)
    assert code is not None
    names: dict[str, Any] = {"FOLDER": tmp_path / "hf"}
    exec(code[1], names)
    backbone = Backbone(MODEL).eval()
    weights = read_folder_weights(source)
    backbone.load_state_dict(
        {name.removeprefix("backbone."): tensor for name, tensor in weights.items() if name.startswith("backbone.")}
    )
    for seed, shape in enumerate([(2, 7, 5), (3, 12, 10)]):
        batch = of_words(a_batch(MODEL, shape, seed=seed))
        ours = backbone(batch)
        text, regions, pair = names["encode"](
            batch.token_ids, batch.word_positions, batch.token_mask, batch.features, batch.boxes, batch.region_mask
        )
        for one, other in ((text, ours.text), (regions, ours.regions), (pair, ours.pair)):
            torch.testing.assert_close(one, other, atol=FP32_BOUND, rtol=0)


def test_the_released_form_has_the_released_names_and_tables(tmp_path: Path) -> None:
    source = a_stored_model(tmp_path)
    export(source, "lxmert-s", tmp_path / "out")
    saved = torch.load(tmp_path / "out" / "lxmert_s_LXRT.pth", weights_only=True)
    weights = read_folder_weights(source)
    assert all(name.startswith(("bert.", "cls.", "obj_predict_head.")) for name in saved)
    assert saved["bert.word_embeddings.weight"].shape == (len(PIECES), 16)
    assert torch.equal(
        saved["bert.word_embeddings.weight"][PIECES.index("[CLS]")], weights["backbone.regions.cls_feature"]
    )
    assert torch.equal(saved["bert.pooler_f.dense.bias"], weights["backbone.region_pooler.bias"])
    assert torch.equal(saved["bert.embeddings.token_type_embeddings.weight"][0], weights["backbone.text.type_vector"])
    assert (
        saved["cls.predictions.decoder.weight"].data_ptr() == saved["bert.embeddings.word_embeddings.weight"].data_ptr()
    )


@torch.enable_grad()
def taught_to_match(folder: Path) -> tuple[Path, Batch, torch.Tensor]:
    """Weights whose match head has learnt eight pairs by heart, those pairs, and whether each matches.

    The pooled visual [CLS] is 1, so that the pair is the pooled text, all that transformers' match head reads.
    """
    source = a_stored_model(folder)
    weights = read_folder_weights(source)
    backbone = Backbone(MODEL).eval()
    heads = build_heads(HEADS, MODEL, backbone).eval()
    backbone.load_state_dict(
        {name.removeprefix("backbone."): tensor for name, tensor in weights.items() if name.startswith("backbone.")}
    )
    with torch.no_grad():
        backbone.region_pooler.weight.zero_()
        backbone.region_pooler.bias.fill_(20.0)
    batch, matched = a_batch(MODEL, (8, 6, 4), seed=1), torch.tensor([1, 0, 1, 1, 0, 0, 1, 0])
    optimiser = torch.optim.Adam([*backbone.text_pooler.parameters(), *heads["match"].parameters()], lr=0.02)
    for _ in range(60):
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(heads["match"](backbone(batch).pair), matched).backward()
        optimiser.step()
    stored = {f"backbone.{name}": tensor for name, tensor in backbone.state_dict().items()}
    stored |= {f"heads.{name}": tensor for name, tensor in heads.state_dict().items()}
    taught = a_stored_model(folder / "taught", **{name.replace(".", "__"): tensor for name, tensor in stored.items()})
    return taught, batch, matched


@torch.no_grad()
def test_index_1_says_matched_wherever_the_weights_go(tmp_path: Path) -> None:
    taught, batch, matched = taught_to_match(tmp_path)
    export(taught, "hf", tmp_path / "hf")
    export(taught, "lxmert-s", tmp_path / "lxmert-s")
    theirs = LxmertForPreTraining.from_pretrained(tmp_path / "hf").eval()
    cls_feature = read_folder_weights(taught)["backbone.regions.cls_feature"]
    scores = theirs(**their_inputs(batch, cls_feature)).cross_relationship_score
    assert scores.argmax(-1).tolist() == matched.tolist()
    for form, folder in (("hf-lxmert", "hf"), ("lxmert-s", "lxmert-s")):
        import_weights(ImportPlan(source=tmp_path / folder, form=form, out=tmp_path / f"{folder}-back"))
        weights = tied(read_folder_weights(tmp_path / f"{folder}-back"))
        backbone = Backbone(MODEL).eval()
        heads = build_heads(HEADS, MODEL, backbone)
        torch.nn.ModuleDict({"backbone": backbone, "heads": heads}).load_state_dict(weights)
        torch.testing.assert_close(heads["match"](backbone(batch).pair), scores, atol=FP32_BOUND, rtol=0)


def test_the_export_says_where_a_form_differs(tmp_path: Path) -> None:
    source = a_stored_model(tmp_path)
    remarks = " ".join(export(source, "hf", tmp_path / "hf"))
    for word in ("no visual [CLS]", "counts word pieces from 0", "cross_relationship_score reads", "topic head"):
        assert word in remarks
        assert word in " ".join((tmp_path / "hf" / "README.md").read_text().split())
    assert export(source, "safetensors", tmp_path / "plain") == ()
    assert export(source, "lxmert-s", tmp_path / "released") == ()
    other = dataclasses.replace(MODEL, region_gate="none", topic_head="plain", layer_norm_eps=1e-6)
    plain = a_stored_model(tmp_path / "other", model=other)
    remarks = " ".join(export(plain, "lxmert-s", tmp_path / "differs"))
    for word in ("multiplies a region by the pair", "plain linear layer", "eps 1e-06 here"):
        assert word in remarks


@pytest.mark.parametrize("form", COMES_BACK)
def test_a_folder_is_not_overwritten_without_the_flag(tmp_path: Path, form: ExportForm) -> None:
    source = a_stored_model(tmp_path)
    export(source, form, tmp_path / "out")
    (tmp_path / "out" / "note").write_text("mine")
    with pytest.raises(InputError, match=r"out holds weights already; name another --out, or .* --overwrite"):
        export(source, form, tmp_path / "out")
    with pytest.raises(InputError, match=r"out/note does not belong to exported weights and would be deleted; move it"):
        export(source, form, tmp_path / "out", overwrite=True)
    assert (tmp_path / "out" / "note").read_text() == "mine"
    (tmp_path / "out" / "note").unlink()
    (tmp_path / "out").rename(tmp_path / "disk")
    (tmp_path / "out").symlink_to("disk")
    export(source, form, tmp_path / "out", overwrite=True)
    assert (tmp_path / "out").is_symlink()
    assert "model.json" in files_below(tmp_path / "disk")


def test_a_folder_of_other_things_is_never_written_over(tmp_path: Path) -> None:
    source = a_stored_model(tmp_path)
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match="home holds other files than exported weights"):
        export(source, "hf", tmp_path / "home", overwrite=True)
    assert files_below(tmp_path / "home") == {"thesis.tex"}


def test_a_failed_export_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = a_stored_model(tmp_path)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("msp_ds.exchange.weights_export.write_card", full)
    (tmp_path / "place").mkdir()
    with pytest.raises(InputError, match=r"out cannot be written \(No space left on device\); name another --out"):
        export(source, "hf", tmp_path / "place" / "out")
    assert list((tmp_path / "place").iterdir()) == []


def test_the_vocabulary_must_be_that_of_the_weights(tmp_path: Path) -> None:
    source = a_stored_model(tmp_path)
    other = write_vocabulary(tmp_path / "other")
    other.write_text(other.read_text() + "more\n")
    with pytest.raises(InputError, match=r"vocab.txt is not the vocabulary that .* was trained with"):
        export(source, "hf", tmp_path / "hf", vocab=other)
    (source / "vocab.txt").unlink()
    with pytest.raises(InputError, match=r"is not accessible; name its vocab\.txt"):
        export(source, "hf", tmp_path / "hf")
    export(source, "hf", tmp_path / "hf", vocab=write_vocabulary(tmp_path / "words"))
    assert (tmp_path / "hf" / "vocab.txt").is_file()


def test_the_row_of_cls_must_be_known_for_the_released_form(tmp_path: Path) -> None:
    source = a_stored_model(tmp_path, with_words=False)
    with pytest.raises(
        InputError, match=r"the one row of bert.word_embeddings.weight is that of \[CLS\]; give --vocab"
    ):
        export(source, "lxmert-s", tmp_path / "out")


def test_a_licence_is_on_the_card_and_is_kept(tmp_path: Path) -> None:
    export(a_stored_model(tmp_path), "hf", tmp_path / "hf", licence="CC BY 4.0")
    import_weights(ImportPlan(source=tmp_path / "hf", form="hf-lxmert", out=tmp_path / "in"))
    export(tmp_path / "in", "safetensors", tmp_path / "out")
    assert "## Licence\n\nCC BY 4.0\n" in (tmp_path / "out" / "README.md").read_text()


def test_names_from_elsewhere_stand_on_the_card_as_they_are_and_never_as_markdown() -> None:
    evil = "---\n# x | `y` **z** <script>a&b</script> ![i](http://a/b) \u202e"
    stage = TrainedStage(
        name=evil, tasks=(evil,), epochs=1, batch_size=2, steps=3, finished=True, validation={f"loss/{evil}": 1.0}
    )
    one = TrainedSet(name=evil, index_sha256=evil, num_images=None, num_pairs=None, extractor=evil)
    grade = Grade(task=evil, protocol=evil, values={evil: 1.0})
    history = History(
        preset=evil,
        curriculum=evil,
        drop=(evil,),
        seed=1,
        init=evil,
        git_commit=evil,
        stages=(stage,),
        data=(one,),
        grades=(grade,),
    )
    trained = WeightsCard(model=MODEL, vocabulary_sha256=None, source=evil, licence=evil, history=history)
    imported = dataclasses.replace(trained, history=None, inputs_sha256={evil: evil})
    for card in (trained, imported):
        text = model_card(card, "safetensors", heads=())
        assert text.split("---\n")[1] == "license: other\ntags: [vision-and-language, lxmert, msp]\n"
        page = markdown.markdown(text.split("---\n", 2)[2], extensions=["tables"])
        assert not re.search("<(script|img|a|strong|em|hr)\\b", page)
        assert len(re.findall("<h1>", page)) == 1
        assert html.unescape(page).count("# x | `y` **z** <script>a&b</script> ![i](http://a/b) \\u202e") == (
            page.count("a&amp;b")
        )
