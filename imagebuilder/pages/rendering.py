"""Templates of pages, rendered with autoescape, and their style sheet; and a page as PDF."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from imagebuilder.errors import PiimgError
from imagebuilder.pages.drawing import colours_css
from imagebuilder.text import printable

_FOLDER = Path(__file__).resolve().parent / "templates"


def _safe(value: object) -> object:
    """Text from outside made printable: Unicode can also hide or reorder text."""
    return (
        value
        if isinstance(value, Markup) or not isinstance(value, str)
        else printable(value, None, keep="\n")
    )


@cache
def _templates() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_safe,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def rendered(template: str, values: Mapping[str, Any]) -> str:
    """The page that ``template`` gives with ``values``: complete HTML, in which every value is text.

    Only a ``Markup``, which drawings are, is taken as it is.
    """
    style = Markup(colours_css() + (_FOLDER / "page.css").read_text("utf-8"))
    return _templates().get_template(template).render(values, style=style)


def pdf(page: str, instead: str = "print the HTML page in a browser") -> bytes:
    """``page`` as PDF, by WeasyPrint. Nothing is fetched: a page has nothing from outside.

    Raises PiimgError when WeasyPrint, or a library that it needs, is not installed; ``instead`` is its hint.
    """
    try:
        from weasyprint import HTML
        from weasyprint.urls import URLFetcher
    except (ImportError, OSError) as error:  # OSError: Pango is missing
        raise PiimgError(
            f"a PDF needs WeasyPrint: {error}".splitlines()[0],
            instead,
        ) from None

    document: bytes = HTML(string=page, url_fetcher=URLFetcher(allowed_protocols=())).write_pdf()
    return document
