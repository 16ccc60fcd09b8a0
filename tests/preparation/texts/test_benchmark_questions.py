"""Questions of VQA, GQA and NLVR2 are read with their answers, from official files and from LXMERT's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from raw_files import write_json

from msp_ds.downstream.submissions import SUBMISSIONS
from msp_ds.errors import InputError
from msp_ds.preparation.sources.gqa import GqaChoices, GqaQuestion, read_gqa, read_gqa_choices
from msp_ds.preparation.sources.nlvr2 import read_nlvr2
from msp_ds.preparation.sources.questions import Question
from msp_ds.preparation.sources.vqa import VqaQuestion, read_vqa

QUESTIONS = {
    "info": {"version": "2.0"},
    "questions": [
        {"image_id": 7, "question": " What is\nit? ", "question_id": 7000},
        {"image_id": 8, "question": "Is it?", "question_id": 8000},
    ],
}
ANNOTATION = {
    "question_id": 7000,
    "image_id": 7,
    "question_type": "what is",
    "answer_type": "other",
    "multiple_choice_answer": "net",
    "answers": [{"answer": "net", "answer_id": 1}, {"answer": "net\n", "answer_id": 2}],
}
ANNOTATIONS = {
    "annotations": [{"question_id": 8000, "answers": [{"answer": "no"}]}, ANNOTATION],
    "data_subtype": "val2014",
}


def test_vqas_two_files_are_joined_in_the_order_of_the_answers(tmp_path: Path) -> None:
    questions = str(write_json(tmp_path / "questions.json", QUESTIONS))
    second, first = read_vqa(questions, str(write_json(tmp_path / "annotations.json", ANNOTATIONS)))
    assert first == VqaQuestion(
        question_id="7000",
        image_ids=("coco-7",),
        text="What is it?",
        answers=("net", "net\n"),  # as they are: grading strips them
        commonest_answer="net",
        question_type="what is",
        answer_type="other",
    )
    assert (second.answers, second.commonest_answer, second.answer_type) == (("no",), None, "")


def test_vqas_test_split_has_questions_alone(tmp_path: Path) -> None:
    read = read_vqa(str(write_json(tmp_path / "questions.json", QUESTIONS)))
    assert [(question.question_id, question.answers, question.scores) for question in read] == [
        ("7000", (), None),
        ("8000", (), None),
    ]


def test_lxmerts_vqa_has_scores(tmp_path: Path) -> None:
    entry = {"img_id": "COCO_val2014_000000000007", "question_id": 7000, "sent": "What is it?"}
    entries = [
        {**entry, "answer_type": "other", "question_type": "what is", "label": {"net": 1, "mesh": 0.3}},
        {**entry, "question_id": 7001, "label": {}},
        {**entry, "question_id": 7002},
    ]
    read = read_vqa(str(write_json(tmp_path / "minival.json", entries)))
    assert [question.scores for question in read] == [{"net": 1.0, "mesh": 0.3}, {}, None]
    assert (read[0].image_ids, read[0].question_type, read[0].answers) == (("coco-7",), "what is", ())


@pytest.mark.parametrize(
    ("annotations", "part"),
    [
        ([ANNOTATION], "has no answers to 1 of 2 questions of .*: 8000; name the annotations of the same split"),
        ([ANNOTATION, ANNOTATION], "annotations.json has question 7000 twice"),
        ([{**ANNOTATION, "question_id": 9}], "annotation 0: question 9 is not among the questions"),
        ([{**ANNOTATION, "image_id": 8}], "question 7000 is about coco-7, not about coco-8"),
        ([{**ANNOTATION, "answers": []}], "annotation 0: answers should be a list"),
        ([{**ANNOTATION, "answers": [{"answer": 2}]}], "annotation 0: 2 is not a text"),
        ([{"question_id": 7000}], "annotation 0: has no answers"),
        ([], "annotations.json holds no question"),
    ],
)
def test_annotations_that_do_not_fit_are_refused(annotations: list[Any], part: str, tmp_path: Path) -> None:
    questions = str(write_json(tmp_path / "questions.json", QUESTIONS))
    with pytest.raises(InputError, match=part):
        read_vqa(questions, str(write_json(tmp_path / "annotations.json", {"annotations": annotations})))


@pytest.mark.parametrize(
    ("value", "part"),
    [
        ({"questions": [{"question_id": 1, "question": "?"}]}, "question 0: has no image_id"),
        ({"questions": [{"question_id": True, "image_id": 1, "question": "?"}]}, "True is not a question id"),
        (ANNOTATIONS, "holds annotations; name the file of questions first"),
        ([{"question_id": 1, "img_id": 7, "sent": "?", "label": {"net": 2}}], "each answer a score from 0 to 1"),
        ([{"question_id": 1, "img_id": "x", "sent": "?"}], "entry 0: 'x' is no image id of coco"),
        ({"images": []}, "holds no question"),
    ],
)
def test_questions_of_another_form_are_refused(value: Any, part: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=part):
        read_vqa(str(write_json(tmp_path / "questions.json", value)))


GQA = {
    "00202218649": {
        "semantic": [
            {"operation": "select", "dependencies": [], "argument": "chalkboard (0)"},
            {"operation": "relate", "dependencies": [0], "argument": "_,hanging above,s (12)"},
            {"operation": "query", "dependencies": [1], "argument": "name"},
        ],
        "entailed": ["202218648"],
        "question": "What is hanging above the chalkboard?",
        "imageId": "n578564",
        "isBalanced": False,
        "groups": {"global": "thing", "local": "x"},
        "answer": "picture",
        "types": {"detailed": "relS", "semantic": "rel", "structural": "query"},
    }
}


def test_gqas_question_is_read_with_its_kinds(tmp_path: Path) -> None:
    (read,) = read_gqa(str(write_json(tmp_path / "questions.json", GQA)))
    assert read == GqaQuestion(
        question_id="00202218649",
        image_ids=("vg-n578564",),
        text="What is hanging above the chalkboard?",
        answers=("picture",),
        is_balanced=False,
        entailed=("202218648",),
        global_group="thing",
        structural="query",
        semantic="rel",
        detailed="relS",
        num_steps=2,  # query: name is none
    )


def test_gqas_folder_of_parts_is_one_file(tmp_path: Path) -> None:
    test_split = {"1": {"imageId": "7", "question": "?", "isBalanced": True}}
    (tmp_path / "train_all").mkdir()
    write_json(tmp_path / "train_all" / "1.json", test_split)
    write_json(tmp_path / "train_all" / "0.json", GQA)
    read = list(read_gqa(str(tmp_path / "train_all")))
    assert [(question.question_id, question.answers) for question in read] == [
        ("00202218649", ("picture",)),
        ("1", ()),
    ]
    write_json(tmp_path / "train_all" / "2.json", test_split)
    with pytest.raises(InputError, match="has question 1 twice"):
        list(read_gqa(str(tmp_path / "train_all")))


def test_an_empty_folder_is_no_gqa(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no \.json file"):
        list(read_gqa(str(tmp_path)))


def test_lxmerts_gqa_has_one_answer(tmp_path: Path) -> None:
    entries = [
        {"question_id": "05", "img_id": "n7", "sent": "What?", "label": {"red": 1.0}},
        {"question_id": "06", "img_id": "8", "sent": "What?"},
    ]
    first, second = read_gqa(str(write_json(tmp_path / "testdev.json", entries)))
    assert (first.question_id, first.image_ids, first.answers, first.scores) == (
        "05",
        ("vg-n7",),
        ("red",),
        {"red": 1.0},
    )
    assert (second.answers, second.scores, second.is_balanced) == ((), None, True)


def test_gqas_choices_are_read(tmp_path: Path) -> None:
    path = write_json(tmp_path / "choices.json", {"05": {"valid": ["red", "blue"], "plausible": ["red"]}})
    assert list(read_gqa_choices(str(path))) == [GqaChoices("05", frozenset({"red", "blue"}), frozenset({"red"}))]


@pytest.mark.parametrize(
    ("entry", "part"),
    [
        ({"imageId": "7"}, "05: has no question"),
        ({"imageId": "x", "question": "?"}, "'x' is no image id of vg"),
        ({"imageId": "7", "question": "?", "groups": []}, r"\[\] is not an object"),
        ({"imageId": "7", "question": "?", "entailed": "1"}, "'1' is not a list"),
        ({"imageId": "7", "question": "?", "semantic": ["x"]}, "semantic is not a list of operations"),
    ],
)
def test_gqas_questions_of_another_form_are_refused(entry: Any, part: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=part):
        list(read_gqa(str(write_json(tmp_path / "questions.json", {"05": entry}))))


def test_nlvr2_is_read_from_both_layouts(tmp_path: Path) -> None:
    official = [{"identifier": f"dev-850-{pair}-0", "sentence": "Two.", "label": "True"} for pair in (0, 1)]
    (tmp_path / "dev.json").write_text("\n".join(map(json.dumps, official)))
    lxmert = [
        {
            "identifier": f"dev-850-{pair}-0",
            "img0": f"dev-850-{pair}-img0",
            "img1": f"dev-850-{pair}-img1",
            "label": 1,
            "sent": "Two.",
            "uid": f"nlvr2_dev_{pair}",
        }
        for pair in (0, 1)
    ]
    read = read_nlvr2(str(tmp_path / "dev.json"))
    assert read == read_nlvr2(str(write_json(tmp_path / "valid.json", lxmert)))
    assert read[1] == Question(
        question_id="dev-850-1-0",
        image_ids=("nlvr2-dev-850-1-img0", "nlvr2-dev-850-1-img1"),
        text="Two.",
        answers=("True",),
    )


@pytest.mark.parametrize(
    ("entry", "part"),
    [
        ({"identifier": "dev-850-0", "sentence": "x"}, "should be split-set-pair-sentence"),
        ({"identifier": "dev-850-0-0"}, "has no sentence"),
        ({"identifier": "dev-850-0-0", "sentence": "x", "label": "maybe"}, "'maybe' is neither True nor False"),
        ({"sentence": "x"}, "has no identifier"),
    ],
)
def test_nlvr2_of_another_form_is_refused(entry: Any, part: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=part):
        read_nlvr2(str(write_json(tmp_path / "dev.json", [entry])))


def test_the_real_samples_are_read(real_data: Path) -> None:
    questions = read_vqa(str(real_data / "vqa/questions.json"), str(real_data / "vqa/annotations.json"))
    assert [(question.image_ids, len(question.answers)) for question in questions] == [(("coco-458752",), 10)] * 3
    (question,) = read_gqa(str(real_data / "gqa/questions.json"))
    assert (question.answers, question.num_steps, question.entailed) == (("picture",), 2, ("202218648",))
    statements = read_nlvr2(str(real_data / "nlvr2/balanced_dev_sample.json"))
    assert len(statements) == 300
    assert {statement.answers for statement in statements} == {("True",), ("False",)}


HALF = "caf\ud83d"  # as JSON writes half of a character
GQA_ENTRY = {"imageId": "1", "question": "Is it?", "answer": "no"}
NLVR2_ENTRY = {"identifier": "dev-1-0-0", "sentence": "It is.", "label": "True"}
LXMERT_ENTRY = {"img_id": 1, "sent": "Is it?", "question_id": 1, "label": {"no": 1}}
HALVES = {
    "an answer of VQA": (read_vqa, ANNOTATION | {"answers": [{"answer": HALF}]}),
    "the commonest answer": (read_vqa, ANNOTATION | {"multiple_choice_answer": HALF}),
    "a kind of question": (read_vqa, ANNOTATION | {"question_type": HALF}),
    "a kind of answer": (read_vqa, ANNOTATION | {"answer_type": HALF}),
    "a label of LXMERT": (read_vqa, [LXMERT_ENTRY | {"label": {HALF: 1}}]),
    "an answer of GQA": (read_gqa, {"1": GQA_ENTRY | {"answer": HALF}}),
    "a number of GQA": (read_gqa, {HALF: GQA_ENTRY}),
    "a group of GQA": (read_gqa, {"1": GQA_ENTRY | {"groups": {"global": HALF}}}),
    "an entailed question": (read_gqa, {"1": GQA_ENTRY | {"entailed": [HALF]}}),
    "a choice of GQA": (read_gqa_choices, {"1": {"valid": [HALF], "plausible": []}}),
    "an identifier of NLVR2": (read_nlvr2, [NLVR2_ENTRY | {"identifier": f"dev-1-0-{HALF}"}]),
    "a statement": (read_nlvr2, [NLVR2_ENTRY | {"sentence": HALF}]),
}


@pytest.mark.parametrize(("read", "value"), HALVES.values(), ids=HALVES)
def test_half_a_character_is_refused_in_every_field(read: Any, value: Any, tmp_path: Path) -> None:
    files = [str(write_json(tmp_path / "a.json", value))]
    if "multiple_choice_answer" in value:
        questions = {"questions": QUESTIONS["questions"][:1]}  # type: ignore[index]
        annotations = {"annotations": [value]}
        files = [str(write_json(tmp_path / name, part)) for name, part in {"q": questions, "a": annotations}.items()]
    with pytest.raises(InputError, match=r"holds half a character, which no file can store|is not a question id"):
        list(read(*files))


@pytest.mark.parametrize("raw", ["q-1", "007", "+5", "", " 7", -1, "1" * 201, "٣"])
def test_a_question_of_vqa_without_a_number_is_refused_where_it_is_read(raw: Any, tmp_path: Path) -> None:
    official = {"image_id": 7, "question": "Is it?", "question_id": raw}
    for value in ({"questions": [official]}, [LXMERT_ENTRY | {"question_id": raw}]):
        with pytest.raises(InputError, match=r"question id"):
            read_vqa(str(write_json(tmp_path / "a.json", value)))


def test_the_number_of_a_question_may_be_beyond_64_bits(tmp_path: Path) -> None:
    path = write_json(tmp_path / "a.json", [LXMERT_ENTRY | {"question_id": 10**19}])
    assert [question.question_id for question in read_vqa(str(path))] == ["10000000000000000000"]
    SUBMISSIONS["vqa"].write(tmp_path / "p", {"10000000000000000000": "a cat"})
    assert SUBMISSIONS["vqa"].read(tmp_path / "p") == {"10000000000000000000": "a cat"}


@pytest.mark.parametrize("raw", ["007", "a,b", 'a"b', "a b", "a\nb", "é", "a\0", ""])
def test_what_a_file_of_predictions_cannot_give_back_is_refused_where_it_is_read(raw: str, tmp_path: Path) -> None:
    files = {
        "gqa": (read_gqa, {raw: GQA_ENTRY}, raw),
        "nlvr2": (read_nlvr2, [NLVR2_ENTRY | {"identifier": f"dev-1-0-{raw}"}], f"dev-1-0-{raw}"),
    }
    for task, (read, value, question_id) in files.items():
        path = write_json(tmp_path / "a.json", value)
        if raw == "007" or (task, raw) == ("nlvr2", ""):
            [question] = read(str(path))
            written = {question.question_id: "True"}
            SUBMISSIONS[task].write(tmp_path / "p", written)
            assert SUBMISSIONS[task].read(tmp_path / "p") == written == {question_id: "True"}
        else:
            with pytest.raises(InputError, match=r"is not a question id; that is a number|has no question_id"):
                list(read(str(path)))
