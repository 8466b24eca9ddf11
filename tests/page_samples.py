"""Pages for tests: what is in them, and videos whose names would do harm if they became HTML."""

from __future__ import annotations

import base64
import gzip
import json
import re
import shutil
from typing import TYPE_CHECKING, Any

from c3d_extract import Extractor

if TYPE_CHECKING:
    from pathlib import Path

HOSTILE_FOLDER, HOSTILE_FILE = "a<", "script><img src=x onerror=alert(1)>.mp4"
HOSTILE = f"{HOSTILE_FOLDER}/{HOSTILE_FILE}"


def page_data(path: Path) -> Any:
    """Return the data that a page carries."""
    found = re.search(r'id="data">([\w+/=]*)</script>', path.read_text("utf-8"))
    assert found is not None
    return json.loads(gzip.decompress(base64.b64decode(found[1])))


def page_pictures(path: Path) -> list[bytes]:
    """Return the JPEG files that a page carries."""
    found = re.search(r'id="pictures">([\w+/=\n]*)</script>', path.read_text("utf-8"))
    assert found is not None
    return [base64.b64decode(line) for line in found[1].split()]


def extracted(videos: Path, folder: Path) -> Path:
    """Copy videos below ``folder``, add some with hostile names and a broken one, and extract them all."""
    root = folder / "videos"
    shutil.copytree(videos, root)
    (root / HOSTILE_FOLDER).mkdir()
    shutil.copy(root / "mid.mp4", root / HOSTILE)
    (root / "a" / "broken.mp4").write_bytes(b"nothing")
    (root / "a" / "notes.txt").write_bytes(b"")
    with Extractor.from_weights("motion-mini", device="cpu", precision="fp32") as extractor:
        list(extractor.extract_files([root], folder / "feats.h5", clips=folder / "clips.h5"))
    return folder / "feats.h5"
