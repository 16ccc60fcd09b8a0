"""The results of a search: in the terminal with drawings of the best, and as a page with every picture."""

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
from msp_ds.report.pages.pictures import LONGEST_SIDE, as_data_address, find_pictures, open_pictures
from msp_ds.report.pages.search import DRAWN, Finding, Hit, finding_page, finding_shown


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
    return Finding(sought="coco-7", where=made.where, hits=made.hits, query_image=sample(), captions=captions)


def shown_text(found: Finding) -> str:
    show = Console(width=80, record=True, file=io.StringIO())
    show.print(*finding_shown(found), sep="\n")
    return show.export_text()


def test_the_terminal_ranks_all_and_draws_the_best() -> None:
    text = shown_text(finding())
    assert [text.count(f"coco-{n}  80 x 40 pixels") for n in range(5)] == [1] * DRAWN + [0, 0]
    assert [float(value) for value in re.findall(r"│ (0\.\d{3}) │ coco-\d", text)] == [0.9, 0.8, 0.7, 0.6, 0.5]
    assert "┌sky" in text
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 80


def test_the_terminal_shows_what_fits_an_image() -> None:
    text = shown_text(about())
    # The chance of a margin of 2 is 1 / (1 + exp(-2)).
    assert re.search(r"0\.881 │ A dog & a <sky>\. +│ yes", text)
    assert re.search(r"0\.269 │ a cat +│ +│", text)
    assert "likeness" in text


def test_a_page_shows_every_hit_with_its_picture_and_loads_nothing() -> None:
    picture = as_data_address(Image.new("RGB", (8, 4)))
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
    assert '<b>0.881</b><span>A dog &amp; a &lt;sky&gt;. <span class="own">its own</span></span>' in page
    assert "<b>0.269</b><span>a cat</span>" in page


def test_pictures_are_made_small_and_as_data_address(tmp_path: Path) -> None:
    Image.new("RGB", (2000, 1000), "red").save(tmp_path / "7.png")
    found = open_pictures(tmp_path, [{"image_id": "coco-7"}, {"image_id": "coco-8"}])
    assert {name: one.size for name, one in found.items()} == {"coco-7": (LONGEST_SIDE, LONGEST_SIDE // 2)}
    kind, data = as_data_address(found["coco-7"]).split(",")
    assert kind == "data:image/jpeg;base64"
    assert Image.open(io.BytesIO(base64.b64decode(data))).size == (LONGEST_SIDE, LONGEST_SIDE // 2)
    assert open_pictures(None, [{"image_id": "coco-7"}]) == {}


def test_a_broken_picture_is_named(tmp_path: Path) -> None:
    (tmp_path / "7.jpg").write_text("no picture")
    with pytest.raises(InputError, match=r"7\.jpg: is not a readable picture .*; take it out of the folder"):
        open_pictures(tmp_path, [{"image_id": "coco-7"}])


def test_files_are_found_by_every_name_of_an_image(tmp_path: Path) -> None:
    names = [
        "COCO_val2014_000000000007.jpg",
        "000000000008.JPG",
        "below/9.png",
        "train-1-0-img1.png",
        "10.txt",
        "a.jpg",
    ]
    (tmp_path / "below").mkdir()
    for name in names:
        (tmp_path / name).write_bytes(b"")
    wanted = ["coco-7", "coco-8", "coco-9", "coco-10", "coco-11", "nlvr2-train-1-0-img1"]
    assert find_pictures(tmp_path, wanted) == {
        "coco-7": tmp_path / names[0],
        "coco-8": tmp_path / names[1],
        "coco-9": tmp_path / names[2],
        "nlvr2-train-1-0-img1": tmp_path / names[3],
    }


def test_own_pictures_are_found_by_the_id_of_their_file(tmp_path: Path) -> None:
    for name in ("IMG 2031.JPG", "café.webp", "12.tif", "note.txt"):
        (tmp_path / name).write_bytes(b"")
    assert find_pictures(tmp_path, ["own-img-2031", "own-cafe", "own-12", "own-note", "coco-7"]) == {
        "own-img-2031": tmp_path / "IMG 2031.JPG",
        "own-cafe": tmp_path / "café.webp",
        "own-12": tmp_path / "12.tif",
    }


def test_plain_numbers_belong_to_the_corpus_of_the_wanted_ids(tmp_path: Path) -> None:
    (tmp_path / "2375429.jpg").write_bytes(b"")
    assert find_pictures(tmp_path, ["vg-2375429"]) == {"vg-2375429": tmp_path / "2375429.jpg"}
    assert find_pictures(tmp_path, ["f30k-7"]) == {}


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="val2014 is not a folder; name the one that holds the image files"):
        find_pictures(tmp_path / "val2014", ["coco-7"])
