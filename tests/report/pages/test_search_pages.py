"""What a search found, shown: in the terminal with the best drawn, as a page with every picture."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path

import pytest
from PIL import Image
from report_facts import sample
from rich.console import Console

from msp_ds.errors import InputError
from msp_ds.library import Match
from msp_ds.report.pages.pictures import LONGEST_SIDE, open_pictures, packed
from msp_ds.report.pages.search import DRAWN, Finding, Hit, finding_shown
from msp_ds.report.pages.search_page import finding_page


def finding(num_hits: int = 5) -> Finding:
    """Images 0 to 4, each a little worse than the one before."""
    hits = tuple(Hit(sample=sample(image_id=f"coco-{n}"), value=0.9 - n / 10) for n in range(num_hits))
    return Finding(sought="a <red> dog", where="runs/tps, 5 images of val", hits=hits)


def about() -> Finding:
    """What fits image 7, and the images like it."""
    captions = tuple(
        Match(text=text, image_id="coco-7", score=score, is_own=own)
        for text, score, own in (("A dog & a <sky>.", 2.0, True), ("a cat", -1.0, False))
    )
    made = finding()
    return Finding(sought="coco-7", where=made.where, hits=made.hits, asked=sample(), captions=captions)


def said(found: Finding) -> str:
    show = Console(width=80, record=True, file=io.StringIO())
    show.print(*finding_shown(found), sep="\n")
    return show.export_text()


def test_the_terminal_ranks_all_and_draws_the_best() -> None:
    text = said(finding())
    assert [text.count(f"coco-{n}  80 x 40 pixels") for n in range(5)] == [1] * DRAWN + [0, 0]
    assert [float(value) for value in re.findall(r"│ (0\.\d{3}) │ coco-\d", text)] == [0.9, 0.8, 0.7, 0.6, 0.5]
    assert "┌sky" in text
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 80


def test_the_terminal_shows_what_fits_an_image() -> None:
    text = said(about())
    # The chance of a margin of 2 is 1 / (1 + exp(-2)).
    assert re.search(r"0\.881 │ A dog & a <sky>\. +│ yes", text)
    assert re.search(r"0\.269 │ a cat +│ +│", text)
    assert "likeness" in text


def test_a_page_shows_every_hit_with_its_picture_and_loads_nothing() -> None:
    picture = packed(Image.new("RGB", (8, 4)))
    page = finding_page(finding(), pictures={"coco-1": picture})
    assert page.count("<svg") == 5
    assert page.count('class="picture photo"') == page.count(picture) == 1
    assert "“a &lt;red&gt; dog”" in page
    assert "http" not in page.replace("http-equiv", "")
    assert "<script" not in page
    assert [float(one) for one in re.findall(r"width:([\d.]+)%", page)] == [90, 80, 70, 60, 50]


def test_a_page_about_an_image_lists_its_texts() -> None:
    page = finding_page(about(), pictures={})
    assert page.count("<svg") == 6
    assert "<b>0.881</b><span>A dog &amp; a &lt;sky&gt;. <span class=own>its own</span></span>" in page
    assert "<b>0.269</b><span>a cat</span>" in page


def test_pictures_are_made_small_and_packed(tmp_path: Path) -> None:
    Image.new("RGB", (2000, 1000), "red").save(tmp_path / "7.png")
    found = open_pictures(tmp_path, ["coco-7", "coco-8"])
    assert {name: one.size for name, one in found.items()} == {"coco-7": (LONGEST_SIDE, LONGEST_SIDE // 2)}
    kind, data = packed(found["coco-7"]).split(",")
    assert kind == "data:image/jpeg;base64"
    assert Image.open(io.BytesIO(base64.b64decode(data))).size == (LONGEST_SIDE, LONGEST_SIDE // 2)
    assert (open_pictures(None, ["coco-7"]), packed(None)) == ({}, "")


def test_a_broken_picture_is_named(tmp_path: Path) -> None:
    (tmp_path / "7.jpg").write_text("no picture")
    with pytest.raises(InputError, match=r"7\.jpg is no readable picture .*; take it out of the folder"):
        open_pictures(tmp_path, ["coco-7"])
