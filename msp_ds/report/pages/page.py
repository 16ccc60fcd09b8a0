"""The frame of every page: one file that needs nothing else, light and dark, which may load nothing from anywhere."""

from __future__ import annotations

from html import escape
from pathlib import Path

from msp_ds.errors import InputError
from msp_ds.storage.atomic_files import write_atomically
from msp_ds.terminal import printable

_STYLE = """
:root { color-scheme: light dark; --back: #fdfdfc; --card: #f4f4f1; --text: #1f2328; --soft: #61686f; --line: #d9d9d4;
  --bar: #3b6ea8; --ink: 32%; --wash: 8%; }
@media (prefers-color-scheme: dark) { :root { --back: #16181b; --card: #1f2226; --text: #e6e6e3; --soft: #9aa1a8;
  --line: #3a3e44; --bar: #7fb0e6; --ink: 72%; --wash: 14%; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2.5rem 1.5rem 4rem; max-width: 75rem; background: var(--back); color: var(--text);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
h1 { font-size: 1.7rem; margin: 0 0 .2rem; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 2.6rem 0 .9rem; }
h3 { font-size: .95rem; margin: 0 0 .4rem; }
p { margin: .2rem 0; } .soft, figcaption .soft { color: var(--soft); font-size: .88rem; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(7.2rem, 1fr)); gap: .7rem; margin-top: 1.4rem; }
.cards div { background: var(--card); border-radius: .5rem; padding: .7rem .9rem; }
.cards b { display: block; font-size: 1.25rem; font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
svg { display: block; width: 100%; height: auto; }
.samples { display: grid; grid-template-columns: repeat(auto-fill, minmax(21rem, 1fr)); gap: 1.4rem;
  align-items: start; }
figure { margin: 0; } .picture { max-height: 21rem; } .picture .frame { fill: var(--card); stroke: var(--line); }
.picture g rect { fill: none; stroke: hsl(var(--hue) 65% var(--ink) / .3); stroke-width: 1; pointer-events: all; }
.picture .named rect { fill: hsl(var(--hue) 70% 50% / var(--wash)); stroke: hsl(var(--hue) 65% var(--ink));
  stroke-width: 1.6; }
.picture g:hover rect { stroke-width: 3.5; stroke: hsl(var(--hue) 65% var(--ink)); }
.picture text { fill: hsl(var(--hue) 70% var(--ink)); stroke: var(--card); stroke-width: 3px; paint-order: stroke;
  font-weight: 600; vector-effect: non-scaling-stroke; }
figcaption { margin-top: .5rem; } ul { margin: .3rem 0 0; padding-left: 1.1rem; }
"""


def html_page(body: str, *, title: str, style: str = "") -> str:
    """A page of `body`, as it is, under `title`, a plain text. Its pictures are part of it: it loads nothing, and says
    so to the browser."""
    page = (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; style-src 'unsafe-inline'; img-src data:\">\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}{style}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )
    return printable(page, keep="\n")  # a browser too would obey a caption's bidirectional marks


def write_html(path: Path, page: str) -> None:
    """Write a page. Raises: InputError when it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, page.encode())
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error.strerror}); name another file") from None
