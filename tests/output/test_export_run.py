"""What holds for every export: what fits, which names are safe, what is replaced, how files appear."""

from __future__ import annotations

import errno
import os
import tracemalloc
from typing import TYPE_CHECKING, Any

import pytest
from export_samples import LENGTHS, export, files_below, write_clips, write_videos

from c3d_extract.errors import StoreError, UsageError
from c3d_extract.output.export import PRESETS, find_preset
from c3d_extract.output.export.names import safe_name

if TYPE_CHECKING:
    from pathlib import Path


def test_there_is_every_preset() -> None:
    assert set(PRESETS) == {
        "npy", "c3d-bin", "ucf-crime-32", "ekosman-32", "rtfm-10crop", "xd-5crop", "activitynet", "flat-h5",
        "charades-pt", "actionformer", "parquet", "tensorboard", "csv",
    }  # fmt: skip
    with pytest.raises(UsageError, match="ucf-crime: no such preset; there are npy, c3d-bin"):
        find_preset("ucf-crime")


@pytest.mark.parametrize(
    ("preset", "made", "says"),
    [
        (
            "ucf-crime-32",
            {"layers": ("fc7",), "stride": 8},
            "layer fc7, not fc6; stride 8, not 16; extract with --layer fc6 --stride 16 --clips FILE, or",
        ),
        ("charades-pt", {}, "stride 16, not 8; extract with --layer fc6 --stride 8 --clips FILE"),
        ("activitynet", {"layers": ("fc6",), "stride": 8}, "layer fc6, not fc7; its rows are not projected"),
        (
            "rtfm-10crop",
            {},
            "crops centre, not ten; extract with --stride 16 --crops ten --clips FILE, or --preset",
        ),
        ("flat-h5", {"layers": ("fc6", "fc7")}, "has fc6, fc7, and flat-h5 takes one layer; choose it with"),
    ],
)
def test_features_that_do_not_fit_are_refused_in_one_line(
    tmp_path: Path, preset: str, made: dict[str, Any], says: str
) -> None:
    clips = write_clips(tmp_path / "clips.h5", {"a.mp4": 2}, **made)
    with pytest.raises(UsageError) as refused:
        export(preset, clips, tmp_path / "out")
    assert says in str(refused.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("preset", sorted(set(PRESETS) - {"parquet", "csv", "tensorboard"}))
def test_presets_of_clips_take_no_rows_of_videos(tmp_path: Path, preset: str) -> None:
    videos = write_videos(tmp_path / "feats.h5")
    with pytest.raises(UsageError, match=f"does not fit {preset}: it has a row a video, not a clip"):
        export(preset, videos, tmp_path / "out")


def test_projected_rows_are_not_what_a_detector_was_trained_on(tmp_path: Path) -> None:
    import h5py

    clips = write_clips(tmp_path / "clips.h5", {"a.mp4": 2})
    with h5py.File(clips, "r+") as file:
        file.attrs["pca_sha256"] = "00"
    with pytest.raises(UsageError, match="its rows are projected by PCA"):
        export("ucf-crime-32", clips, tmp_path / "out")
    assert export("npy", clips, tmp_path / "out") == []


def test_the_layer_that_fits_is_taken_from_several(tmp_path: Path) -> None:
    clips = write_clips(tmp_path / "clips.h5", {"a.mp4": 2}, layers=("fc6", "fc7"))
    export("ekosman-32", clips, tmp_path / "out")
    with pytest.raises(UsageError, match="layer fc7, not fc6"):
        export("ekosman-32", clips, tmp_path / "other", layer="fc7")
    with pytest.raises(StoreError, match="has no layer fc8, only fc6, fc7"):
        export("ekosman-32", clips, tmp_path / "other", layer="fc8")


@pytest.mark.parametrize(
    "video", ["../up.mp4", "a/../../up.mp4", "/etc/passwd.mp4", "..", "", ".", "/", "a/..", "nul\0.mp4"]
)
def test_names_that_lead_out_of_the_folder_are_refused(video: str) -> None:
    with pytest.raises(StoreError, match="would lead out of the folder"):
        safe_name(video)


@pytest.mark.parametrize("preset", ["npy", "c3d-bin", "flat-h5", "actionformer"])
def test_a_hostile_name_writes_nothing_anywhere(tmp_path: Path, preset: str) -> None:
    (tmp_path / "in").mkdir()
    clips = write_clips(tmp_path / "in" / "clips.h5", {"../up.mp4": 2, "fine.mp4": 2})
    with pytest.raises(StoreError, match=r"^\.\./up\.mp4: such a name would lead out of the folder"):
        export(preset, clips, tmp_path / "in" / "out")
    assert files_below(tmp_path) == ["in/clips.h5"]


@pytest.mark.parametrize(("preset", "link"), [("npy", "Abuse"), ("c3d-bin", "Abuse"), ("c3d-bin", "long")])
def test_a_link_out_of_the_folder_is_not_followed(tmp_path: Path, preset: str, link: str) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / link).symlink_to(tmp_path / "elsewhere")
    clips = write_clips(tmp_path / "clips.h5")
    with pytest.raises(StoreError, match="leads out of the folder, by a link"):
        export(preset, clips, tmp_path / "out", overwrite=True)
    assert files_below(tmp_path) == ["clips.h5"]


@pytest.mark.parametrize(
    ("video", "name", "kept"),
    [
        ("a/b.MP4", "a/b", "a/b.MP4"),
        ("frames/v1.2", "frames/v1.2", "frames/v1.2"),  # a folder of images: no suffix of a video
        ("a.tar.avi", "a.tar", "a.tar.avi"),
        (".mp4", ".mp4", ".mp4"),
        ("日本/🎬.webm", "日本/🎬", "日本/🎬.webm"),
    ],
)
def test_only_the_suffix_of_a_video_is_left_out(video: str, name: str, kept: str) -> None:
    assert str(safe_name(video)) == name
    assert str(safe_name(video, keep_suffix=True)) == kept


def test_two_videos_that_would_share_a_file_are_named(tmp_path: Path) -> None:
    clips = write_clips(tmp_path / "clips.h5", {"a.avi": 2, "a.mp4": 2})
    with pytest.raises(StoreError, match=r"a\.avi and a\.mp4 would both be a\.txt; try --keep-suffix"):
        export("ekosman-32", clips, tmp_path / "out")
    export("ekosman-32", clips, tmp_path / "out", keep_suffix=True)
    assert files_below(tmp_path / "out") == ["a.avi.txt", "a.mp4.txt"]


@pytest.mark.parametrize("preset", ["npy", "c3d-bin", "actionformer", "tensorboard", "csv", "flat-h5"])
def test_what_is_there_is_kept_unless_it_may_be_replaced(tmp_path: Path, preset: str) -> None:
    clips, out = write_clips(tmp_path / "clips.h5"), tmp_path / "out"
    export(preset, clips, out)
    if out.is_dir():
        last = out / files_below(out)[-1]
        last.write_bytes(b"changed")
        for name in files_below(out)[:-1]:
            (out / name).unlink()
    else:
        last = out
        last.write_bytes(b"changed")
    with pytest.raises(StoreError, match="exists already; name another with -o, or --overwrite"):
        export(preset, clips, out)
    assert [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file() and path != clips] == [
        b"changed"
    ]
    export(preset, clips, out, overwrite=True)
    assert last.read_bytes() != b"changed"


def test_a_file_is_no_folder_and_a_folder_no_file(tmp_path: Path) -> None:
    clips = write_clips(tmp_path / "clips.h5")
    (tmp_path / "folder").mkdir()
    with pytest.raises(StoreError, match=r"folder: is a folder; name a file, such as features\.csv"):
        export("csv", clips, tmp_path / "folder", overwrite=True)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(StoreError, match="the folder cannot be made"):
        export("npy", clips, tmp_path / "file", overwrite=True)
    with pytest.raises(StoreError, match="is the input as well"):
        export("flat-h5", clips, clips, overwrite=True)


@pytest.mark.parametrize("preset", ["npy", "charades-pt", "flat-h5", "parquet", "csv", "tensorboard"])
def test_a_full_disk_is_one_line_and_leaves_no_piece_of_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, preset: str
) -> None:
    clips = write_clips(tmp_path / "clips.h5", stride=8 if preset == "charades-pt" else 16)

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match="the disk is full; free space and run again"):
        export(preset, clips, tmp_path / "out")
    assert files_below(tmp_path) == ["clips.h5"]


def test_an_empty_file_exports_to_nothing(tmp_path: Path) -> None:
    clips = write_clips(tmp_path / "clips.h5", {})
    for preset in ("npy", "flat-h5", "csv", "tensorboard", "parquet"):
        export(preset, clips, tmp_path / preset)
    with pytest.raises(StoreError, match="has no clips"):
        export("actionformer", clips, tmp_path / "actionformer")


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["npy", "ekosman-32", "csv", "flat-h5"])
def test_memory_does_not_grow_with_the_number_of_videos(tmp_path: Path, preset: str) -> None:
    peaks = []
    export(preset, write_clips(tmp_path / "warm.h5", {"a.mp4": 2}), tmp_path / "warm")  # imports, caches
    for n in (3, 24):
        clips = write_clips(tmp_path / f"{n}.h5", {f"{i:02}.mp4": 1500 for i in range(n)})
        tracemalloc.start()
        export(preset, clips, tmp_path / f"out{n}")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.3 * peaks[0]  # the larger file has 3.5 MB of features


def test_exports_of_the_same_clips_are_the_same_bytes(tmp_path: Path) -> None:
    clips = write_clips(tmp_path / "clips.h5")
    for preset in ("npy", "flat-h5", "csv", "tensorboard", "parquet", "c3d-bin"):
        for place in ("one", "two"):
            (tmp_path / place).mkdir(exist_ok=True)
            export(preset, clips, tmp_path / place / preset)
    one, two = (
        {name: (tmp_path / place / name).read_bytes() for name in files_below(tmp_path / place)}
        for place in ("one", "two")
    )
    assert one == two
    assert len(one) > len(LENGTHS)
