"""Models side by side as a picture, for papers and TensorBoard: boxes to scale, attention, distributions."""

from typing import Any

from PIL import Image, ImageDraw, ImageFont

from msp_ds.report.pages.explain import Bar, Example, View, named_regions, opacities
from msp_ds.training.monitoring.box_layout import largest_first, place_labels, scaled_boxes

_COLUMN, _GAP, _FONT_SIZE = 560, 40, 22
"""Pixels: width of a column, the space around it, size of the text."""
_LINE = 32
_MAX_HEIGHT = 560
"""Pixels of an image."""
_LABEL_SIZE = 18
_FONTS = ("DejaVuSans.ttf", "LiberationSans-Regular.ttf", "Arial.ttf", "Helvetica.ttc")
_INK, _SOFT, _PAPER, _FRAME, _BAR, _PALE = "#1f2328", "#61686f", "#ffffff", "#f4f4f1", "#3b6ea8", "#a6bcd6"
_ATTENTION = (249, 122, 6)


class _Sheet:
    """A white sheet to write on, in one font."""

    def __init__(self, width: int, height: int) -> None:
        self.image = Image.new("RGB", (width, height), _PAPER)
        self.pen = ImageDraw.Draw(self.image)
        self.has_all_letters, self.font = _font(_FONT_SIZE)

    def write(self, place: tuple[float, float], text: str, *, colour: str = _INK) -> None:
        """Write text with its upper left corner at a place."""
        self.pen.text(place, self._letters(text), font=self.font, fill=colour)

    def wrapped(self, text: str, *, width: float) -> list[str]:
        """Break a text into lines of at most `width` pixels."""
        lines = [""]
        for word in text.split():
            longer = f"{lines[-1]} {word}".strip()
            if lines[-1] and self.pen.textlength(self._letters(longer), font=self.font) > width:
                lines.append(word)
            else:
                lines[-1] = longer
        return lines

    def shortened(self, text: str, *, width: float) -> str:
        """Cut a text to `width` pixels, with an ellipsis where it is longer."""
        while text and self.pen.textlength(self._letters(text), font=self.font) > width:
            text = text[:-2] + "…" if text.endswith("…") else text[:-1] + "…"
        return text

    def _letters(self, text: str) -> str:
        """Replace the letters that the font lacks."""
        if self.has_all_letters:
            return text
        return text.replace("→", "->").replace("✓", "*").replace("…", "...").encode("ascii", "replace").decode("ascii")


def draw_example(example: Example, picture: Image.Image | None) -> Image.Image:
    """Draw an example with a column for each model; picture: the image file, if there is one."""
    scale = min(_COLUMN / example.sample["width"], _MAX_HEIGHT / example.sample["height"])
    image_height = round(example.sample["height"] * scale)
    probe = _Sheet(1, 1)
    width = _GAP + len(example.views) * (_COLUMN + _GAP)
    heading = probe.wrapped(example.heading, width=width - 2 * _GAP)
    columns = [_lines_of(probe, example, view) for view in example.views]
    top = _GAP + _LINE * (len(heading) + 1)
    sheet = _Sheet(width, top + _LINE + image_height + _GAP + _LINE * max(map(len, columns)) + _GAP)
    for number, line in enumerate(heading):
        sheet.write((_GAP, _GAP + number * _LINE), line)
    for number, (view, lines) in enumerate(zip(example.views, columns, strict=True)):
        left = _GAP + number * (_COLUMN + _GAP)
        sheet.write((left, top), view.name)
        image = _with_attention(example.sample, view, picture, scale=scale)
        sheet.image.paste(image, (left, top + _LINE + 8))
        for row, (text, bar) in enumerate(lines):
            _draw_line(sheet, (left, top + _LINE + image_height + _GAP + row * _LINE), text, bar)
    return sheet.image


def _lines_of(probe: _Sheet, example: Example, view: View) -> list[tuple[str, Bar | None]]:
    """The lines below a picture: one for an answer and its bar; several for a caption, and one for its bar."""
    lines: list[tuple[str, Bar | None]] = []
    for place, bar in enumerate(view.bars, start=1):
        mark = " ✓" if bar.is_right else ""
        if example.question:
            lines.append((f"{bar.text}{mark}", bar))
        else:
            lines += [(line, None) for line in probe.wrapped(f"{place}. {bar.text}{mark}", width=_COLUMN)]
            lines.append(("", bar))
    return lines


def _draw_line(sheet: _Sheet, place: tuple[int, int], text: str, bar: Bar | None) -> None:
    left, top = place
    if bar is None:
        sheet.write((left, top), text)
        return
    start, width = (left + 180, _COLUMN - 270) if text else (left, _COLUMN - 90)
    sheet.write((left, top), sheet.shortened(text, width=170))
    sheet.pen.rectangle((start, top + 4, start + width, top + 20), fill=_FRAME)
    if filled := round(width * bar.probability):
        colour = _PALE if bar.is_right is False else _BAR
        sheet.pen.rectangle((start, top + 4, start + filled, top + 20), fill=colour)
    sheet.write((start + width + 12, top), f"{bar.probability:.3f}", colour=_SOFT)


def _with_attention(sample: dict[str, Any], view: View, picture: Image.Image | None, *, scale: float) -> Image.Image:
    """Draw the image with its regions, the darker the more all words together look at them."""
    size = (round(sample["width"] * scale), round(sample["height"] * scale))
    drawn = picture.resize(size).convert("RGBA") if picture else Image.new("RGBA", size, _FRAME)
    opacity = (255 * opacities(view.overall)).round().int().tolist()
    boxes = scaled_boxes(sample["boxes"], image=(sample["width"], sample["height"]), canvas=size)
    for region in largest_first(sample["boxes"]):
        layer = Image.new("RGBA", size)
        fill = (*_ATTENTION, opacity[region])
        ImageDraw.Draw(layer).rectangle(boxes[region], fill=fill, outline=(60, 60, 60, 110))
        drawn = Image.alpha_composite(drawn, layer)
    font, pen = _font(_LABEL_SIZE)[1], ImageDraw.Draw(drawn)
    named = named_regions(sample, view.overall)
    labels = {region: sample["labels"][region].encode("ascii", "replace").decode("ascii") for region in named}
    corners = place_labels(
        boxes, labels, canvas=size, height=_LABEL_SIZE, width_of=lambda text: pen.textlength(text, font=font)
    )
    for region, corner in corners.items():
        pen.text(corner, labels[region], font=font, fill=_INK, stroke_width=3, stroke_fill=_PAPER)
    return drawn.convert("RGB")


def _font(size: int) -> tuple[bool, Any]:
    """Return whether the font has more than ASCII, and a font of this machine or else the one that Pillow carries."""
    for name in _FONTS:
        try:
            return True, ImageFont.truetype(name, size)
        except OSError:
            continue
    return False, ImageFont.load_default(size)
