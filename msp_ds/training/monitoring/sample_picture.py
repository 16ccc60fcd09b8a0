"""A held-out pair as a picture: its regions with their labels and the guesses, and where some of its words look.

There are no pixels of the image in the shards: regions are drawn as boxes in its frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import wrap

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from msp_ds.training.monitoring.samples import MaskedPrediction, Sample

_REGIONS_WIDTH, _WORD_WIDTH = 480, 280
_GAP, _LINE = 12, 18
_MAX_WORDS = 3
_MAX_NAMES = 12
_STRONG = 3.0
"""Times an even look at all regions."""
_LETTER = 7
"""Pixels of an average letter."""
_BACKGROUND, _FRAME, _INK, _FAINT = (255, 255, 255), (200, 205, 212), (32, 36, 44), (120, 130, 145)
_PLAIN_BOX, _RIGHT, _WRONG = (150, 165, 190), (20, 130, 70), (200, 40, 40)
_COLD, _HOT = np.array([250, 250, 252], np.float32), np.array([226, 74, 20], np.float32)
_FONT, _SMALL = 13, 11

Color = tuple[int, int, int]


def draw_sample(sample: Sample) -> np.ndarray:
    """uint8 [height, width, 3]."""
    words = chosen_words(sample)
    tall = round(_REGIONS_WIDTH * min(sample.height / sample.width, 1.4))
    small = round(_WORD_WIDTH * min(sample.height / sample.width, 1.4))
    width = _REGIONS_WIDTH + 2 * _GAP + len(words) * (_WORD_WIDTH + _GAP)
    lines = [(part, color) for line, color in _said(sample) for part in wrap(line, (width - 2 * _GAP) // _LETTER)]
    height = _LINE + max(tall, small + _LINE) + 3 * _GAP + _LINE * len(lines)
    canvas = Image.new("RGB", (width, height), _BACKGROUND)
    draw = ImageDraw.Draw(canvas)
    draw.text((_GAP, 4), f"{sample.image_id}: regions, the hidden ones with the guess", fill=_FAINT, font=_font(_FONT))
    _draw_regions(canvas, sample, place=(_GAP, _LINE + _GAP), size=(_REGIONS_WIDTH, tall))
    for number, word in enumerate(words):
        left = _REGIONS_WIDTH + 2 * _GAP + number * (_WORD_WIDTH + _GAP)
        draw.text((left, 4), f"where “{_bare(sample.pieces[word])}” looks", fill=_FAINT, font=_font(_FONT))
        _draw_looks(canvas, sample, word, place=(left, _LINE + _GAP), size=(_WORD_WIDTH, small))
    below = _LINE + max(tall, small + _LINE) + 2 * _GAP
    for number, (line, color) in enumerate(lines):
        draw.text((_GAP, below + number * _LINE), line, fill=color, font=_font(_FONT))
    return np.asarray(canvas)


def chosen_words(sample: Sample) -> list[int]:
    """Places of the words whose looks are drawn: hidden ones first, then the longest."""
    hidden = [question.place for question in sample.words]
    inner = [place for place in range(1, len(sample.pieces) - 1) if place not in hidden]
    longest = sorted(inner, key=lambda place: (-len(_bare(sample.pieces[place])), place))
    return (hidden + longest)[:_MAX_WORDS]


def _said(sample: Sample) -> list[tuple[str, Color]]:
    """The lines below the picture: the text, its hidden words, topics and match."""
    hidden = {question.place for question in sample.words}
    text = ""
    for place, piece in enumerate(sample.pieces[1:-1], start=1):
        bare = _bare(piece)
        text += ("" if piece.startswith("##") else " ") + (f"[{bare}]" if place in hidden else bare)
    lines: list[tuple[str, Color]] = [(text.strip(), _INK)]
    for question in sample.words:
        guesses = ", ".join(f"{name} {chance:.2f}" for name, chance in question.guesses)
        lines.append((f"hidden word {question.right}: {guesses}", _RIGHT if _is_right(question) else _WRONG))
    if sample.said_topics or sample.right_topics:
        said = ", ".join(f"{name} {chance:.2f}" for name, chance in sample.said_topics) or "none"
        lines.append((f"topics: {said}; right: {', '.join(sample.right_topics) or 'none'}", _INK))
    if sample.match is not None:
        lines.append((f"text and image match: {sample.match:.2f}", _RIGHT if sample.match > 0.5 else _WRONG))
    return lines


def _draw_regions(canvas: Image.Image, sample: Sample, *, place: tuple[int, int], size: tuple[int, int]) -> None:
    draw = ImageDraw.Draw(canvas)
    corners = _scaled(sample, place=place, size=size)
    _frame(draw, place, size)
    asked = {question.place: question for question in sample.objects}
    by_size = sorted(range(len(corners)), key=lambda number: -_area(corners[number]))
    for number in by_size:
        if number not in asked:
            draw.rectangle(corners[number], outline=_PLAIN_BOX)
    names = [(number, sample.labels[number], _FAINT) for number in by_size if number not in asked][:_MAX_NAMES]
    for number, question in asked.items():
        color = _RIGHT if _is_right(question) else _WRONG
        draw.rectangle(corners[number], outline=color, width=3)
        said = question.guesses[0][0] if question.guesses else "?"
        names.insert(0, (number, said if _is_right(question) else f"{said}, is {question.right}", color))
    _write_names(draw, corners, names, right=place[0] + size[0])


def _draw_looks(
    canvas: Image.Image, sample: Sample, word: int, *, place: tuple[int, int], size: tuple[int, int]
) -> None:
    """A region is the redder the more the word looks at it; the three that it looks at most have their names.

    Fully red is the most looked at, or three times an even look if none gets as much.
    """
    looks = sample.looks[word]
    heat = looks / max(float(looks.max(initial=0.0)), _STRONG / max(len(looks), 1))
    shade = np.zeros((size[1], size[0]), np.float32)
    for (x0, y0, x1, y1), share in zip(_scaled(sample, place=(0, 0), size=size), heat.tolist(), strict=True):
        inside = shade[y0 : y1 + 1, x0 : x1 + 1]
        np.maximum(inside, share, out=inside)
    pixels = _COLD + shade[..., None] * (_HOT - _COLD)
    canvas.paste(Image.fromarray(pixels.astype(np.uint8)), place)
    draw = ImageDraw.Draw(canvas)
    _frame(draw, place, size)
    corners = _scaled(sample, place=place, size=size)
    most = np.argsort(-looks, kind="stable")[:3].tolist()
    for number in most:
        draw.rectangle(corners[number], outline=_INK)
    named = [(number, f"{sample.labels[number]} {looks[number]:.2f}".strip(), _INK) for number in most]
    _write_names(draw, corners, named, right=place[0] + size[0])


def _write_names(
    draw: ImageDraw.ImageDraw,
    corners: Sequence[tuple[int, int, int, int]],
    names: Sequence[tuple[int, str, Color]],
    *,
    right: int,
) -> None:
    """Names in the upper left corners of their boxes, the first ones first, none over another."""
    taken: list[tuple[float, float, float, float]] = []
    for number, name, color in names:
        x0, y0, _, _ = corners[number]
        wide = draw.textlength(name, font=_font(_SMALL))
        left = max(0.0, min(x0 + 3, right - wide - 2))
        spot = (left, y0 + 2, left + wide, y0 + 2 + _SMALL + 2)
        if name and not any(_touch(spot, other) for other in taken):
            draw.rectangle(spot, fill=_BACKGROUND)
            draw.text(spot[:2], name, fill=color, font=_font(_SMALL))
            taken.append(spot)


def _touch(one: tuple[float, float, float, float], other: tuple[float, float, float, float]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _scaled(sample: Sample, *, place: tuple[int, int], size: tuple[int, int]) -> list[tuple[int, int, int, int]]:
    """The corners of every box within a panel, in pixels of the picture."""
    limits = np.array([size[0] - 1, size[1] - 1] * 2)
    scale = np.array([sample.width, sample.height] * 2)
    inside = np.clip(np.round(sample.boxes / scale * limits), 0, limits).astype(int) + np.array([*place, *place])
    return [(int(x0), int(y0), max(int(x0), int(x1)), max(int(y0), int(y1))) for x0, y0, x1, y1 in inside.tolist()]


def _frame(draw: ImageDraw.ImageDraw, place: tuple[int, int], size: tuple[int, int]) -> None:
    draw.rectangle((*place, place[0] + size[0] - 1, place[1] + size[1] - 1), outline=_FRAME)


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _is_right(question: MaskedPrediction) -> bool:
    return bool(question.guesses) and question.guesses[0][0] == question.right


def _bare(piece: str) -> str:
    return piece.removeprefix("##")


def _area(box: tuple[int, int, int, int]) -> int:
    return (box[2] - box[0]) * (box[3] - box[1])
