"""Drawn pictures, shards of their regions by the colour detector, and untrained models of them."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
from colour_detector import ATTRIBUTES, OBJECTS, ColourDetector
from looking_site import write_model
from PIL import Image, ImageDraw

from msp_ds.data.format.shards import open_set
from msp_ds.preparation.recipe import BenchmarkRecipe, Recipe
from msp_ds.preparation.writing.shard_building import build_shards
from msp_ds.training.checkpointing.weights_folder import StoredWeights, read_card, write_card

NAMES = ("red", "green", "blue")
DETECTORS = {"colours": "open_colours", "bright": "open_bright_colours", "wide": "open_wide_colours"}
"""Name of an entry point -> its function in colour_detector."""


def draw_picture(path: Path, number: int, *, size: tuple[int, int] = (96, 64)) -> Path:
    """A disc of one of three colours on a white ground, elsewhere for each number."""
    picture = Image.new("RGB", size, "white")
    left, top = 7 * number % (size[0] - 30), 5 * number % (size[1] - 30)
    ImageDraw.Draw(picture).ellipse((left, top, left + 29, top + 29), fill=NAMES[number % 3])
    picture.save(path)
    return path


def make_photo_site(folder: Path) -> Path:
    """`folder`/photographs/1.png ... 12.png, shards/{sentence,vqa}/{train,val}, runs/{tps,vqa} and detectors.

    runs/alone is runs/vqa with its answers, which needs no shards. The regions lie in one archive as a detector's do.
    `folder`/detectors on the path offers the detectors as an installed package does.
    """
    photographs, numbers = folder / "photographs", range(1, 13)
    photographs.mkdir(parents=True)
    detector = ColourDetector()
    drawn = [draw_picture(photographs / f"{number}.png", number) for number in numbers]
    found = detector.detect([np.asarray(Image.open(path)) for path in drawn])
    np.savez(
        folder / "regions.npz",
        image_id=np.array(numbers),
        height=np.full(len(drawn), 64),
        width=np.full(len(drawn), 96),
        boxes=np.stack([one.boxes for one in found]),
        features=np.stack([one.features for one in found]),
        objects_id=np.stack([one.object_ids for one in found]),
        objects_conf=np.stack([one.object_scores for one in found]),
        attrs_id=np.stack([one.attribute_ids for one in found]),
        attrs_conf=np.stack([one.attribute_scores for one in found]),
        detector=np.array(detector.record.to_text()),
    )
    for name, labels in (("objects", OBJECTS), ("attributes", ATTRIBUTES)):
        (folder / f"{name}.txt").write_text("".join(f"{label}\n" for label in labels))
    _write_texts(folder, numbers)
    recipe = Recipe(
        regions=(str(folder / "regions.npz"),),
        objects_vocab=str(folder / "objects.txt"),
        attributes_vocab=str(folder / "attributes.txt"),
        captions=(str(folder / "captions.json"),),
        vocab="trained",
        holdout=4,
        preset="tiny",
        benchmarks={
            "vqa": BenchmarkRecipe(
                questions=(str(folder / "questions.json"),),
                annotations=(str(folder / "annotations.json"),),
                least_questions=1,
            )
        },
    )
    for name, head in (("sentence", "match"), ("vqa", "answer")):
        build_shards(recipe, stage=name, out=folder / "shards")  # type: ignore[arg-type]
        run = folder / "runs" / ("tps" if name == "sentence" else name)
        write_model(run, open_set(folder / "shards" / name / "val"), head, seed=len(head))
    _give_answers(
        folder / "runs" / "vqa", folder / "runs" / "alone", folder / "shards" / "vqa" / "val" / "answers.json"
    )
    _offer(folder / "detectors")
    return folder


def _give_answers(weights: Path, out: Path, answers: Path) -> None:
    """A copy of a weights folder that also holds the answers of its head."""
    shutil.copytree(weights, out)
    shutil.copy(answers, out)
    card = dataclasses.replace(read_card(out), answers_sha256=hashlib.sha256(answers.read_bytes()).hexdigest())
    write_card(out, StoredWeights(card=card, weights={}, vocabulary=None))


def _write_texts(folder: Path, numbers: range) -> None:
    captions, questions, annotations = [], [], []
    for number in numbers:
        colour = NAMES[number % 3]
        captions.append({"image_id": number, "id": number, "caption": f"a {colour} ball on a white table"})
        key = {"image_id": number, "question_id": number}
        questions.append({**key, "question": "what color is the ball ?"})
        answers = [{"answer": colour, "answer_confidence": "yes", "answer_id": place} for place in range(1, 11)]
        annotations.append({**key, "multiple_choice_answer": colour, "answers": answers})
    (folder / "captions.json").write_text(json.dumps({"annotations": captions}))
    (folder / "questions.json").write_text(json.dumps({"questions": questions}))
    (folder / "annotations.json").write_text(json.dumps({"annotations": annotations}))


def _offer(folder: Path) -> None:
    """Entry points of a package as pip installs it; whoever has `folder` on the path finds the detectors."""
    package = folder / "colours-1.dist-info"
    package.mkdir(parents=True)
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: colours\nVersion: 1\n")
    lines = [f"{name} = colour_detector:{function}" for name, function in DETECTORS.items()]
    (package / "entry_points.txt").write_text("\n".join(["[msp_ds.detectors]", *lines, ""]))
