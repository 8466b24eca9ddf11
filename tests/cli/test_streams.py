"""A run goes on without anyone to hear its messages; a result that cannot be written is told in one line."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from conftest import MEAN

if TYPE_CHECKING:
    from collections.abc import Sequence

pytestmark = pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")


@pytest.fixture(scope="module")
def three(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two small videos and a file that is none."""
    folder = tmp_path_factory.mktemp("three")
    for name in ("one.mp4", "two.mp4"):
        shutil.copy(videos / "a" / name, folder)
    (folder / "bad.mp4").write_bytes(b"no video")
    return folder


def shell(line: str, words: Sequence[object] = ()) -> subprocess.CompletedProcess[str]:
    """Run a line of bash in which ``c3d`` is the program, and ``"$@"`` are ``words``."""
    c3d = f'c3d() {{ "{sys.executable}" -m c3d_extract "$@"; }}\n'
    return subprocess.run(
        ["bash", "-c", c3d + line, "bash", *map(str, words)], capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("stderr", ["2>/dev/full", "2>&1 | head -n 1; exit ${PIPESTATUS[0]}", "<&- >&- 2>&-"])
def test_a_run_whose_messages_are_lost_goes_on(
    three: Path, narrow_weights: Path, tmp_path: Path, stderr: str
) -> None:
    words = [three, "--weights", narrow_weights, "--mean", MEAN, "--device", "cpu", "-v"]
    done = shell(f'c3d extract "$@" {stderr}', [*words, "-o", tmp_path / "feats.h5"])
    assert done.returncode == 3, "as with a terminal: one of the three failed"
    report = [json.loads(line) for line in (tmp_path / "feats.report.jsonl").read_text().splitlines()]
    assert {line["video"]: line["status"] for line in report} == {
        "bad.mp4": "failed",
        "one.mp4": "ok",
        "two.mp4": "ok",
    }
    assert not done.stderr


@pytest.mark.parametrize(("words", "code"), [("info none.h5", 2), ("weights --nope", 2)])
def test_an_error_nobody_hears_still_has_its_exit_code(words: str, code: int) -> None:
    heard = shell(f"c3d {words}")
    assert heard.returncode == code
    assert "Error: " in heard.stderr
    for stderr in ("2>/dev/full", "2>&-"):
        assert shell(f"c3d {words} {stderr}").returncode == code


@pytest.mark.parametrize("words", ["archs", "weights show sports1m --json", "--help"])
def test_a_result_that_cannot_be_written_is_one_line(words: str) -> None:
    full, closed = shell(f"c3d {words} >/dev/full"), shell(f"c3d {words} >&-")
    assert (full.returncode, closed.returncode) == (1, 1)
    assert full.stderr == "Error: stdout: cannot be written: No space left on device\n"
    assert closed.stderr == "Error: stdout: cannot be written: Bad file descriptor\n"


@pytest.mark.parametrize("words", ["archs", "weights show sports1m", "--help"])
def test_a_reader_that_leaves_is_told_nothing(words: str) -> None:
    done = shell(f"c3d {words} | head -n 1 | wc -l; exit ${{PIPESTATUS[0]}}")
    assert done.stdout.strip() == "1"
    assert not done.stderr
    gone = shell(f"c3d {words} | true; exit ${{PIPESTATUS[0]}}")
    assert (gone.returncode, gone.stderr) == (1, "")
