"""predict writes what the servers accept; a model or set that does not fit a benchmark is one line of error."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import small_world
import torch
from command_line import refusal, run
from looking_site import write_model

from msp_ds.config import to_json, write_json
from msp_ds.data.format.shards import open_set
from msp_ds.demo_world import make_world
from msp_ds.evaluation.answer_evaluation import Answerer
from msp_ds.model.weights.conversion import to_theirs
from msp_ds.model.weights.forms import LXMERT_S_FORM
from msp_ds.preparation.recipe import BenchmarkRecipe
from msp_ds.preparation.writing.shard_building import build_shards
from msp_ds.report.pages.explain import set_to_explain
from msp_ds.training.checkpointing.checkpoint import MANIFEST, read_weights
from msp_ds.training.checkpointing.run_folder import RUN_FILE
from msp_ds.training.checkpointing.weights_folder import read_card
from msp_ds.training.options import RunOptions
from msp_ds.training.planning import new_config

COLORS = ("red", "blue", "not known, maybe", 'a "Ü"')


def vqa(images: list[int]) -> tuple[Any, Any]:
    """Two official questions an image, and their annotations."""
    ids = [(1000 * image + nth, image) for image in images for nth in range(2)]
    questions = [{"question_id": one, "image_id": image, "question": "what color?"} for one, image in ids]
    annotations = [{"question_id": one, "image_id": image, "answer_type": "other"} for one, image in ids]
    for one, color in zip(annotations, COLORS * len(annotations), strict=False):
        one |= {"multiple_choice_answer": color, "answers": [{"answer": color}] * 10}
    return {"questions": questions}, {"annotations": annotations}


def gqa(images: list[str], *, answered: bool) -> Any:
    """Two official questions about each image, by its Visual Genome id; their own ids begin with zeros."""
    ids = {f"00{image}{nth}": image for image in images for nth in range(2)}
    return {
        one: {"imageId": image, "question": "what color?", "isBalanced": True} | ({"answer": color} if answered else {})
        for (one, image), color in zip(ids.items(), COLORS * len(ids), strict=False)
    }


def nlvr2(images: list[int], *, answered: bool) -> Any:
    """LXMERT's form of a statement about every two images."""
    return [
        {
            "identifier": f"test1-{left}-{right}-1",
            "img0": f"COCO_val2014_{left:012}",
            "img1": f"COCO_val2014_{right:012}",
        }
        | {"sent": "both are red .", "uid": f"{left}-{right}"}
        | ({"label": left % 2} if answered else {})
        for left, right in combinations(images, 2)
    ]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of 40 images with a test split, the test's questions as TASK.json, and weights with untrained heads."""
    folder = tmp_path_factory.mktemp("grading")
    make_world(folder / "world", images=40, seed=0, feature_width=16)
    table = json.loads((folder / "world" / "image_data.json").read_text())
    numbers = {one["coco_id"]: str(one["image_id"]) for one in table}
    images = list(numbers)  # those that have one, 25 or so
    train, test = images[:16], images[16:]
    files = {
        **dict(zip(("vqa-train", "vqa-said"), vqa(train), strict=True)),
        "vqa": vqa(test)[0],
        "gqa-train": gqa([numbers[image] for image in train], answered=True),
        "gqa": gqa([numbers[image] for image in test], answered=False),
        "nlvr2-train": nlvr2(train, answered=True),
        "nlvr2": nlvr2(test, answered=False),
    }
    for name, content in files.items():
        write_json(folder / f"{name}.json", content)
    benchmarks = {
        task: BenchmarkRecipe(
            questions=(str(folder / f"{task}-train.json"),),
            annotations=(str(folder / "vqa-said.json"),) * (task == "vqa"),
            test_questions=(str(folder / f"{task}.json"),),
            least_questions=2,
        )
        for task in ("vqa", "gqa", "nlvr2")
    }
    recipe = small_world.recipe_of(folder / "world", holdout=8, benchmarks=benchmarks)
    for task, head in {"vqa": "answer", "gqa": "answer", "nlvr2": "statement", "retrieval": "match"}.items():
        build_shards(recipe, stage=task, out=folder / "shards")  # type: ignore[arg-type]
        write_model(folder / "runs" / task, open_set(folder / "shards" / task / "train"), head, seed=1)
    return folder


@pytest.fixture
def here(site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with the site's shards and weights."""
    for name in ("shards", "runs"):
        (tmp_path / name).symlink_to(site / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def predicted(task: str) -> bytes:
    """What predict writes for the test questions."""
    result = run("predict", "--task", task, "--checkpoint", f"runs/{task}", "--out", "said")
    assert result.exit_code == 0, result.output
    return Path("said").read_bytes()


def known_answers(task: str) -> list[str]:
    """The vocabulary of a benchmark, as its shards hold it."""
    answers: list[str] = json.loads(Path("shards", task, "train", "answers.json").read_text())
    return answers


def test_vqas_server_finds_every_question_once(here: Path, site: Path) -> None:
    answers = json.loads(predicted("vqa"))
    assert all(list(one) == ["question_id", "answer"] and type(one["question_id"]) is int for one in answers)
    expected = [one["question_id"] for one in json.loads((site / "vqa.json").read_text())["questions"]]
    assert sorted(one["question_id"] for one in answers) == sorted(expected)
    assert {one["answer"] for one in answers} <= set(known_answers("vqa"))


def test_gqas_server_finds_every_question_once(here: Path, site: Path) -> None:
    answers = json.loads(predicted("gqa"))
    assert all(list(one) == ["questionId", "prediction"] for one in answers)
    assert sorted(one["questionId"] for one in answers) == sorted(json.loads((site / "gqa.json").read_text()))
    assert {one["prediction"] for one in answers} <= set(known_answers("gqa"))


def test_nlvr2s_script_finds_every_statement_once(here: Path, site: Path) -> None:
    lines = predicted("nlvr2").decode("ascii").split("\n")
    assert lines.pop() == ""
    assert all(re.fullmatch("test1-[0-9]+-[0-9]+-1,(True|False)", line) for line in lines)
    expected = [one["identifier"] for one in json.loads((site / "nlvr2.json").read_text())]
    assert sorted(line.split(",")[0] for line in lines) == sorted(expected)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ((), "name what to grade: a model, --checkpoint RUN, or its answers, --predictions FILE"),
        (("--checkpoint", "runs/vqa", "--predictions", "a.json"), "name what to grade: a model, --checkpoint RUN, or"),
        (("--predictions", "a.json"), "name the benchmark whose rules grade the file: --task vqa, gqa, nlvr2 or"),
        (("--predictions", "a.json", "--shards", "shards"), "--shards cannot be combined with --predictions;"),
        (("--predictions", "a.json", "--training-questions", "q"), "--training-questions cannot be combined with"),
        (("--checkpoint", "runs/vqa", "--against", "b.json"), "--against cannot be combined with --checkpoint;"),
        (("--checkpoint", "runs/vqa", "--consistency"), "--consistency cannot be combined with --checkpoint;"),
    ],
)
def test_evaluate_grades_a_model_or_a_file_and_says_which_flags_do_not_fit(
    flags: tuple[str, ...], message: str
) -> None:
    assert refusal("evaluate", *flags).startswith(message)


def test_a_missing_test_split_is_reported_with_the_command_that_writes_one(here: Path) -> None:
    Path("shards").unlink()
    assert refusal("predict", "--task", "gqa", "--checkpoint", "runs/gqa") == (
        "no shards for stage gqa in shards/gqa/test; write them with: msp-ds shard --task gqa --recipe FILE "
        "--test-questions FILE; or take the held-out set, --shards shards/gqa/val"
    )


def test_an_answers_folder_is_made_or_refused_before_any_question_is_answered(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("predict", "--task", "nlvr2", "--checkpoint", "runs/nlvr2", "--out")
    assert run(*words, "new/folder/said.csv").exit_code == 0
    assert Path("new/folder/said.csv").is_file()
    monkeypatch.setattr(Answerer, "answers", None)
    assert refusal(*words, "new/folder/said.csv/said.csv").startswith(
        "new/folder/said.csv/said.csv cannot be written ("
    )


@pytest.mark.parametrize("command", ["predict", "evaluate"])
def test_the_questions_of_another_benchmark_are_refused(here: Path, command: str) -> None:
    words = (command, "--task", "nlvr2", "--checkpoint", "runs/nlvr2", "--shards", "shards/vqa/val")
    assert refusal(*words) == "shards/vqa/val was written for vqa, not for nlvr2; name a set of shards/nlvr2"


def tuned_run(folder: Path, task: str, **options: object) -> str:
    """The folder of a run on a benchmark, with a checkpoint that is never read."""
    config = new_config(RunOptions(shards="shards", curriculum=task, preset="tiny", **options))
    checkpoint = folder / f"1-{task}" / "checkpoints" / "step-00000001"
    checkpoint.mkdir(parents=True)
    write_json(checkpoint / MANIFEST, {"step": 1, "files": {}, "state": {}, "loss_scale": None})
    write_json(folder / RUN_FILE, {"config": to_json(config)})
    return str(checkpoint)


def test_an_exported_model_keeps_the_benchmark_it_was_fine_tuned_for(here: Path) -> None:
    flags = ("--from-scratch", "--max-steps", 1, "--batch-size", 8, "--run-dir", "tuned")
    assert run("finetune", "--task", "vqa", *flags).exit_code == 0
    assert run("export", "tuned", "--to", "safetensors", "--out", "weights").exit_code == 0
    assert refusal("evaluate", "--task", "gqa", "--checkpoint", "weights") == (
        "weights was fine-tuned for vqa, not for gqa; train one with: msp-ds finetune --task gqa --init RUN"
    )
    shutil.copytree("shards/vqa", "other/vqa")
    answers = Path("other/vqa/val/answers.json")
    index = json.loads((answers.parent / "index.json").read_text())
    answers.write_text(answers.read_text().replace("red", "tan"))
    index["files"]["answers.json"]["sha256"] = hashlib.sha256(answers.read_bytes()).hexdigest()
    write_json(answers.parent / "index.json", index)
    assert refusal("evaluate", "--task", "vqa", "--checkpoint", "weights", "--shards", "other/vqa/val").startswith(
        "other/vqa/val has other answers to choose from than weights was trained on; write it with the answers.json"
    )


def test_the_authors_fine_tuned_vqa_model_answers_as_it_did(here: Path) -> None:
    card, weights = read_card(here / "runs" / "vqa"), read_weights(here / "runs" / "vqa")
    cls_id = open_set(here / "shards" / "vqa" / "val").word_pieces().cls_id
    backbone = {name: tensor for name, tensor in weights.items() if name.startswith("backbone.")}
    saved = {
        f"lxrt_encoder.model.{name}": tensor
        for name, tensor in to_theirs(backbone, LXMERT_S_FORM, cls_id=cls_id, where="")[0].items()
    }
    for number, ours in (("0", "dense"), ("2", "norm"), ("3", "decoder")):
        for ending in ("weight", "bias"):
            saved[f"logit_fc.{number}.{ending}"] = weights[f"heads.answer.{ours}.{ending}"]
    torch.save(saved, "BEST.pth")
    ours = ["num_layers", "hidden_size", "num_heads", "intermediate_size", "max_positions", "region_gate"]
    sizes = [word for name in ours for word in ("--set", f"{name}={getattr(card.model, name)}")]
    files = ["--vocab", "shards/vqa/val/vocab.txt", "--answers", "shards/vqa/val/answers.json"]
    result = run("import", "BEST.pth", "--from", "lxmert-s", "--out", "brought", *files, *sizes)
    assert result.exit_code == 0, result.output
    assert read_card(Path("brought")).answers_sha256 == open_set(Path("shards/vqa/val")).index.answers_sha256
    expected = predicted("vqa")
    assert run("predict", "--task", "vqa", "--checkpoint", "brought", "--out", "said").exit_code == 0
    assert Path("said").read_bytes() == expected
    result = run(
        "evaluate", "--task", "vqa", "--checkpoint", "brought", "--shards", "shards/vqa/train", "--out", "graded"
    )
    assert result.exit_code == 0, result.output
    flags = ["--init", "brought", "--max-steps", 1, "--batch-size", 8, "--run-dir", "tuned"]
    result = run("finetune", "--task", "vqa", *flags, "--set", "heads=carried")
    assert result.exit_code == 0, result.output


def test_a_weights_folder_can_be_fine_tuned(here: Path) -> None:
    flags = ("--max-steps", 1, "--batch-size", 8, "--run-dir", "tuned")
    result = run("finetune", "--task", "nlvr2", "--init", "runs/retrieval", *flags)
    assert result.exit_code == 0, result.output
    assert Path("tuned/1-nlvr2/stage.json").is_file()


@pytest.mark.parametrize("task", ["gqa", "nlvr2", "retrieval"])
@pytest.mark.parametrize("init", ["runs/retrieval", None])
def test_a_model_fine_tuned_for_another_benchmark_is_refused_first(here: Path, task: str, init: str | None) -> None:
    checkpoint = tuned_run(here / "tuned", "vqa", init=init)
    start = "--init runs/retrieval" if init else "--from-scratch"
    assert refusal("evaluate", "--task", task, "--checkpoint", "tuned") == (
        f"{checkpoint.removeprefix(f'{here}/')} was fine-tuned for vqa, not for {task}; "
        f"train one with: msp-ds finetune --task {task} {start}"
    )


def test_explaining_takes_the_questions_that_the_model_was_fine_tuned_for(here: Path) -> None:
    for task, chosen in {"vqa": "vqa", "gqa": "gqa", "nlvr2": "vqa"}.items():
        tuned_run(here / task, task)
        assert set_to_explain([f"x={task}"], ["coco-1"], has_question=True) == Path("shards", chosen, "val")
    assert set_to_explain(["vqa"], ["coco-1"], has_question=False) == Path("shards/sentence/val")


def test_answers_of_gqa_are_explained_as_those_of_vqa(here: Path) -> None:
    image = open_set(Path("shards/gqa/val")).keys[0]
    flags = ("--shards", "shards/gqa/val", "--image", image, "--question", "what color?")
    result = run("explain", "--checkpoint", "runs/gqa", *flags)
    assert result.exit_code == 0, result.output
    assert f"{image}: what color?  (right: " in result.stdout
    flags = ("--shards", "shards/nlvr2/val", "--image", image, "--question", "both are red .")
    assert refusal("explain", "--checkpoint", "runs/nlvr2", *flags) == (
        "runs/nlvr2 has heads statement but no answer head; "
        "msp-ds finetune --task vqa, or gqa, trains it, for questions about one image"
    )
