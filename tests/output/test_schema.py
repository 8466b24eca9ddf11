"""One list of columns: what is added there is everywhere, and what is documented is there."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import c3d_extract
from c3d_extract.output import CLIP_COLUMNS, VIDEO_COLUMNS, ClipRows, VideoRow
from c3d_extract.output.schema import column_table

PACKAGE = Path(c3d_extract.__file__).parent
PAGE = (Path(__file__).parents[2] / "docs" / "feature-file.md").read_text(encoding="utf-8")

PROGRAM = """
import sqlite3
import numpy as np
from c3d_extract.output import *
from c3d_extract.output.schema import column_table

identity = RunIdentity({}, {}, {"fc6": 2}, {})

def commit(store, video, n_keyframes):
    known = dict.fromkeys(VIDEO_COLUMNS, 1) | {"video": video, "n_keyframes": n_keyframes}
    features = {"fc6": np.ones(2, np.float32)}
    store.commit(VideoRow(**known, status="ok", error=None, seconds=1.0, features=features))

with RunStore.open(StoreOptions("feats.h5"), identity) as store:
    commit(store, "a", 7)
with sqlite3.connect("feats.h5.partial") as journal:
    print(*journal.execute("SELECT n_keyframes FROM videos").fetchone())
journal.close()
with RunStore.open(StoreOptions("feats.h5"), identity) as store:  # resumes
    commit(store, "b", 5)
    store.finish(complete=True)
with FeatureFile("feats.h5") as file:
    print(file.column("n_keyframes").dtype, file.column("n_keyframes").tolist())
    print([row.scalars[list(VIDEO_COLUMNS).index("n_keyframes")] for row in file.rows()])
print([line["n_keyframes"] for line in read_report("feats.report.jsonl")])
print(describe("feats.h5")["totals"]["n_keyframes"])
print("n_keyframes" in column_table(VideoRow))
"""


def test_one_line_in_the_schema_adds_a_column_to_every_file_and_listing(tmp_path: Path) -> None:
    """Run a copy of the package that has one line more."""
    copy = tmp_path / "c3d_extract"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    schema = copy / "output" / "schema.py"
    text, before = schema.read_text(encoding="utf-8"), "    fps: float = field("
    stored = 'stored("int32", "key frames", "decoder", report="zero", total=True)'
    assert text.count(before) == 1
    line = f"    n_keyframes: int = field(metadata={stored})\n"
    schema.write_text(text.replace(before, line + before), encoding="utf-8")
    program = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n{PROGRAM}"
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert done.stdout.splitlines() == ["7", "int32 [7, 5]", "[7, 5]", "[7, 5]", "12", "True"]


@pytest.mark.parametrize(("row", "columns"), [(VideoRow, VIDEO_COLUMNS), (ClipRows, CLIP_COLUMNS)])
def test_the_table_of_columns_has_each_of_them_with_a_meaning(
    row: type[VideoRow | ClipRows], columns: dict[str, object]
) -> None:
    lines = [line.strip("| ").split(" | ") for line in column_table(row).splitlines()[2:]]
    assert [name.strip("`") for name, *_ in lines if name != "`video`"] == list(columns)
    assert all(len(line) == 4 and all(line) for line in lines)


def test_the_readme_lists_the_columns_of_both_files() -> None:
    assert column_table(VideoRow) in PAGE
    assert all(f"`{name}`" in PAGE for name in CLIP_COLUMNS)
