"""Models side by side as a picture file, for papers and TensorBoard: boxes to scale, attention, distributions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from msp_ds.report.pages.explain import Bar, Example, View, darkness, most_looked_at
from msp_ds.report.pages.svg import placed_names

_WIDE, _GAP, _LETTERS = 560, 40, 22
"""Pixels: a column, the space around it, the height of the text."""
_LINE = 32
_TALLEST = 560
"""Pixels that an image may be high."""
_FONTS = ("DejaVuSans.ttf", "LiberationSans-Regular.ttf", "Arial.ttf", "Helvetica.ttc")
_INK, _SOFT, _PAPER, _FRAME, _BAR, _PALE = "#1f2328", "#61686f", "#ffffff", "#f4f4f1", "#3b6ea8", "#a6bcd6"
_LOOK = (249, 122, 6)


class _Sheet:
    """A white sheet with a way to write on it."""

    def __init__(self, width: int, height: int) -> None:
        self.image = Image.new("RGB", (width, height), _PAPER)
        self.pen = ImageDraw.Draw(self.image)
        self.has_all_letters, self.font = _font(_LETTERS)

    def write(self, place: tuple[float, float], text: str, *, colour: str = _INK) -> None:
        """Text with its upper left corner at a place."""
        self.pen.text(place, self._letters(text), font=self.font, fill=colour)

    def wrapped(self, text: str, *, width: float) -> list[str]:
        """The lines of a text that are at most so many pixels wide."""
        lines = [""]
        for word in text.split():
            longer = f"{lines[-1]} {word}".strip()
            if lines[-1] and self.pen.textlength(self._letters(longer), font=self.font) > width:
                lines.append(word)
            else:
                lines[-1] = longer
        return lines

    def shortened(self, text: str, *, width: float) -> str:
        """A text that is at most so many pixels wide, its end left out where it is longer."""
        while text and self.pen.textlength(self._letters(text), font=self.font) > width:
            text = text[:-2] + "…" if text.endswith("…") else text[:-1] + "…"
        return text

    def _letters(self, text: str) -> str:
        """A text in letters that the font has."""
        if self.has_all_letters:
            return text
        return text.replace("→", "->").replace("✓", "*").replace("…", "...").encode("ascii", "replace").decode("ascii")


def draw_example(example: Example, picture: Image.Image | None) -> Image.Image:
    """An example with a column for each model; picture: the image file, if there is one."""
    scale = min(_WIDE / example.sample["width"], _TALLEST / example.sample["height"])
    deep = round(example.sample["height"] * scale)
    probe = _Sheet(1, 1)
    width = _GAP + len(example.views) * (_WIDE + _GAP)
    heading = probe.wrapped(_heading(example), width=width - 2 * _GAP)
    columns = [_lines_of(probe, example, view) for view in example.views]
    top = _GAP + _LINE * (len(heading) + 1)
    sheet = _Sheet(width, top + _LINE + deep + _GAP + _LINE * max(map(len, columns)) + _GAP)
    for number, line in enumerate(heading):
        sheet.write((_GAP, _GAP + number * _LINE), line)
    for number, (view, lines) in enumerate(zip(example.views, columns, strict=True)):
        left = _GAP + number * (_WIDE + _GAP)
        sheet.write((left, top), view.name)
        image = _looked_at(example.sample, view, picture, scale=scale)
        sheet.image.paste(image, (left, top + _LINE + 8))
        for row, (text, bar) in enumerate(lines):
            _draw_line(sheet, (left, top + _LINE + deep + _GAP + row * _LINE), text, bar)
    return sheet.image


def _heading(example: Example) -> str:
    right = f"  (right: {', '.join(example.right)})" if example.right else ""
    return f"{example.sample['image_id']}: {example.title}{right}"


def _lines_of(probe: _Sheet, example: Example, view: View) -> list[tuple[str, Bar | None]]:
    """What stands below a picture: an answer with its bar in one line; a caption in several, its bar below it."""
    lines: list[tuple[str, Bar | None]] = []
    for place, bar in enumerate(view.bars, start=1):
        mark = " ✓" if bar.is_right else ""
        if example.question:
            lines.append((f"{bar.text}{mark}", bar))
        else:
            lines += [(line, None) for line in probe.wrapped(f"{place}. {bar.text}{mark}", width=_WIDE)]
            lines.append(("", bar))
    return lines


def _draw_line(sheet: _Sheet, place: tuple[int, int], text: str, bar: Bar | None) -> None:
    left, top = place
    if bar is None:
        sheet.write((left, top), text)
        return
    start, room = (left + 180, _WIDE - 270) if text else (left, _WIDE - 90)
    sheet.write((left, top), sheet.shortened(text, width=170))
    sheet.pen.rectangle((start, top + 4, start + room, top + 20), fill=_FRAME)
    if round(room * bar.chance):
        colour = _PALE if bar.is_right is False else _BAR
        sheet.pen.rectangle((start, top + 4, start + round(room * bar.chance), top + 20), fill=colour)
    sheet.write((start + room + 12, top), f"{bar.chance:.3f}", colour=_SOFT)


def _looked_at(sample: dict[str, Any], view: View, picture: Image.Image | None, *, scale: float) -> Image.Image:
    """The image with its regions, the darker the more all words together look at them."""
    size = (round(sample["width"] * scale), round(sample["height"] * scale))
    whole = picture.resize(size) if picture else Image.new("RGB", size, _FRAME)
    shares = view.overall
    opacities = (255 * darkness(shares)).round().int().tolist()
    boxes = [tuple(round(side * scale) for side in box) for box in sample["boxes"]]
    # The largest first, so that what is small stays in sight.
    for place in sorted(range(len(boxes)), key=lambda one: -_area(boxes[one])):
        wash = Image.new("RGBA", size)
        pen = ImageDraw.Draw(wash)
        pen.rectangle(boxes[place], fill=(*_LOOK, opacities[place]), outline=(60, 60, 60, 110))
        whole = Image.alpha_composite(whole.convert("RGBA"), wash)
    _write_names(whole, sample, most_looked_at(sample, shares), scale=scale)
    return whole.convert("RGB")


def _write_names(whole: Image.Image, sample: dict[str, Any], named: Sequence[int], *, scale: float) -> None:
    """The names of some regions."""
    letters = 18
    pen, font = ImageDraw.Draw(whole), _font(letters)[1]
    for place, (left, base) in placed_names(sample, named, size=letters / scale).items():
        text = sample["labels"][place].encode("ascii", "replace").decode("ascii")
        corner = (left * scale, base * scale - letters)
        pen.text(corner, text, font=font, fill=_INK, stroke_width=3, stroke_fill=_PAPER)


def _area(box: Sequence[float]) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def _font(size: int) -> tuple[bool, Any]:
    """Whether it has more than ASCII, and a font of this machine, or else the one that Pillow carries."""
    for name in _FONTS:
        try:
            return True, ImageFont.truetype(name, size)
        except OSError:
            continue
    return False, ImageFont.load_default(size)
