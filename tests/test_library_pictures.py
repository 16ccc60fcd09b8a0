"""A model is asked about a picture file as about an image of the set: to the last bit where the regions are equal."""

from __future__ import annotations

import dataclasses
import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from colour_detector import ColourDetector
from foreign_weights import PIECES, SETTINGS, hf_lxmert, write_vocabulary
from PIL import Image
from tiny import FP32_BOUND

import msp_ds
from msp_ds.data.format.shards import open_set
from msp_ds.detector_record import DetectorRecord
from msp_ds.errors import CheckpointError, InputError, ShardError
from msp_ds.exchange.weights_import import ImportPlan, import_weights
from msp_ds.library import Model
from msp_ds.training.checkpointing.inference import load_trained

QUESTION = "what color is the ball ?"
TEXTS = ["a red ball on a table", "a blue ball"]
ANSWERS = ["yes", "no", "red"]


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def matcher(photo_site: Path, cache: Path) -> Model:
    return load(photo_site, "tps", "sentence", cache=cache)


@pytest.fixture
def answerer(photo_site: Path, cache: Path) -> Model:
    return load(photo_site, "vqa", "vqa", cache=cache)


def load(site: Path, run: str, stage: str, *, cache: Path, **how: object) -> Model:
    options = {"detector": ColourDetector(), **how}
    return msp_ds.load(site / "runs" / run, shards=site / "shards" / stage / "val", cache=cache, **options)  # type: ignore[arg-type]


def file_of(site: Path, image_id: str) -> Path:
    """The file whose regions the set holds under an id."""
    return site / "photographs" / f"{image_id.removeprefix('coco-')}.png"


def test_a_file_scores_what_the_same_picture_of_the_set_scores_to_the_last_bit(
    photo_site: Path, matcher: Model
) -> None:
    ids = matcher.image_ids
    files = [file_of(photo_site, image_id) for image_id in ids]
    scores = matcher.score(TEXTS, ids)
    assert len(scores[0].unique()) == len(ids)
    assert torch.equal(matcher.score(TEXTS, files), scores)
    mixed = [ids[0], files[1], str(files[2]), ids[3]]
    assert torch.equal(matcher.score(TEXTS, mixed), scores)
    assert torch.equal(matcher.score(TEXTS, files[0]), matcher.score(TEXTS, [ids[0]]))


def test_a_file_gets_the_states_answers_and_attention_of_the_set(photo_site: Path, answerer: Model) -> None:
    for image_id in answerer.image_ids:
        file = file_of(photo_site, image_id)
        answers = answerer.answer(QUESTION, image_id)
        assert answerer.answer(QUESTION, file) == answers
        assert list(answerer.answer(QUESTION, str(file))) == list(answers)
        assert torch.equal(answerer.attention(QUESTION, file).weights, answerer.attention(QUESTION, image_id).weights)
        states, wanted = (answerer.embed([QUESTION], [image]) for image in (file, image_id))
        for name in ("text", "regions", "pair"):
            assert torch.equal(getattr(states, name), getattr(wanted, name))
        assert answerer.right_answers(QUESTION, image_id)
        assert answerer.right_answers(QUESTION, file) == ()


def test_captions_and_the_nearest_images_of_a_file_are_those_of_its_image(photo_site: Path, matcher: Model) -> None:
    image_id = matcher.image_ids[1]
    file = file_of(photo_site, image_id)
    for pool in ((), TEXTS):
        of_file, of_set = (matcher.captions(image, pool=pool) for image in (file, image_id))
        assert [(one.text, one.score) for one in of_file] == [(one.text, one.score) for one in of_set]
        assert not any(one.is_own for one in of_file)
    assert of_file[0].image_id == str(file)
    near = matcher.nearest(file, top=3)
    assert near[0] == (image_id, pytest.approx(1))
    # The set's images in a batch of other size, so not to the last bit.
    assert [name for name, _ in near[1:]] == [name for name, _ in matcher.nearest(image_id, top=2)]


def test_a_picture_of_fewer_regions_is_padded_to_the_slots_of_the_set(photo_site: Path, cache: Path) -> None:
    few = recorded(photo_site, None, cache=cache, detector=ColourDetector(regions=5))
    file = file_of(photo_site, few.image_ids[0])
    assert few.embed(["a"], [file]).regions.shape[1] == few.shards.index.num_regions == 12
    assert few.attention("a", file).weights.shape[1] == 5
    many = recorded(photo_site, None, cache=cache, detector=ColourDetector(regions=20))
    assert many.embed(["a", "a"], [file, many.image_ids[0]]).regions.shape[1] == 20


def test_an_id_of_the_set_goes_before_a_file(
    photo_site: Path, matcher: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image_id = matcher.image_ids[0]
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (40, 40), "black").save(tmp_path / f"{image_id}.png")
    (tmp_path / f"{image_id}.png").rename(tmp_path / image_id)
    scores = matcher.score(TEXTS, image_id)
    assert torch.equal(scores, matcher.score(TEXTS, file_of(photo_site, image_id)))
    assert not torch.equal(scores, matcher.score(TEXTS, Path(image_id)))


def test_a_picture_is_described_with_the_labels_of_its_detector(photo_site: Path, matcher: Model) -> None:
    image_id = matcher.image_ids[0]
    file = file_of(photo_site, image_id)
    described, of_set = matcher.describe(file), matcher.describe(image_id)
    for name in ("boxes", "labels", "attributes", "scores", "height", "width", "regions"):
        assert described[name] == of_set[name]
    assert set(described["labels"]) <= {"black", "red", "green", "blue", "white"}
    assert (described["image_id"], described["file"], described["texts"]) == (str(file), file, [])


def test_a_second_question_about_a_picture_needs_no_detector(photo_site: Path, cache: Path) -> None:
    detector = ColourDetector()
    files = [file_of(photo_site, f"coco-{number}") for number in (1, 2, 3)]
    model = load(photo_site, "tps", "sentence", cache=cache, detector=detector)
    scores = model.score(TEXTS, files)
    assert detector.num_detected == 3
    again = load(photo_site, "tps", "sentence", cache=cache, detector=detector)
    assert torch.equal(again.score(TEXTS, files), scores)
    assert detector.num_detected == 3


def test_the_detector_must_be_the_one_of_the_set(
    photo_site: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = ColourDetector().record
    monkeypatch.syspath_prepend(photo_site / "detectors")
    file = file_of(photo_site, "coco-1")
    model = recorded(photo_site, known, cache=cache, detector=None)
    assert model.score(TEXTS, file).shape == (2, 1)  # found by the name on record
    lost = recorded(photo_site, dataclasses.replace(known, name="lost"), cache=cache, detector=None)
    with pytest.raises(InputError, match=r"val are from colours lost \(.*\): --detector FOLDER"):
        lost.score(TEXTS, file)
    assert lost.score(TEXTS, lost.image_ids).shape == (2, 4)  # images of the set need none
    with pytest.raises(InputError, match=r"val has regions of colours .*, not of .*; name the former with --detector"):
        load(photo_site, "tps", "sentence", cache=cache, detector="wide").score(TEXTS, file)
    with pytest.raises(InputError, match=r"runs/tps reads 16 numbers a region, .* gives 32"):
        recorded(photo_site, None, cache=cache, detector=ColourDetector(width=32))


def recorded(site: Path, record: DetectorRecord | None, *, cache: Path, detector: object) -> Model:
    """A model whose set says that this detector computed its regions, or does not say which."""
    shards = open_set(site / "shards" / "sentence" / "val")
    object.__setattr__(shards.index, "detector", record)
    trained = load_trained(site / "runs" / "tps", shards=shards, needed_heads=(), preset=None)
    return Model(trained, shards, detector=detector, cache=cache)  # type: ignore[arg-type]


def test_what_is_neither_image_nor_picture_is_one_line(
    photo_site: Path, matcher: Model, tmp_path: Path, cache: Path
) -> None:
    with pytest.raises(
        InputError, match=r"val holds no image 'cat\.jpg'; it has 4, such as coco-.*; and there is no pict"
    ):
        matcher.score(TEXTS, "cat.jpg")
    with pytest.raises(InputError, match="there is no picture file"):
        matcher.captions(tmp_path)
    with pytest.raises(InputError, match="does not say which detector its regions are from; name it: --detector"):
        recorded(photo_site, None, cache=cache, detector=None).score(TEXTS, file_of(photo_site, "coco-1"))
    with pytest.raises(InputError, match="torch has no device nowhere here; name another with --device"):
        load(photo_site, "tps", "sentence", cache=cache, device="nowhere")


@pytest.fixture
def imported(tmp_path: Path) -> Path:
    """A folder of LXMERT's weights in Hugging Face's layout with an answer head, imported with its answers."""
    hf_lxmert(language=1, region=1).save_pretrained(tmp_path / "hf")
    (tmp_path / "all_ans.json").write_text(json.dumps([{"ans": name, "dsets": ["vqa"]} for name in ANSWERS]))
    import_lxmert(tmp_path, answers=tmp_path / "all_ans.json", vocab=write_vocabulary(tmp_path / "words"))
    return tmp_path / "lxmert"


def import_lxmert(folder: Path, **files: Path) -> None:
    lxmert = [*SETTINGS, "visual_cls=false", "positions=pieces", "language_layers=1", "region_layers=1"]
    plan = ImportPlan(source=folder / "hf", form="hf-lxmert", out=folder / "lxmert", settings=lxmert, **files)  # type: ignore[arg-type]
    import_weights(plan)


@torch.no_grad()
def test_imported_weights_answer_about_a_picture_without_shards_as_transformers_does(
    photo_site: Path, imported: Path, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file, detector = file_of(photo_site, "coco-1"), ColourDetector()
    with caplog.at_level(logging.WARNING):
        model = msp_ds.load(imported, detector=detector, cache=cache)
    assert "lxmert does not say which detector its regions are from" in caplog.text
    answers = model.answer("word3 Word30 word3", file)
    (found,) = detector.detect([np.asarray(Image.open(file))])
    pieces = ["[CLS]", "word3", "word30", "word3", "[SEP]"]
    theirs = hf_lxmert(language=1, region=1)(
        input_ids=torch.tensor([[PIECES.index(piece) for piece in pieces]]),
        visual_feats=torch.from_numpy(found.features).float()[None],
        visual_pos=torch.from_numpy(found.boxes / np.array([96, 64, 96, 64], np.float32))[None],
    ).question_answering_score[0]
    assert answers == pytest.approx(dict(zip(ANSWERS, theirs.softmax(0).tolist(), strict=True)), abs=FP32_BOUND)
    assert model.image_ids == ()
    assert model.captions(file, pool=["word1", "word2"])[0].text in ("word1", "word2")
    with pytest.raises(ShardError, match="lxmert was loaded without a set to choose from; name one: --shards"):
        model.search("word1")


def test_weights_without_words_or_answers_say_what_they_lack(imported: Path, photo_site: Path, cache: Path) -> None:
    ask = {"detector": ColourDetector(), "cache": cache}
    file = file_of(photo_site, "coco-1")
    whole = (imported / "answers.json").read_bytes()
    assert whole == json.dumps(ANSWERS).encode()
    (imported / "answers.json").write_text('["yes", "no", "blue"]')
    with pytest.raises(CheckpointError, match=r"answers\.json is not the file that model\.json names"):
        msp_ds.load(imported, **ask)  # type: ignore[arg-type]
    (imported / "answers.json").unlink()
    with pytest.raises(ShardError, match=r"lxmert holds no answers to choose from; .*or import it with --answers"):
        msp_ds.load(imported, **ask).answer("word1", file)  # type: ignore[arg-type]
    (imported / "vocab.txt").unlink()
    with pytest.raises(CheckpointError, match=r"has no vocab\.txt to read texts with; import it again with --vocab"):
        msp_ds.load(imported, **ask)  # type: ignore[arg-type]
