"""Models side by side as one HTML page: where their words look, drawn to scale, over the distributions of answers.

A word is chosen without a script: the styles of the chosen radio button decide which of the shares that every box
carries is the one that colours it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from msp_ds.report.pages.explain import Bar, Example, View, darkness, most_looked_at, told_looks
from msp_ds.report.pages.page import html_page
from msp_ds.report.pages.svg import boxes_to_scale

_STYLE = """
body { max-width: 90rem; } :root { --look: 28 95% 50%; }
section { margin-top: 2.4rem; } .views { display: grid; grid-template-columns: repeat(auto-fit, minmax(20rem, 1fr));
  gap: 1.6rem; margin-top: .9rem; } .view { min-width: 0; } .view h3 { font-size: 1.05rem; }
input[type=radio] { position: absolute; opacity: 0; } .chips { margin-top: .6rem; }
label { display: inline-block; padding: .05rem .5rem;
  margin: 0 .15rem .3rem 0; border: 1px solid var(--line); border-radius: 1rem; font-size: .88rem; cursor: pointer; }
.picture, .view svg { max-height: 24rem; margin-top: .3rem; }
.picture g rect, .picture .named rect { fill: hsl(var(--look) / var(--shade, 0));
  stroke: hsl(var(--hue) 30% var(--ink) / .35); stroke-width: 1; }
.picture .named rect { stroke: hsl(var(--hue) 45% var(--ink) / .8); stroke-width: 1.4; }
.photo g rect { stroke: hsl(0 0% 100% / .35); } .photo .named rect { stroke: hsl(0 0% 100% / .85); }
.picture text, .photo text { fill: var(--text); }
.most { color: var(--soft); font-size: .85rem; min-height: 2.7em; margin: .4rem 0 .6rem; }
.bars { display: grid; grid-template-columns: minmax(3.5rem, max-content) 1fr 3.2rem; gap: .25rem .6rem;
  align-items: center; font-size: .92rem; } .bars div { background: var(--card); height: 1rem; border-radius: 2px; }
.bars i { display: block; height: 100%; min-width: 1px; border-radius: 2px; background: var(--bar); }
.bars .wrong i { opacity: .45; } .bars span:last-child { text-align: right; }
.bars .number { text-align: right; font-variant-numeric: tabular-nums; color: var(--soft); }
.captions { grid-template-columns: 1fr 3.2rem; } .captions .words { grid-column: 1 / -1; margin-top: .35rem; }
.mark { color: var(--soft); font-size: .82rem; white-space: nowrap; }
"""


def explain_page(examples: Sequence[Example], *, title: str, note: str, pictures: Mapping[str, str]) -> str:
    """The page. pictures: data: addresses of the image files that there are, by image id."""
    body = "".join(_section(example, pictures, number=number) for number, example in enumerate(examples))
    most_words = max(len(view.looks.words) for example in examples for view in example.views)
    heading = (
        f'<h1>{escape(title)}</h1><p class="soft">{escape(note)}</p><p class="soft">Choose a word to see where it '
        "looks: the share of its attention on each region in the last layer, mean over the heads. The strongest colour "
        "has the largest share; boxes to scale, those looked at most are named, the pointer tells the other labels.</p>"
    )
    return html_page(heading + body, title=title, style=_STYLE + _word_rules(most_words + 1))


def _word_rules(count: int) -> str:
    """With button k chosen every box takes its share number k, and the word k shows it."""
    rules = []
    for k in range(count):
        word = f"~ .chips label:nth-child({k + 1})"
        rules.append(
            f".w{k}:checked ~ .views g rect, .w{k}:checked ~ svg g rect {{ --shade: var(--s{k}); }}\n"
            f".w{k}:checked {word} {{ background: hsl(var(--look)); color: #201300; }}\n"
            f".w{k}:focus-visible {word} {{ outline: 2px solid var(--bar); outline-offset: 1px; }}\n"
        )
    return "".join(rules)


def _section(example: Example, pictures: Mapping[str, str], *, number: int) -> str:
    sample = example.sample
    known = f" · right: {', '.join(example.right)}" if example.right else ""
    # All models read the same question, so one row of words serves them all; their best captions differ.
    words, name = example.views[0].looks.words, f"e{number}"
    shared = _buttons(words, name=name) + _chips(words, name=name) if example.question else ""
    views = "".join(
        _view(example, view, pictures.get(sample["image_id"], ""), name=f"{name}v{place}")
        for place, view in enumerate(example.views)
    )
    return (
        f"<section><h2>{escape(example.title)}</h2><p class=soft>{escape(sample['image_id'])}, {sample['width']} × "
        f'{sample["height"]}, {sample["regions"]} regions{escape(known)}</p>{shared}<div class="views">{views}</div>'
        "</section>"
    )


def _view(example: Example, view: View, picture: str, *, name: str) -> str:
    words, bars = view.looks.words, _answer_bars(view.bars) if example.question else _caption_bars(view.bars)
    named = most_looked_at(example.sample, view.overall)
    drawing = boxes_to_scale(example.sample, picture=picture, styles=_shades(view), named=named)
    if not example.question:
        drawing = _buttons(words, name=name) + drawing + _chips(words, name=name)
    return (
        f'<div class="view"><h3>{escape(view.name)}</h3>{drawing}'
        f'<p class="most">all words look most at {escape(told_looks(example.sample, view.overall))}</p>{bars}</div>'
    )


def _buttons(words: Sequence[str], *, name: str) -> str:
    """One for all words, then one for each; the first is chosen. What they change comes after them."""
    return "".join(
        f'<input type="radio" class="w{place}" name="{name}" id="{name}w{place}"{" checked" if place == 0 else ""}>'
        for place in range(len(words) + 1)
    )


def _chips(words: Sequence[str], *, name: str) -> str:
    """The words, to be chosen."""
    labels = (f'<label for="{name}w{place}">{escape(word)}</label>' for place, word in enumerate(("all words", *words)))
    return f'<div class="chips">{"".join(labels)}</div>'


def _shades(view: View) -> list[str]:
    """CSS of each box: how dark all words together, then each word, make it."""
    rows = [darkness(row).tolist() for row in (view.overall, *view.looks.shares)]
    return ["".join(f";--s{k}:{row[place]:.3f}" for k, row in enumerate(rows)) for place in range(len(rows[0]))]


def _answer_bars(bars: Sequence[Bar]) -> str:
    rows = "".join(
        f'<span>{escape(bar.text)}{_mark(bar.is_right)}</span><div class="{_class(bar)}">'
        f'<i style="width:{100 * bar.chance:.1f}%"></i></div><span class="number">{bar.chance:.3f}</span>'
        for bar in bars
    )
    return f'<div class="bars">{rows}</div>'


def _caption_bars(bars: Sequence[Bar]) -> str:
    rows = "".join(
        f'<span class="words">{place}. {escape(bar.text)}{_mark(bar.is_right)}</span><div class="{_class(bar)}">'
        f'<i style="width:{100 * bar.chance:.1f}%"></i></div><span class="number">{bar.chance:.3f}</span>'
        for place, bar in enumerate(bars, start=1)
    )
    return f'<div class="bars captions">{rows}</div>'


def _class(bar: Bar) -> str:
    return "wrong" if bar.is_right is False else "right"


def _mark(is_right: bool | None) -> str:
    return ' <span class="mark">✓ right</span>' if is_right else ""
