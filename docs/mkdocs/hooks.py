"""What MkDocs lacks: pages of files outside ``docs/``, a command reference, a check for foreign requests."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import TYPE_CHECKING

import reference
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
ELSEWHERE = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    ".github/CONTRIBUTING.md": "contributing.md",
    "weights/README.md": "weights.md",
    "benchmarks/RESULTS.md": "results.md",
    "benchmarks/DEPTH.md": "depth.md",
    "benchmarks/depth_homogeneous.png": "depth_homogeneous.png",
    "benchmarks/depth_varying.png": "depth_varying.png",
}
"""File outside ``docs/`` → its place on the site."""
PATHS = {place: path for path, place in ELSEWHERE.items()}

_FENCE = re.compile(r"(^```.*?^```)", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"`[^`\n]+`")  # in tables GitHub needs a backslash before a bar, which MkDocs would show
_LINK = re.compile(r"\[([^][]*)\]\(([^)\s#]+)(#[^)\s]*)?\)")
_REQUEST = re.compile(
    r"<(?:script|img|iframe|source)\b[^>]*\bsrc=.?(?:https?:)?//"
    r"|<link\b[^>]*\brel=.?(?:stylesheet|preconnect|icon)\b[^>]*\bhref=.?(?:https?:)?//"
)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the files from elsewhere, and the command reference."""
    for path, place in ELSEWHERE.items():
        files.append(File.generated(config, place, abs_src_path=str(ROOT / path)))
    files.append(File.generated(config, "commands.md", content=reference.page()))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Make links between files of the repository links between pages."""
    del config
    place = page.file.src_uri
    folder = posixpath.dirname(PATHS.get(place, f"docs/{place}"))

    def on_site(link: re.Match[str]) -> str:
        text, target, anchor = link[1], link[2], link[3] or ""
        if re.match(r"[a-z]+:", target):
            return link[0]
        path = posixpath.normpath(posixpath.join(folder, target))
        there = ELSEWHERE.get(path, path.removeprefix("docs/"))
        page_or_picture = files.get_file_from_path(there)
        if page_or_picture and page_or_picture.inclusion.is_included():
            return f"[{text}]({there}{anchor})"
        if (ROOT / path).exists():  # code, which the site does not show
            return text
        raise PluginError(f"{place}: there is no {target}")

    def prose(part: str) -> str:
        return _CODE.sub(lambda code: code[0].replace("\\|", "|"), _LINK.sub(on_site, part))

    parts = _FENCE.split(markdown)  # code blocks have odd places
    return "".join(part if n % 2 else prose(part) for n, part in enumerate(parts))


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """Refuse pages that would request something from elsewhere."""
    del config
    if found := _REQUEST.search(output):
        raise PluginError(f"{page.file.src_uri} requests something from elsewhere: {found[0]}")
    return output
