"""What happens beside results and errors is logged under ``c3d_extract``."""

from __future__ import annotations

import logging
import shutil
from typing import TYPE_CHECKING

from tiny_network import tiny_checkpoint

from c3d_extract import Extractor
from c3d_extract.pipeline import extractor as extractor_module

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_videos_that_fail_or_are_read_in_part_are_logged_once(
    videos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copy(videos / "a/one.mp4", tmp_path)
    (tmp_path / "bad\n.mp4").write_text("no video")
    with Extractor(tiny_checkpoint(), device="cpu", precision="fp32") as extractor:
        list(extractor.extract_files([tmp_path], tmp_path / "out" / "feats.h5"))
        logged = [record.getMessage() for record in caplog.records if record.name.startswith("c3d_extract.")]
        assert [line.partition(" (")[0] for line in logged] == [
            "failed: bad\\n.mp4: not a readable video: Invalid data found when processing input"
        ]
        list(extractor.extract_files([tmp_path], tmp_path / "out" / "feats.h5"))  # nothing is done again
        assert len(caplog.records) == len(logged)


def test_that_videos_are_decoded_in_a_daemonic_process_itself_is_logged(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO, "c3d_extract")
    said = "videos are decoded in this process, which may not start others"
    Extractor(tiny_checkpoint(), device="cpu", precision="fp32", workers=0).close()
    assert said not in caplog.messages
    monkeypatch.setattr(extractor_module, "may_start_processes", lambda: False)
    with Extractor(tiny_checkpoint(), device="cpu", precision="fp32") as extractor:
        assert extractor.workers == 0
        assert said in caplog.messages


def test_what_affects_the_numbers_is_logged_once(
    videos: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Extractor(tiny_checkpoint(), device="cpu", precision="fp32") as extractor:
        extractor._decoders.warnings.append("copies are slower")
        for _ in range(2):
            extractor.extract(videos / "a/one.mp4")
    assert caplog.messages == ["copies are slower"]
