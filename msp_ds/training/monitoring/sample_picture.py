"""A picture of a held-out pair: its regions with labels and guesses, and the attention of some of its words.

Shards hold no pixels, so regions are drawn as boxes in the image's frame.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from textwrap import wrap

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from msp_ds.training.monitoring.box_layout import largest_first, place_labels, scaled_boxes
from msp_ds.training.monitoring.samples import Guess, Sample, join_pieces

_REGIONS_WIDTH, _WORD_WIDTH = 480, 280
_GAP, _LINE = 12, 18
_MAX_WORDS = 3
_MAX_NAMES = 12
_STRONG = 3.0
"""Multiple of uniform attention that is drawn in full red."""
_LETTER = 7
"""Mean width of a letter in pixels."""
_BACKGROUND, _FRAME, _INK, _FAINT = (255, 255, 255), (200, 205, 212), (32, 36, 44), (120, 130, 145)
_PLAIN_BOX, _RIGHT, _WRONG = (150, 165, 190), (20, 130, 70), (200, 40, 40)
_COLD, _HOT = np.array([250, 250, 252], np.float32), np.array([226, 74, 20], np.float32)
_FONT, _SMALL = 13, 11

Color = tuple[int, int, int]
Box = tuple[int, int, int, int]
"""x0 y0 x1 y1 in pixels of the picture."""


def draw_sample(sample: Sample) -> np.ndarray:
    """Draw a sample; uint8 [height, width, 3]."""
    words = chosen_words(sample)
    tall = round(_REGIONS_WIDTH * min(sample.height / sample.width, 1.4))
    small = round(_WORD_WIDTH * min(sample.height / sample.width, 1.4))
    width = _REGIONS_WIDTH + 2 * _GAP + len(words) * (_WORD_WIDTH + _GAP)
    lines = [(part, color) for line, color in _caption(sample) for part in wrap(line, (width - 2 * _GAP) // _LETTER)]
    height = _LINE + max(tall, small + _LINE) + 3 * _GAP + _LINE * len(lines)
    canvas = Image.new("RGB", (width, height), _BACKGROUND)
    draw = ImageDraw.Draw(canvas)
    draw.text((_GAP, 4), f"{sample.image_id}: regions, the hidden ones with the guess", fill=_FAINT, font=_font(_FONT))
    _draw_regions(canvas, sample, corner=(_GAP, _LINE + _GAP), size=(_REGIONS_WIDTH, tall))
    for number, word in enumerate(words):
        left = _REGIONS_WIDTH + 2 * _GAP + number * (_WORD_WIDTH + _GAP)
        draw.text((left, 4), f"where “{_bare(sample.pieces[word])}” looks", fill=_FAINT, font=_font(_FONT))
        _draw_looks(canvas, sample, word, corner=(left, _LINE + _GAP), size=(_WORD_WIDTH, small))
    below = _LINE + max(tall, small + _LINE) + 2 * _GAP
    for number, (line, color) in enumerate(lines):
        draw.text((_GAP, below + number * _LINE), line, fill=color, font=_font(_FONT))
    return np.asarray(canvas)


def chosen_words(sample: Sample) -> list[int]:
    """Positions of the words whose attention is drawn: masked ones first, then the longest."""
    hidden = [word.position for word in sample.words]
    inner = [position for position in range(1, len(sample.pieces) - 1) if position not in hidden]
    longest = sorted(inner, key=lambda position: (-len(_bare(sample.pieces[position])), position))
    return (hidden + longest)[:_MAX_WORDS]


def _caption(sample: Sample) -> list[tuple[str, Color]]:
    """The lines below the picture: the text, its masked words, topics and match."""
    lines: list[tuple[str, Color]] = [(join_pieces(sample, hidden="[{}]"), _INK)]
    for word in sample.words:
        lines.append((f"hidden word {word.right}: {_listed(word.guesses)}", _RIGHT if word.is_right else _WRONG))
    if sample.predicted_topics or sample.right_topics:
        right = ", ".join(sample.right_topics) or "none"
        lines.append((f"topics: {_listed(sample.predicted_topics) or 'none'}; right: {right}", _INK))
    if sample.match is not None:
        lines.append((f"text and image match: {sample.match:.2f}", _RIGHT if sample.match > 0.5 else _WRONG))
    return lines


def _listed(guesses: Sequence[Guess]) -> str:
    return ", ".join(f"{name} {probability:.2f}" for name, probability in guesses)


def _draw_regions(canvas: Image.Image, sample: Sample, *, corner: tuple[int, int], size: tuple[int, int]) -> None:
    draw = ImageDraw.Draw(canvas)
    boxes = _scaled(sample, corner=corner, size=size)
    _frame(draw, corner, size)
    masked = {region.position: region for region in sample.objects}
    others = [number for number in largest_first(sample.boxes.tolist()) if number not in masked]
    for number in others:
        draw.rectangle(boxes[number], outline=_PLAIN_BOX)
    names: dict[int, tuple[str, Color]] = {}
    for number, region in reversed(masked.items()):
        color = _RIGHT if region.is_right else _WRONG
        draw.rectangle(boxes[number], outline=color, width=3)
        guess = region.guesses[0][0] if region.guesses else "?"
        names[number] = (guess if region.is_right else f"{guess}, is {region.right}", color)
    names |= {number: (sample.labels[number], _FAINT) for number in others[:_MAX_NAMES]}
    _write_names(draw, sample, names, corner=corner, size=size)


def _draw_looks(
    canvas: Image.Image, sample: Sample, word: int, *, corner: tuple[int, int], size: tuple[int, int]
) -> None:
    """Draw a region the redder the more the word attends to it, and name the top three.

    Full red is the maximum, but at least _STRONG times uniform attention.
    """
    looks = sample.looks[word]
    heat = looks / max(float(looks.max(initial=0.0)), _STRONG / max(len(looks), 1))
    shade = np.zeros((size[1], size[0]), np.float32)
    for (x0, y0, x1, y1), value in zip(_scaled(sample, corner=(0, 0), size=size), heat.tolist(), strict=True):
        inside = shade[y0 : y1 + 1, x0 : x1 + 1]
        np.maximum(inside, value, out=inside)
    pixels = _COLD + shade[..., None] * (_HOT - _COLD)
    canvas.paste(Image.fromarray(pixels.astype(np.uint8)), corner)
    draw = ImageDraw.Draw(canvas)
    _frame(draw, corner, size)
    boxes = _scaled(sample, corner=corner, size=size)
    most = np.argsort(-looks, kind="stable")[:3].tolist()
    for number in most:
        draw.rectangle(boxes[number], outline=_INK)
    names = {number: (f"{sample.labels[number]} {looks[number]:.2f}".strip(), _INK) for number in most}
    _write_names(draw, sample, names, corner=corner, size=size)


def _write_names(
    draw: ImageDraw.ImageDraw,
    sample: Sample,
    names: Mapping[int, tuple[str, Color]],
    *,
    corner: tuple[int, int],
    size: tuple[int, int],
) -> None:
    """Write the names of regions in the panel of a size at a corner, the most important names first."""
    font, height = _font(_SMALL), _SMALL + 2
    corners = place_labels(
        _scaled(sample, corner=(0, 0), size=size),
        {number: name for number, (name, _) in names.items()},
        canvas=size,
        height=height,
        width_of=lambda name: draw.textlength(name, font=font),
    )
    for number, (x, y) in corners.items():
        name, color = names[number]
        left, top = corner[0] + x, corner[1] + y + 2
        draw.rectangle((left, top, left + draw.textlength(name, font=font), top + height), fill=_BACKGROUND)
        draw.text((left, top), name, fill=color, font=font)


def _scaled(sample: Sample, *, corner: tuple[int, int], size: tuple[int, int]) -> list[tuple[int, int, int, int]]:
    """The corners of every box within a panel, in pixels of the picture."""
    boxes = scaled_boxes(sample.boxes.tolist(), image=(sample.width, sample.height), canvas=size)
    left, top = corner
    return [(left + x0, top + y0, left + x1, top + y1) for x0, y0, x1, y1 in boxes]


def _frame(draw: ImageDraw.ImageDraw, corner: tuple[int, int], size: tuple[int, int]) -> None:
    draw.rectangle((*corner, corner[0] + size[0] - 1, corner[1] + size[1] - 1), outline=_FRAME)


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _bare(piece: str) -> str:
    return piece.removeprefix("##")
