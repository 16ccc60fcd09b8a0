"""Rendering of the HTML pages: one file each that loads nothing, light and dark. The templates lie in templates/."""

from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from msp_ds.errors import writing
from msp_ds.storage.atomic_files import write_atomically
from msp_ds.terminal import printable


def render(template: str, **values: Any) -> Markup:
    """Return a template of templates/ filled with `values`, each of them escaped unless it is Markup already.

    Control characters are escaped too: a browser would obey the bidirectional marks of a caption.
    """
    # A Markup stays one: what printable() puts in holds no character of HTML's own.
    return Markup(printable(_environment().get_template(template).render(values), keep="\n"))


def write_html(path: Path, page: str) -> None:
    """Write a page. Raises: InputError when it cannot be written."""
    with writing(path, fix="name another file"):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, page.encode())


@cache
def _environment() -> Environment:
    folder = Path(__file__).with_name("templates")
    return Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
