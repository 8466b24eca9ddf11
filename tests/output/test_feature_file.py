"""Reading feature and clip files."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest
from store_samples import NAMES, identity, open_store, record, video_row, write

from c3d_extract.errors import StoreError, UsageError
from c3d_extract.output import VIDEO_COLUMNS, FeatureFile, TableRow, write_table

if TYPE_CHECKING:
    from pathlib import Path


def test_reader_gives_arrays_names_and_attributes(output: Path) -> None:
    write(output, [video_row(name) for name in NAMES])
    with FeatureFile(output) as file:
        assert (len(file), file.videos, file.layers, file.kind) == (
            6,
            sorted(NAMES),
            ["fc6", "fc7"],
            "features",
        )
        assert file["fc7"].shape == (6, 5)
        assert file["fc7"].dtype == np.float32
        assert file.column("n_frames").tolist() == [100] * 6
        assert file.attributes["weights"]["weights_sha256"] == "00ff"
        np.testing.assert_array_equal(np.concatenate(list(file.blocks("fc6"))), file["fc6"])
        with pytest.raises(StoreError, match="has no fc8, only"):
            file["fc8"]


def test_one_video_is_found_by_its_name(output: Path) -> None:
    rows = {name: video_row(name, version=i) for i, name in enumerate(NAMES)}
    write(output, rows.values())
    with FeatureFile(output) as file:
        for name, row in rows.items():
            found = file.of(name)
            assert list(found) == [*VIDEO_COLUMNS, *file.layers]
            assert found["n_frames"] == row.n_frames
            np.testing.assert_array_equal(found["fc6"], row.features["fc6"])
        for name in ("no such video", "zzz", f"{min(NAMES)}x", "ä"):
            with pytest.raises(StoreError, match="has no video"):
                file.of(name)


def test_of_a_clip_file_all_clips_of_a_video_are_found(tmp_path: Path, output: Path) -> None:
    clips = tmp_path / "clips.h5"
    with open_store(output, identity(), clips=clips) as store:
        for row in map(video_row, NAMES):
            record(store, row)
        store.finish(complete=True)
    with FeatureFile(clips) as file:
        names, features = np.array(file.videos), file["fc6"]
        for name in NAMES:
            found = file.of(name)
            np.testing.assert_array_equal(found["fc6"], features[names == name])
            np.testing.assert_array_equal(found["start_frame"], file.column("start_frame")[names == name])
        assert repr(file) == f"<FeatureFile {clips}: {len(names)} clips, fc6 (12), fc7 (5)>"


def test_a_rows_part_of_its_video_is_the_clip_or_the_whole_for_as_long_as_something_says(
    tmp_path: Path,
) -> None:
    nan, rest = float("nan"), (320, 240, 1000, 0)
    timed = [(25.0, 2.0), (25.0, nan), (25.0, 0.0), (nan, nan), (0.0, nan)]  # frames a second, duration
    rows = [
        TableRow(f"{i}.mp4", (3, 50, 0, 0, *times, *rest), [np.zeros(4, np.float32)])
        for i, times in enumerate(timed)
    ]
    write_table(tmp_path / "v.h5", kind="features", layers={"fc6": 4}, rows=rows, attributes={})
    with FeatureFile(tmp_path / "v.h5") as file:
        assert file.spans() == [(0, 2.0), (0, 2.0), (0, 2.0), (0, 0), (0, 0)]
    clips = [
        TableRow("a.mp4", (16 * i, 16 * i + 16, start, end, 0), [np.zeros(4, np.float32)])
        for i, (start, end) in enumerate([(0.5, 1.1), (1.0, nan), (nan, nan)])
    ]
    write_table(tmp_path / "c.h5", kind="clips", layers={"fc6": 4}, rows=clips, attributes={})
    with FeatureFile(tmp_path / "c.h5") as file:
        assert file.spans() == [(0.5, 1.1), (1.0, 0), (0, 0)]


def test_as_a_table_of_pandas_and_of_arrow(output: Path) -> None:
    pd, pa = pytest.importorskip("pandas"), pytest.importorskip("pyarrow")
    write(output, map(video_row, NAMES))
    with FeatureFile(output) as file:
        frame, table = file.to_pandas(), file.to_arrow()
        assert isinstance(frame, pd.DataFrame)
        assert list(frame.index) == file.videos
        np.testing.assert_array_equal(np.stack(list(frame["fc6"])), file["fc6"])
        assert frame["n_frames"].dtype == np.int64
        assert table.column("fc6").type == pa.list_(pa.float32(), file.size_of("fc6"))
        assert table.column("video").to_pylist() == file.videos
        np.testing.assert_array_equal(np.array(table.column("fc7").to_pylist()), file["fc7"])
        assert json.loads(table.schema.metadata[b"c3d_extract"])["layers"] == file.attributes["layers"]
        assert repr(file) == f"<FeatureFile {output}: 6 videos, fc6 (12), fc7 (5)>"
    assert repr(file) == f"<FeatureFile {output}, closed>"


def test_without_pandas_that_is_said(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(output, map(video_row, NAMES))
    monkeypatch.setitem(sys.modules, "pandas", None)
    with FeatureFile(output) as file, pytest.raises(UsageError, match="pip install pandas"):
        file.to_pandas()


@pytest.mark.parametrize("content", [None, b"text", b"\x89HDF\r\n\x1a\n"])
def test_reading_what_is_no_feature_file_is_one_clear_line(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "x.h5"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(StoreError, match="cannot be read as a feature file") as caught:
        FeatureFile(path)
    assert "\n" not in str(caught.value)
