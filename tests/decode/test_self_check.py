"""A failure common to all videos ends the run with one line, and no video is reported as failed."""

from __future__ import annotations

import json
import os
import sys
import time
from typing import TYPE_CHECKING

import av
import pytest
from click.testing import CliRunner

from c3d_extract.cli.doctor import _video
from c3d_extract.cli.extract import command
from c3d_extract.decode import DecodeOptions, DecodePool, InProcessDecoder, VideoRead
from c3d_extract.decode.self_check import why_unusable
from c3d_extract.errors import DecoderError
from c3d_extract.preprocess.resize import FrameSampler
from c3d_extract.preprocess.spec import Preprocessing

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

OPTIONS = DecodeOptions(FrameSampler(Preprocessing()), 16)

OTHER_INTERFACE = """
import av
real = av.open
def open(file, mode=None):
    return real(file)
av.open = open
"""
"""Imitates a new major version of PyAV with another interface."""


def break_av(how: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give decoder processes a PyAV that cannot be imported, or that has another interface."""
    if how == "import":
        (folder / "av").mkdir()
        (folder / "av" / "__init__.py").write_text("raise ImportError('libavcodec.so.62: no such file')")
        monkeypatch.syspath_prepend(folder)
    else:
        (folder / "sitecustomize.py").write_text(OTHER_INTERFACE)
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), *sys.path]))


def extract(videos: Path, output: Path) -> tuple[int, list[str]]:
    words = [str(videos), "-o", str(output), "--weights", "motion-mini", "--device", "cpu", "-q"]
    result = CliRunner().invoke(command, words)
    return result.exit_code, result.stderr.splitlines()


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("interface", "TypeError: open() got an unexpected keyword argument"),
        ("import", "ImportError: libavcodec.so.62: no such file"),
    ],
)
def test_a_pyav_that_reads_nothing_ends_the_run_and_the_next_run_does_the_videos(
    videos: Path, tmp_path: Path, how: str, reason: str
) -> None:
    output = tmp_path / "feats.h5"
    with pytest.MonkeyPatch.context() as monkeypatch:
        break_av(how, tmp_path, monkeypatch)
        code, lines = extract(videos / "a", output)
    assert code == 1
    assert len(lines) == 1, lines
    assert lines[0].startswith("Error: PyAV ")
    assert f"cannot read videos as c3d-extract needs: {reason}" in lines[0]
    assert "install a version that c3d-extract allows" in lines[0]
    assert extract(videos / "a", output) == (0, [])
    report = (tmp_path / "feats.report.jsonl").read_text().splitlines()
    assert [json.loads(line)["status"] for line in report] == ["ok", "ok"]


def test_the_check_is_fast_and_passes_here() -> None:
    why_unusable()  # imports
    started = time.process_time()
    assert why_unusable() is None
    assert time.process_time() - started < 0.1


def refuse(*_: object, **__: object) -> None:
    raise TypeError("open() got an unexpected keyword argument 'metadata_errors'")


def test_the_in_process_decoder_runs_the_check(videos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(av, "open", refuse)
    with pytest.raises(
        DecoderError, match="unexpected keyword argument 'metadata_errors'; install a version"
    ):
        list(InProcessDecoder(OPTIONS).run([(0, videos / "mid.mp4")]))


def test_wrong_colours_are_detected_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("c3d_extract.decode.self_check._COLOURS", [(10, 30, 200), (220, 60, 11)])
    assert "decodes a test video wrongly" in str(why_unusable())


def test_without_a_temporary_folder_pyav_counts_as_usable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def nowhere(**_: object) -> None:
        raise FileNotFoundError("no usable temporary directory")

    monkeypatch.setattr("c3d_extract.decode.self_check.tempfile.TemporaryDirectory", nowhere)
    assert why_unusable() is None


def test_doctor_reports_it(monkeypatch: pytest.MonkeyPatch) -> None:
    problems: list[str] = []
    monkeypatch.setattr(av, "open", refuse)
    _video(problems)
    assert len(problems) == 1
    assert problems[0].endswith("'metadata_errors'; install a version that c3d-extract allows")


@pytest.fixture
def dying(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Return a function that makes the next ``n`` decoder processes die at startup."""

    def let_die(n: int) -> None:
        from c3d_extract.decode import process

        begin, left = process._START_COMMAND, list(range(n))

        class Begin:
            def __fspath__(self) -> str:
                return f"import os; os._exit({left.pop() + 3})" if left else begin

        monkeypatch.setattr(process, "_START_COMMAND", Begin())

    return let_die


def test_a_decoder_that_dies_before_it_is_ready_costs_no_video(
    videos: Path, dying: Callable[[int], None]
) -> None:
    dying(2)
    with DecodePool(1, OPTIONS) as pool:
        events = list(pool.run([(0, videos / "a" / "one.mp4"), (1, videos / "a" / "two.mp4")]))
    assert [event.task for event in events if isinstance(event, VideoRead)] == [0, 1]
    assert len(events) == 2 + 1 + 3


def test_decoders_that_all_die_before_they_are_ready_end_the_run(
    videos: Path, dying: Callable[[int], None]
) -> None:
    dying(3)
    with (
        DecodePool(1, OPTIONS) as pool,
        pytest.raises(DecoderError, match=r"end before their first frame \(decoder crashed: exit code 3\)"),
    ):
        list(pool.run([(0, videos / "a" / "one.mp4")]))
