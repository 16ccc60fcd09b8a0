"""A picture of a held-out pair: its regions with labels and guesses, and the attention of some of its words.

Shards hold no pixels, so regions are drawn as boxes in the image's frame.
"""

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
_STRONG = 3.0  # multiple of uniform attention that is drawn in full red
_LETTER = 7  # mean width of a letter in pixels
_BACKGROUND, _FRAME, _INK, _FAINT = (255, 255, 255), (200, 205, 212), (32, 36, 44), (120, 130, 145)
_PLAIN_BOX, _RIGHT, _WRONG = (150, 165, 190), (20, 130, 70), (200, 40, 40)
_COLD, _HOT = np.array([250, 250, 252], np.float32), np.array([226, 74, 20], np.float32)
_FONT, _SMALL = 13, 11

Color = tuple[int, int, int]
Box = tuple[int, int, int, int]  # x0 y0 x1 y1 in pixels of the picture


def draw_sample(sample: Sample) -> np.ndarray:
    """Draw a sample; uint8 [height, width, 3]."""
    words = chosen_words(sample)
    tall, small = (round(width * min(sample.height / sample.width, 1.4)) for width in (_REGIONS_WIDTH, _WORD_WIDTH))
    width = _REGIONS_WIDTH + 2 * _GAP + len(words) * (_WORD_WIDTH + _GAP)
    lines = [(part, color) for line, color in _caption(sample) for part in wrap(line, (width - 2 * _GAP) // _LETTER)]
    height = _LINE + max(tall, small + _LINE) + 3 * _GAP + _LINE * len(lines)
    canvas = Image.new("RGB", (width, height), _BACKGROUND)
    draw = ImageDraw.Draw(canvas)
    draw.text((_GAP, 4), f"{sample.image_id}: regions, the hidden ones with the guess", fill=_FAINT, font=_font(_FONT))
    canvas.paste(_regions_panel(sample, (_REGIONS_WIDTH, tall)), (_GAP, _LINE + _GAP))
    for number, word in enumerate(words):
        left = _REGIONS_WIDTH + 2 * _GAP + number * (_WORD_WIDTH + _GAP)
        draw.text((left, 4), f"attention of “{_bare(sample.pieces[word])}”", fill=_FAINT, font=_font(_FONT))
        canvas.paste(_attention_panel(sample, word, (_WORD_WIDTH, small)), (left, _LINE + _GAP))
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


def _regions_panel(sample: Sample, size: tuple[int, int]) -> Image.Image:
    panel = Image.new("RGB", size, _BACKGROUND)
    draw, boxes = _framed(panel), _scaled(sample, size)
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
    _write_names(draw, boxes, names, size)
    return panel


def _attention_panel(sample: Sample, word: int, size: tuple[int, int]) -> Image.Image:
    """Draw a region the redder the more the word attends to it, and name the top three.

    Full red is the maximum, but at least _STRONG times uniform attention.
    """
    attention, boxes = sample.attention[word], _scaled(sample, size)
    heat = attention / max(float(attention.max(initial=0.0)), _STRONG / max(len(attention), 1))
    shade = np.zeros((size[1], size[0]), np.float32)
    for (x0, y0, x1, y1), value in zip(boxes, heat.tolist(), strict=True):
        inside = shade[y0 : y1 + 1, x0 : x1 + 1]
        np.maximum(inside, value, out=inside)
    panel = Image.fromarray((_COLD + shade[..., None] * (_HOT - _COLD)).astype(np.uint8))
    draw, most = _framed(panel), np.argsort(-attention, kind="stable")[:3].tolist()
    for number in most:
        draw.rectangle(boxes[number], outline=_INK)
    names = {number: (f"{sample.labels[number]} {attention[number]:.2f}".strip(), _INK) for number in most}
    _write_names(draw, boxes, names, size)
    return panel


def _write_names(
    draw: ImageDraw.ImageDraw, boxes: Sequence[Box], names: Mapping[int, tuple[str, Color]], size: tuple[int, int]
) -> None:
    """Write the names of regions in a panel, the most important names first."""
    font, height = _font(_SMALL), _SMALL + 2
    texts = {number: name for number, (name, _) in names.items()}
    places = place_labels(
        boxes, texts, canvas=size, height=height, width_of=lambda name: draw.textlength(name, font=font)
    )
    for number, (left, top) in places.items():
        name, color = names[number]
        corner = (left, top + 2)
        draw.rectangle((*corner, left + draw.textlength(name, font=font), top + 2 + height), fill=_BACKGROUND)
        draw.text(corner, name, fill=color, font=font)


def _scaled(sample: Sample, size: tuple[int, int]) -> list[Box]:
    return scaled_boxes(sample.boxes.tolist(), image=(sample.width, sample.height), canvas=size)


def _framed(panel: Image.Image) -> ImageDraw.ImageDraw:
    draw = ImageDraw.Draw(panel)
    draw.rectangle((0, 0, panel.width - 1, panel.height - 1), outline=_FRAME)
    return draw


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _bare(piece: str) -> str:
    return piece.removeprefix("##")
