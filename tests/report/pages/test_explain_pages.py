"""Models side by side on a page and in a picture: bars as long as probabilities, boxes as dark as attention."""

from __future__ import annotations

import io
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from report_facts import sample
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from msp_ds.errors import InputError
from msp_ds.library import WordAttention
from msp_ds.report.pages.explain import (
    Bar,
    Example,
    View,
    arrowed,
    explanation_lines,
    named_regions,
    read_pool,
    top_regions,
)
from msp_ds.report.pages.explain_files import explain_page, write_explanation
from msp_ds.report.pages.explain_picture import draw_example

WEIGHTS = torch.tensor([[0.1, 0.4, 0.1], [0.3, 0.2, 0.1]])
"""Of two words on sky, dog and head; together 0.2, 0.3 and 0.1."""


def view(name: str, *, yes: float = 0.75) -> View:
    bars = (Bar(text="yes", probability=yes, is_right=True), Bar(text="<no>", probability=1 - yes, is_right=False))
    return View(name=name, bars=bars, attention=WordAttention(words=("the", "<dog>"), weights=WEIGHTS))


def question() -> Example:
    views = (view("s", yes=0.25), view("t→p→s"))
    return Example(sample=sample(), question="a <dog>?", right=("yes",), views=views)


def captions() -> Example:
    return Example(sample=sample(image_id="coco-8"), question=None, right=(), views=(view("s"),))


def page_of(*examples: Example, pictures: dict[str, str] | None = None) -> str:
    return explain_page(examples, title="<t>", note="<n>", pictures=pictures or {})


def test_every_model_has_a_column_with_its_bars() -> None:
    page = page_of(question())
    assert re.findall(r"<h3>(.*?)</h3>", page) == ["s", "t→p→s"]
    assert re.findall(r'<i style="width:([\d.]+)%"', page) == ["25.0", "75.0", "75.0", "25.0"]
    assert page.count("✓ right") == 2
    assert "right: yes" in page


def test_each_box_carries_the_attention_of_every_word_and_of_all_together() -> None:
    page = page_of(question())
    # 0.75 times the square of the place between the smallest and the largest weight: all words 1/2, 1, 0.
    found = re.findall(r"--s0:([\d.]+);--s1:([\d.]+);--s2:([\d.]+)", page)
    per_box = {tuple(round(float(value), 2) for value in one) for one in found}
    assert per_box == {(0.19, 0.0, 0.75), (0.75, 0.75, 0.19), (0.0, 0.0, 0.0)}
    assert len(found) == 6


def test_a_word_is_chosen_for_all_models_of_a_question_and_for_each_caption_alone() -> None:
    shared, own = page_of(question()), page_of(captions(), captions())
    assert len(re.findall(r'type="radio"', shared)) == 3
    assert re.findall(r'name="(\w+)" id="\w+" checked', own) == ["e0v0", "e1v0"]
    for page in (shared, own):
        ids = re.findall(r'id="(\w+)"', page)
        assert len(ids) == len(set(ids))
        assert sorted(ids) == sorted(re.findall(r'for="(\w+)"', page))
    assert ".w2:checked ~ .views g rect" in shared
    assert "--shade: var(--s2)" in shared
    assert ".w3:checked" not in shared


def test_a_page_escapes_its_values_and_loads_nothing() -> None:
    page = page_of(question(), captions(), pictures={"coco-7": "data:image/jpeg;base64,AAAA"})
    for raw in ("<dog>", "<no>", "<t>", "<n>", "<script"):
        assert raw not in page
    assert page.count("data:image/jpeg") == 2  # once a model
    assert "http" not in page.replace("http-equiv", "")


def test_the_regions_with_the_most_attention_are_named() -> None:
    assert top_regions(sample(), WEIGHTS.mean(0)) == "dog 0.30, blue sky 0.20, brown head 0.10"
    twice = sample(labels=["dog", "dog", ""])
    assert named_regions(twice, WEIGHTS.mean(0)) == [1]


def test_the_terminal_sets_models_side_by_side() -> None:
    show = Console(width=100, record=True, file=io.StringIO())
    show.print(*explanation_lines([question()]))
    text = show.export_text()
    assert "coco-7: a <dog>?  (right: yes)" in text
    assert text.index("0.750 <no>") < text.index("0.250 yes ✓") < text.index("0.750 yes ✓")
    assert "dog 0.30, blue sky 0.20" in text


def test_the_picture_has_a_column_for_each_model_and_is_darkest_where_they_look() -> None:
    one, two = (np.asarray(draw_example(example, None)) for example in (captions(), question()))
    assert two.shape[1] - one.shape[1] == one.shape[1] - 40 == 600

    # 80 x 40 pixels at seven times their size, from (40, 144) on: heading, free line, name.
    def colour(x: float, y: float) -> np.ndarray:
        return two[int(144 + 7 * y), int(40 + 7 * x)].astype(int)

    dog, sky, nothing = colour(45, 38), colour(70, 5), colour(70, 30)
    assert nothing.tolist() == [244, 244, 241]
    # The darker, the less blue is left.
    assert dog[2] < sky[2] < nothing[2]


def test_a_long_answer_leaves_its_bar_free() -> None:
    long = Bar(text="a very long answer that nobody would give " * 3, probability=0.5, is_right=None)
    made = View(name="s", bars=(long,), attention=view("s").attention)
    drawn = np.asarray(draw_example(Example(sample=sample(), question="why?", right=(), views=(made,)), None))
    # The first half of the bar is one blue, which no letter lies upon: it begins 180 pixels from the margin of 40.
    row = drawn[144 + 280 - 8 + 40 + 12, 40 + 180 : 40 + 180 + 140]
    assert (row == np.array([0x3B, 0x6E, 0xA8])).all()


def test_the_files_are_a_page_and_a_picture_an_example_and_tensorboard_gets_them(tmp_path: Path) -> None:
    Image.new("RGB", (160, 80), "green").save(tmp_path / "7.jpg")
    written = write_explanation(
        [question(), captions()], note="n", out=tmp_path / "out", images=tmp_path, tensorboard=tmp_path / "board"
    )
    assert [path.name for path in written] == ["explain.html", "explain-1-coco-7.png", "explain-2-coco-8.png"]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {path.name for path in written}
    assert Image.open(written[1]).size == draw_example(question(), None).size
    board = EventAccumulator(str(tmp_path / "board")).Reload()
    assert sorted(board.Tags()["images"]) == ["explain/1-coco-7", "explain/2-coco-8"]
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        write_explanation([question()], note="n", out=tmp_path / "file", images=None, tensorboard=None)


def test_a_curriculum_is_named_with_arrows_and_other_runs_by_their_folder() -> None:
    assert [arrowed(name) for name in ("s", "ts", "tps", "vqa", "tps-2", "sss")] == [
        "s",
        "t→s",
        "t→p→s",
        "vqa",
        "tps-2",
        "sss",
    ]


def test_a_pool_is_a_file_of_a_caption_a_line(tmp_path: Path) -> None:
    (tmp_path / "pool.txt").write_text("a dog\n\n  a cat \n")
    assert read_pool(tmp_path / "pool.txt") == ["a dog", "a cat"]
    assert read_pool(None) == []
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(InputError, match=r"empty\.txt holds no caption; it should hold one a line"):
        read_pool(tmp_path / "empty.txt")
    with pytest.raises(InputError, match=r"none\.txt cannot be read .*; it should hold one caption a line"):
        read_pool(tmp_path / "none.txt")
