"""Sets of benchmarks: each question beside its image, answers by number, both images of a statement in the set."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import small_world
import torch

from msp_ds.data.format.set_layout import SetName
from msp_ds.data.format.shards import ShardSet, open_set
from msp_ds.data.loading.reader import Reader
from msp_ds.demo_world import make_world
from msp_ds.errors import InputError, ShardError
from msp_ds.preparation.recipe import BenchmarkRecipe, Recipe
from msp_ds.preparation.verifying.verification import verify_set
from msp_ds.preparation.writing.shard_building import build_shards

WORTH = {1: 0.3, 2: 0.6, 3: 0.9}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The raw files of 80 images."""
    folder = tmp_path_factory.mktemp("table") / "world"
    make_world(folder, images=80, seed=0, feature_width=16)
    return folder


def recipe_of(world: Path, **benchmarks: Any) -> Recipe:
    files: dict[str, Any] = {
        "vqa": {
            "questions": (str(world / "vqa_questions.json"),),
            "annotations": (str(world / "vqa_annotations.json"),),
            "least_questions": 3,
        },
        "gqa": {"questions": (str(world / "gqa_questions.json"),)},
        "nlvr2": {"questions": (str(world / "nlvr2.json"),)},
    }
    recipes = {name: BenchmarkRecipe(**{**files[name], **benchmarks.get(name, {})}) for name in files}
    return small_world.recipe_of(world, benchmarks=recipes)


def write(world: Path, out: Path, name: SetName, **benchmarks: Any) -> dict[str, ShardSet]:
    reports = build_shards(recipe_of(world, **benchmarks), stage=name, out=out)
    return {split: open_set(report.path) for split, report in reports.items()}


def _json(path: Path) -> Any:
    return json.loads(path.read_text())


def test_each_vqa_question_stands_beside_its_image_with_its_soft_scores(world: Path, tmp_path: Path) -> None:
    questions = {str(one["question_id"]): one for one in _json(world / "vqa_questions.json")["questions"]}
    answers_of = {
        str(one["question_id"]): Counter(answer["answer"] for answer in one["answers"])
        for one in _json(world / "vqa_annotations.json")["annotations"]
    }
    found = 0
    for one in write(world, tmp_path, "vqa").values():
        reader, table = Reader(one), one.questions
        assert table is not None
        ids, scores = reader.answers(torch.arange(one.index.num_pairs))
        pieces = one.word_pieces()
        for row, question_id in enumerate(table.question_ids.tolist()):
            entry = questions.pop(question_id.decode())
            assert one.keys[int(reader.images[row])] == f"coco-{entry['image_id']}"
            start, end = one.pairs.offsets[row : row + 2]
            assert one.pairs.token_ids[start:end].tolist() == pieces.encode(entry["question"], max_tokens=20).token_ids
            wanted = {answer: WORTH.get(count, 1.0) for answer, count in answers_of[question_id.decode()].items()}
            stored = {
                table.answers[place]: pytest.approx(score)
                for place, score in zip(ids[row].tolist(), scores[row].tolist(), strict=True)
                if place >= 0
            }
            assert {answer: score for answer, score in wanted.items() if answer in table.answers} == stored
            found += 1
    assert not questions
    assert found > 400


def test_vqa_answers_are_the_commonest_of_enough_questions(world: Path, tmp_path: Path) -> None:
    sets = write(world, tmp_path, "vqa")
    commonest = Counter(one["multiple_choice_answer"] for one in _json(world / "vqa_annotations.json")["annotations"])
    for one in sets.values():
        assert one.questions is not None
        assert set(one.questions.answers) == {answer for answer, count in commonest.items() if count >= 3}


def test_gqa_images_are_found_under_their_coco_duplicates(world: Path, tmp_path: Path) -> None:
    duplicates = {str(one["image_id"]): f"coco-{one['coco_id']}" for one in _json(world / "image_data.json")}
    questions = _json(world / "gqa_questions.json")
    num_questions = 0
    for one in write(world, tmp_path, "gqa").values():
        assert one.questions is not None
        for row, question_id in enumerate(one.questions.question_ids.tolist()):
            entry = questions[question_id.decode()]
            assert one.keys[one.pairs.image_rows[row]] == duplicates[entry["imageId"]]
            assert one.questions.answers[one.questions.answer_ids[row]] == entry["answer"]
        num_questions += one.index.num_pairs
    assert num_questions == len(questions)


def test_a_statement_is_kept_where_both_of_its_images_are(world: Path, tmp_path: Path) -> None:
    sets = write(world, tmp_path, "nlvr2")
    statements = {one["identifier"]: one for one in _json(world / "nlvr2.json")}
    splits = {key: split for split, one in sets.items() for key in one.keys}
    canonical = {name: f"coco-{int(name[-12:])}" for one in statements.values() for name in (one["img0"], one["img1"])}
    whole = {
        identifier
        for identifier, one in statements.items()
        if splits.get(canonical[one["img0"]]) == splits.get(canonical[one["img1"]])
    }
    kept = set()
    for one in sets.values():
        assert one.questions is not None
        assert one.questions.answers == ("False", "True")
        for row, question_id in enumerate(one.questions.question_ids.tolist()):
            entry = statements[question_id.decode()]
            assert one.keys[one.pairs.image_rows[row]] == canonical[entry["img0"]]
            assert one.keys[one.questions.second_images[row]] == canonical[entry["img1"]]
            assert one.questions.answer_ids[row] == entry["label"]
            kept.add(question_id.decode())
    assert kept == whole
    assert sets["train"].index.texts["questions_across_splits"] == len(statements) - len(whole)


@pytest.mark.parametrize("name", ["vqa", "nlvr2", "retrieval"])
def test_sets_of_benchmarks_verify_whole(world: Path, tmp_path: Path, name: SetName) -> None:
    for one in write(world, tmp_path, name).values():
        assert not verify_set(one.path).faults


def test_the_bytes_do_not_depend_on_the_number_of_threads(world: Path, tmp_path: Path) -> None:
    recipe = recipe_of(world)
    for jobs in (1, 3):
        build_shards(recipe, stage="nlvr2", out=tmp_path / str(jobs), num_threads=jobs)
    files = [small_world.files_below(tmp_path / str(jobs)) for jobs in (1, 3)]
    assert files[0] == files[1]
    assert all((tmp_path / "1" / name).read_bytes() == (tmp_path / "3" / name).read_bytes() for name in files[0])


def test_files_of_their_own_decide_the_splits(world: Path, tmp_path: Path) -> None:
    statements = _json(world / "nlvr2.json")
    images = sorted({one[side] for one in statements for side in ("img0", "img1")})
    parts = {"train": images[:50], "val": images[50:65], "test": images[65:]}
    for split, names in parts.items():
        some = [one for one in statements if {one["img0"], one["img1"]} <= set(names)]
        if split == "test":
            some = [{key: value for key, value in one.items() if key != "label"} for one in some]
        (tmp_path / f"{split}.json").write_text(json.dumps(some))
    sets = write(
        world,
        tmp_path / "shards",
        "nlvr2",
        nlvr2={
            "questions": (str(tmp_path / "train.json"),),
            "val_questions": (str(tmp_path / "val.json"),),
            "test_questions": (str(tmp_path / "test.json"),),
        },
    )
    assert sorted(sets) == ["test", "train", "val"]
    for split, one in sets.items():
        assert one.questions is not None
        assert one.index.num_pairs == len(_json(tmp_path / f"{split}.json"))
        assert (len(one.questions.answer_ids) > 0) == (split != "test")
    assert not set(sets["train"].keys) & set(sets["val"].keys)


def test_beside_a_test_file_the_holdout_is_still_set_apart(world: Path, tmp_path: Path) -> None:
    whole = write(world, tmp_path / "whole", "vqa")
    tested = set(whole["train"].keys[:10])
    questions = _json(world / "vqa_questions.json")["questions"]
    for name in ("rest", "test"):
        some = [one for one in questions if (f"coco-{one['image_id']}" in tested) == (name == "test")]
        (tmp_path / f"{name}.json").write_text(json.dumps({"questions": some}))
    kept = [one["question_id"] for one in _json(tmp_path / "rest.json")["questions"]]
    answers = [one for one in _json(world / "vqa_annotations.json")["annotations"] if one["question_id"] in kept]
    (tmp_path / "answers.json").write_text(json.dumps({"annotations": answers}))
    files = {"questions": "rest.json", "annotations": "answers.json", "test_questions": "test.json"}
    sets = write(world, tmp_path / "part", "vqa", vqa={key: (str(tmp_path / name),) for key, name in files.items()})
    assert sets["val"].keys == whole["val"].keys
    assert set(sets["test"].keys) == tested
    assert set(sets["train"].keys) == set(whole["train"].keys) - tested


def test_an_image_in_two_splits_is_refused(world: Path, tmp_path: Path) -> None:
    same = {"questions": (str(world / "nlvr2.json"),), "val_questions": (str(world / "nlvr2.json"),)}
    with pytest.raises(InputError, match=r"image coco-\d+ is in the questions of split train and of split val"):
        write(world, tmp_path, "nlvr2", nlvr2=same)


def test_no_questions_and_unmatched_annotations_are_named(world: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="task gqa needs questions; name a file of them with --questions FILE"):
        write(world, tmp_path, "gqa", gqa={"questions": ()})
    with pytest.raises(InputError, match="1 files of questions need as many of annotations, not 2"):
        write(world, tmp_path, "vqa", vqa={"annotations": ("a.json", "b.json")})


def test_answers_of_which_no_question_has_one_are_refused(world: Path, tmp_path: Path) -> None:
    (tmp_path / "answers.json").write_text('["zeppelin"]')
    with pytest.raises(InputError, match=r"no question has an answer that .* holds; name other --answers"):
        write(world, tmp_path, "vqa", vqa={"answers": str(tmp_path / "answers.json")})


def test_a_missing_set_names_the_command_that_writes_it(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match=r"no shards for stage gqa .*; write them with: msp-ds shard --task gqa$"):
        open_set(tmp_path / "gqa" / "val")


def test_damaged_questions_are_refused(world: Path, tmp_path: Path) -> None:
    path = write(world, tmp_path, "vqa")["val"].path
    index = _json(path / "index.json")
    del index["files"]["answers.json"]
    (path / "index.json").write_text(json.dumps(index))
    with pytest.raises(ShardError, match=r"does not list answers\.json; write it again with: msp-ds shard --task vqa"):
        open_set(path)


def test_pairs_of_nlvr2_are_held_out_whole_and_no_statement_is_lost(world: Path, tmp_path: Path) -> None:
    numbers = [int(line.split(b"\t")[0].split(b"_")[2]) for line in (world / "regions.tsv").read_bytes().splitlines()]
    names = [f"COCO_train2014_{number:012d}" for number in numbers]
    statements = [
        {"identifier": f"train-{pair}-{nth}-0", "img0": one, "img1": other, "sent": "a dog", "label": nth}
        for pair, (one, other) in enumerate(zip(names[::2], names[1::2], strict=True))
        for nth in (0, 1)
    ]
    (tmp_path / "nlvr2.json").write_text(json.dumps(statements))
    sets = write(world, tmp_path, "nlvr2", nlvr2={"questions": (str(tmp_path / "nlvr2.json"),)})
    assert {split: one.index.num_images for split, one in sets.items()} == {"train": 64, "val": 16}
    assert {split: one.index.num_pairs for split, one in sets.items()} == {"train": 64, "val": 16}
