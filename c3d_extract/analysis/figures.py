"""Files of figures: checked before work starts, and put in place whole."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from matplotlib.figure import Figure

from c3d_extract.errors import StoreError, UsageError, printable
from c3d_extract.files import writing_output

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["check_figure_path", "plain_text", "save_figure"]

DOTS_PER_INCH = 120


def check_figure_path(path: Path, *, animated: bool = False) -> None:
    """Raise an error where no figure can be written to ``path``, before the work that it would show.

    Parameters
    ----------
    path
        The file to write.
    animated
        Whether it may be a GIF, too.

    Raises
    ------
    UsageError
        Where its suffix is no format that matplotlib writes.
    StoreError
        Where its folder is missing or cannot be written.
    """
    formats = {*Figure().canvas.get_supported_filetypes(), *(["gif"] if animated else [])}
    if path.suffix[1:].lower() not in formats:
        raise UsageError("no format of a picture", subject=path, hint="name a .png, .svg or .pdf file")
    if not path.parent.is_dir():
        raise StoreError("its folder is not there", subject=path)
    if not os.access(path.parent, os.W_OK):
        raise StoreError("its folder cannot be written", subject=path)


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure in the format of the suffix of ``path``; raise StoreError if it cannot be written."""
    with writing_output(path) as file:
        figure.savefig(file, format=path.suffix[1:].lower(), dpi=DOTS_PER_INCH)


def plain_text(text: str) -> str:
    """Return a text that matplotlib draws as it is: on one line, and not parsed as a formula."""
    return printable(text).replace("$", r"\$")
