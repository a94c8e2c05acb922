"""Fills templates of web pages: one file with its own scripts and styles, and a strict policy. Imports no torch.

A page is one file and loads nothing else. Its content security policy allows only its own scripts and styles, by their
hashes, and its own pictures.
"""

import base64
import gzip
import hashlib
import json
from collections.abc import Iterable
from functools import cache
from importlib.resources import files
from typing import Any

import jinja2
from markupsafe import Markup

STYLES = ("uplot/uPlot.min.css", "page.css")


def filled(template: str, scripts: Iterable[str], libraries: Iterable[str] = (), **values: object) -> str:
    """Return a page.

    Args:
        template: its file's name, without the ending.
        scripts: names of the page's own scripts, without the ending, in order; they form one module.
        libraries: files of third-party scripts, which run before the page's own.
        values: what the template is filled with.
    """
    style, library = _joined(STYLES), _joined(libraries)
    script = _joined(f"{name}.js" for name in scripts)
    policy = (
        f"default-src 'none'; base-uri 'none'; form-action 'none'; img-src data: blob:; style-src {_hash(style)}; "
        f"script-src {_hash(library)} {_hash(script)}"
    )
    page = _environment().get_template(f"{template}.html.j2")
    return page.render(policy=policy, style=Markup(style), library=Markup(library), script=Markup(script), **values)


@cache
def _environment() -> jinja2.Environment:
    """Return the templates' environment, which keeps compiled templates: compiling takes longer than filling."""
    return jinja2.Environment(
        loader=jinja2.PackageLoader("bench.report", "web"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _joined(names: Iterable[str]) -> str:
    return "\n".join((files("bench.report") / "web" / name).read_text(encoding="utf-8") for name in names)


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def packed(value: Any) -> str:  # noqa: ANN401
    """Return a value as JSON, compressed and in base64; equal values give equal texts."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode()
