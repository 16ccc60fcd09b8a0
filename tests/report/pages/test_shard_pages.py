"""A shard set as drawings of characters, as tables and as a page."""

from __future__ import annotations

import re
import tomllib
from html.parser import HTMLParser
from pathlib import Path

import pytest
from report_facts import facts, sample
from rich.console import Console

from msp_ds.errors import InputError
from msp_ds.report.box_map import COLUMNS, MAX_LINES, box_map
from msp_ds.report.pages.page import write_html
from msp_ds.report.pages.shard_page import set_page
from msp_ds.report.pages.svg import boxes_to_scale, histogram
from msp_ds.report.shard_set import as_text, set_tables
from msp_ds.storage.atomic_files import require_plain_file
from msp_ds.training.monitoring.box_layout import prominent_boxes


def test_a_picture_of_characters_has_the_boxes_where_they_are() -> None:
    # 80 x 40 pixels on 76 x 19 characters, which are twice as high as wide.
    lines = box_map(sample())
    assert (len(lines), {len(line) for line in lines}) == (19 + 2, {COLUMNS + 2})
    assert lines[1] == "┆┌sky" + "─" * 71 + "┐┆"
    # The head's box lies in the dog's upper left corner and is drawn over it: x 10 of 80 is column 9 of 0 to 75.
    assert lines[8].index("┌head") == 1 + 9
    assert lines[8].rstrip("┆ ").endswith("─┐")
    assert lines[19].index("└") == 1 + 9


@pytest.mark.parametrize(("width", "height"), [(1, 1000), (1000, 1), (500, 375)])
def test_a_picture_of_characters_fits_for_any_aspect_ratio(width: int, height: int) -> None:
    lines = box_map(sample(width=width, height=height, boxes=[[0.0, 0.0, float(width), float(height)]], labels=["x"]))
    assert len(lines) <= MAX_LINES + 2
    assert max(map(len, lines)) <= COLUMNS + 2


def test_the_largest_boxes_of_different_labels_are_chosen_and_none_almost_on_another() -> None:
    boxes = [[0, 0, 9, 9], [0, 0, 10, 10], [20, 0, 25, 5], [20, 0, 24, 4], [40, 0, 42, 2], [50, 0, 51, 1]]
    labels = ["wall", "sky", "dog", "dog", "", ""]
    # 81 of 100 pixels shared: one box. The second dog is smaller. Regions without a label do not exclude each other.
    assert prominent_boxes(boxes, labels, most=7) == [1, 2, 4, 5]
    assert prominent_boxes(boxes, labels, most=2) == [1, 2]


def test_tables_and_samples_fit_eighty_columns() -> None:
    show = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    show.print(*set_tables(facts()))
    text = show.export_text()
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 80
    for part in ("123,287", "truncated ratio", "0.0227", "dog 4", "sky, dog, head", "A dog & a <sky>.", "regions.tsv"):
        assert part in text
    assert "histogram" not in text


def test_values_are_shown_as_people_write_them() -> None:
    values = [True, 1234567, 0.123456, None, {"a": 1000}, "x"]
    assert [as_text(value) for value in values] == ["yes", "1,234,567", "0.1235", "none", "a 1,000", "x"]


def test_bars_are_as_high_as_their_counts() -> None:
    drawn = histogram(range(8, 11), [10, 30, 0], bar=1, what="lengths")
    heights = [float(value) for value in re.findall(r'<rect [^>]*height="([\d.]+)"', drawn)]
    assert heights[0] == pytest.approx(heights[1] / 3, abs=0.1)
    assert heights[2] == 0
    assert re.findall(r"<title>(.*?)</title>", drawn) == ["8: 10", "9: 30", "10: 0"]
    ranges = histogram([1.0, 1.5], [4, 8], bar=0.5, what="norms")
    assert re.findall(r"<title>(.*?)</title>", ranges) == ["1 to 1.5: 4", "1.5 to 2: 8"]


def test_boxes_are_drawn_to_scale_each_once_with_its_label_for_the_pointer() -> None:
    drawn = boxes_to_scale(sample())
    assert 'viewBox="0 0 80 40"' in drawn
    rectangles = re.findall(r'<rect x="([\d.]+)" y="([\d.]+)" width="([\d.]+)" height="([\d.]+)"', drawn)
    expected = [["0.0", "0.0", "80.0", "10.0"], ["10.0", "15.0", "40.0", "25.0"], ["10.0", "15.0", "10.0", "10.0"]]
    assert sorted(map(list, rectangles)) == sorted(expected)
    assert "<title>0: blue sky, 0.90</title>" in drawn
    # The head's name would lie on the dog's, and is left to the pointer.
    assert re.findall(r"<text [^>]*>(\w+)</text>", drawn) == ["dog", "sky"]


class _Reading(HTMLParser):
    """Records the open tags, and the tags that load or run something."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.foreign: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        self.open += [tag] if tag != "meta" else []

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        loads = {"src", "href", "xlink:href", "srcset", "data"} & {name for name, _ in attrs}
        self.foreign += [tag] if loads or tag in ("script", "link", "img", "iframe") else []

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_a_page_is_whole_and_loads_nothing() -> None:
    page = set_page(facts())
    reading = _Reading()
    reading.feed(page)
    reading.close()
    assert reading.open == []
    assert reading.foreign == []
    assert "url(" not in page
    assert "http://" not in page
    assert "https://" not in page
    assert "default-src 'none'" in page
    assert "prefers-color-scheme: dark" in page


def test_what_comes_from_files_cannot_become_part_of_the_page() -> None:
    script = "<script>alert(1)</script>\u202e\x1b"
    made = sample(labels=[script, '"><b>', ""], texts=[script], source=script, image_id=script, attributes=[script] * 3)
    page = set_page(facts(samples=[made], set={**facts()["set"], "path": script, "extractor": script}))
    assert "<script" not in page
    assert "<b>&quot;" not in page
    assert "&lt;script&gt;" in page
    assert "&lt;/script&gt;\\u202e\\x1b" in page
    assert "\u202e" not in page


def test_a_page_shows_the_figures() -> None:
    page = set_page(facts())
    for part in ("123,287", "616,767", "2.3 %", "18.4 GB", "75.0 %", "A dog &amp; a &lt;sky&gt;.", "0.34"):
        assert part in page


def test_a_page_that_cannot_be_written_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"page.html cannot be written \(.*\); name another file"):
        write_html(tmp_path / "file" / "page.html", "")
    write_html(tmp_path / "new" / "page.html", "<p>→")
    assert (tmp_path / "new" / "page.html").read_text(encoding="utf-8") == "<p>→"


def test_an_installation_holds_the_templates() -> None:
    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text(encoding="utf-8"))
    assert project["tool"]["setuptools"]["package-data"]["msp_ds.report.pages"] == ["templates/*"]


def test_a_page_of_a_name_too_long_is_refused_in_one_line(tmp_path: Path) -> None:
    require_plain_file(tmp_path / ("x" * 256))  # as a command does before its work
    with pytest.raises(InputError, match=r"cannot be written \(File name too long\); name another file"):
        write_html(tmp_path / ("x" * 256), "")
