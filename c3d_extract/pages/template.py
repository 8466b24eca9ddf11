"""One HTML file from a page's parts: nothing that was read from a file is ever part of its HTML or script."""

from __future__ import annotations

import base64
import gzip
import html
import json
import re
from functools import cache
from importlib import metadata, resources
from typing import TYPE_CHECKING, Any

from c3d_extract.errors import C3DError
from c3d_extract.files import writing_output

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

__all__ = ["require_library", "write_page"]

_MARK = re.compile(r"\{\{(\w+)\}\}")


def require_library() -> None:
    """Raise C3DError where plotly, whose script draws the points, is not installed."""
    try:
        metadata.version("plotly")
    except metadata.PackageNotFoundError as error:
        raise C3DError("plotly is not installed", hint="pip install plotly") from error


def write_page(
    path: Path, name: str, *, title: str, data: dict[str, Any], pictures: Sequence[bytes] = ()
) -> None:
    """Write the page ``name`` (``map``, ``report``) to ``path``, replacing it atomically.

    Parameters
    ----------
    title
        Of the window.
    data
        What the page's script reads, as values of JSON.
    pictures
        JPEG files that ``data`` refers to by number.

    Raises
    ------
    StoreError
        Where the file cannot be written.
    """
    values = {
        "title": html.escape(title),
        "style": _file("page.css") + _file(f"{name}.css"),
        "script": _file("page.js") + _file(f"{name}.js"),
        # In base64 no name of a video, whatever it holds, can end a script or begin an element.
        "data": _packed(json.dumps(data, ensure_ascii=False, allow_nan=False)),
        "pictures": "\n".join(base64.b64encode(picture).decode() for picture in pictures),
        "library": _packed_library(),
        "licence": html.escape(_licence()),
    }
    html_of_page = _file("page.html").replace("{{body}}", _file(f"{name}.html"))
    page = _MARK.sub(lambda mark: values[mark[1]], html_of_page)
    with writing_output(path) as file:
        file.write(page.encode())


def _file(name: str) -> str:
    return (resources.files(__package__) / name).read_text(encoding="utf-8")


def _packed(text: str) -> str:
    compressed = gzip.compress(text.encode(errors="backslashreplace"), mtime=0)
    return base64.b64encode(compressed).decode()


@cache
def _packed_library() -> str:
    from plotly.offline import get_plotlyjs

    return _packed(get_plotlyjs())


def _licence() -> str:
    """Return the licence that plotly is installed with; plotly.js is by the same authors under the same."""
    plotly = metadata.distribution("plotly")
    names = plotly.metadata.get_all("License-File") or ["LICENSE.txt"]
    texts = [plotly.read_text(f"licenses/{name}") or plotly.read_text(name) for name in names]
    return "\n".join(filter(None, texts)) or "MIT"
