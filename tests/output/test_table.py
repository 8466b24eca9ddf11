"""Row tables: what is in the files, and that equal runs write equal bytes."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import h5py
import numpy as np
import pytest
import store_samples as samples
from store_samples import NAMES, ROWS, identity, names, open_store, record, video_row, write

from c3d_extract.errors import StoreError
from c3d_extract.output import FeatureFile, feature_file, journal, table

if TYPE_CHECKING:
    from pathlib import Path


def test_feature_file_is_a_row_table_as_designed(output: Path) -> None:
    summary = write(output, [video_row(name) for name in NAMES] + [video_row("bad", "failed")])
    assert (summary.n_rows, summary.n_ok, summary.n_failed) == (6, 6, 1)
    assert summary.written[-1] == output
    types = {"fps": "f8", "duration_seconds": "f8", "width": "i4", "height": "i4", "fc6": "f4", "fc7": "f4"}
    types |= dict.fromkeys(("n_clips", "n_frames", "n_padded_frames", "n_decode_errors"), "i8")
    types |= dict.fromkeys(("size_bytes", "mtime_ns"), "i8")
    with h5py.File(output) as file:
        assert {name: data.dtype.str[1:] for name, data in file.items() if name != "video"} == types
        assert {len(data) for data in file.values()} == {6}
        assert h5py.check_string_dtype(file["video"].dtype) == ("utf-8", None)
        assert file["video"].asstr()[:].tolist() == sorted(NAMES)
        expected = np.stack([video_row(name).features["fc6"] for name in sorted(NAMES)])
        np.testing.assert_array_equal(file["fc6"][:], expected)
        assert np.isnan(file["duration_seconds"][:]).all()
        assert json.loads(file.attrs["settings"])["stride"] == 16
        assert file.attrs["format"] == "c3d-extract"
        assert file.attrs["format_version"] == 1
        assert bool(file.attrs["complete"]) is True


def test_clip_file_holds_raw_clips_in_order(output: Path) -> None:
    clips = output.with_name("clips.h5")
    write(output, [video_row(name) for name in NAMES], clips=clips, l2=True)
    expected = [(name, 16 * i) for name in sorted(NAMES) for i in range(video_row(name).n_clips)]
    with FeatureFile(clips) as file:
        assert file.kind == "clips"
        assert list(zip(file.videos, file.column("start_frame").tolist(), strict=True)) == expected
        np.testing.assert_array_equal(file["fc6"][0], video_row("Z").features["fc6"])
        assert file.column("end_frame").dtype == np.int64
        assert file.column("end_seconds")[0] == 0.64


def test_hugging_face_loads_every_row(output: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    load_dataset = pytest.importorskip("datasets").load_dataset
    clips = output.with_name("clips.h5")
    write(output, [video_row(name) for name in NAMES], clips=clips)
    table = load_dataset("hdf5", data_files=str(output), split="train", cache_dir=str(tmp_path / "cache"))
    assert table["video"][:] == sorted(NAMES)
    np.testing.assert_array_equal(np.float32(table[1]["fc6"]), video_row(sorted(NAMES)[1]).features["fc6"])
    table = load_dataset("hdf5", data_files=str(clips), split="train", cache_dir=str(tmp_path / "cache"))
    assert len(table) == sum(video_row(name).n_clips for name in NAMES)


def test_numbers_of_numpy_are_numbers_in_the_file(output: Path) -> None:
    row = replace(video_row("a"), n_frames=np.int64(7), fps=np.float64(12.5), width=np.int32(4))  # type: ignore[arg-type]
    write(output, [row])
    with FeatureFile(output) as file:
        assert [file.column(name)[0] for name in ("n_frames", "fps", "width")] == [7, 12.5, 4]


def test_a_run_in_which_all_videos_fail_leaves_an_empty_table(output: Path) -> None:
    assert write(output, [video_row("a", "failed")]).n_rows == 0
    with FeatureFile(output) as file:
        assert file["fc6"].shape == (0, 12)
        assert file.videos == []


def test_tables_of_several_blocks_are_merged_whole(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (feature_file, journal, table):
        monkeypatch.setattr(module, "ROWS_AT_ONCE", 16)
    clips = output.with_name("clips.h5")
    rows = [video_row(f"{i:04d}") for i in range(60)]
    write(output, rows[::2], clips=clips)
    write(output, [*rows[1::2], video_row("0030", "failed", version=1)], clips=clips)
    kept = [row for row in rows if row.video != "0030"]
    with FeatureFile(output) as file, FeatureFile(clips) as clip_file:
        assert file.videos == [row.video for row in kept]
        np.testing.assert_array_equal(file["fc6"], np.stack([row.features["fc6"] for row in kept]))
        assert clip_file.videos == [row.video for row in kept for _ in range(row.n_clips)]
        expected = np.concatenate([samples.clip_rows(row).features["fc7"] for row in kept])
        np.testing.assert_array_equal(clip_file["fc7"], expected)


def test_an_error_while_the_table_is_written_leaves_the_old_one(
    output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(output, [video_row("a")])
    before = output.read_bytes()
    with open_store(output, identity()) as store:
        record(store, video_row("b"))
        with monkeypatch.context() as patch:
            patch.setattr(h5py.Dataset, "resize", broken_resize)
            with pytest.raises(StoreError, match=r"feats\.h5: the disk is full; finished videos are safe"):
                store.finish(complete=True)
        assert output.read_bytes() == before
        assert not list(output.parent.glob("*.tmp"))
        assert store.finish(complete=True).n_rows == 2  # the store is still good


def broken_resize(*_: object, **__: object) -> None:
    raise OSError(28, "No space left on device")


def test_equal_runs_write_equal_bytes_in_whatever_order_and_however_often_interrupted(tmp_path: Path) -> None:
    rows = samples.sample_rows(12)
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        clips = tmp_path / name / "clips.h5"
        if name == "two":
            write(tmp_path / name / "feats.h5", rows[7:], clips=clips, pca=4, l2=True, complete=False)
            rows = rows[6::-1]
        write(tmp_path / name / "feats.h5", rows, clips=clips, pca=4, l2=True)
    for file in names(tmp_path / "one"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes(), file


def test_a_file_that_was_extended_has_the_bytes_of_one_made_at_once(output: Path) -> None:
    write(output, ROWS[::2])
    write(output, ROWS[1::2])
    write(output.with_name("once.h5"), ROWS)
    assert output.read_bytes() == output.with_name("once.h5").read_bytes()


def test_the_digest_in_a_file_depends_on_its_rows_and_settings(tmp_path: Path) -> None:
    found = set()
    for i, (row, stride) in enumerate([("a", 16), ("b", 16), ("a", 8)]):
        write(tmp_path / f"{i}.h5", [video_row(row)], identity=identity(stride=stride))
        with FeatureFile(tmp_path / f"{i}.h5") as file:
            found.add(file.attributes["content_sha256"])
    assert len(found) == 3
