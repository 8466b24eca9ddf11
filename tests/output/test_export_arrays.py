"""Exports of arrays: each is read as its consumer reads it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from export_samples import LENGTHS, STEMS, D, export, features, files_below, write_clips


def test_npy_has_a_file_a_layer_and_the_times(tmp_path: Path) -> None:
    clips = write_clips(tmp_path / "clips.h5", layers=("fc6", "fc7"))
    assert export("npy", clips, tmp_path / "out") == []
    expected = [f"{STEMS[v]}_{end}.npy" for v in LENGTHS for end in ("fc6", "fc7", "timestamps_ms")]
    assert files_below(tmp_path / "out") == sorted(expected)
    for video, n in LENGTHS.items():
        for layer in ("fc6", "fc7"):
            X = np.load(tmp_path / "out" / f"{STEMS[video]}_{layer}.npy")
            assert X.dtype == np.float32
            np.testing.assert_array_equal(X, features(video, n, layer))
        times = np.load(tmp_path / "out" / f"{STEMS[video]}_timestamps_ms.npy")
        np.testing.assert_allclose(times, np.arange(n) * 640.0)


def test_npy_takes_one_layer_where_it_is_named(tmp_path: Path) -> None:
    clips = write_clips(tmp_path / "clips.h5", layers=("fc6", "fc7"))
    export("npy", clips, tmp_path / "out", layer="fc7")
    assert not list((tmp_path / "out").rglob("*_fc6.npy"))
    assert len(list((tmp_path / "out").rglob("*_fc7.npy"))) == len(LENGTHS)


def read_binary_blob(path: Path) -> tuple[list[int], np.ndarray]:
    """Five sizes of four bytes each, then the values: what read_binary_blob.m reads."""
    data = path.read_bytes()
    sizes = [int.from_bytes(data[i : i + 4], "little") for i in range(0, 20, 4)]
    values = np.frombuffer(data[20:], "<f4")
    assert len(values) == np.prod(sizes)
    return sizes, values


@pytest.mark.parametrize("stride", [16, 8])
def test_c3d_bin_has_a_file_a_clip_named_by_its_first_frame(tmp_path: Path, stride: int) -> None:
    clips = write_clips(tmp_path / "clips.h5", layers=("fc6", "fc7"), stride=stride)
    export("c3d-bin", clips, tmp_path / "out")
    for video, n in LENGTHS.items():
        folder = tmp_path / "out" / STEMS[video]
        for layer in ("fc6", "fc7"):
            names = sorted(path.name for path in folder.glob(f"*.{layer}-1"))
            assert names == [f"{i * stride:06d}.{layer}-1" for i in range(n)]
            for name, x in zip(names, features(video, n, layer), strict=True):
                sizes, values = read_binary_blob(folder / name)
                assert sizes == [1, D, 1, 1, 1]
                np.testing.assert_array_equal(values, x)


def test_c3d_bin_leaves_no_clips_of_an_earlier_export_and_nothing_else_is_deleted(tmp_path: Path) -> None:
    lengths = {"a.mp4": 6}
    export("c3d-bin", write_clips(tmp_path / "8.h5", lengths, stride=8), tmp_path / "out")
    for name in ("notes.txt", "000008.fc7-1", "9.fc6-1"):
        (tmp_path / "out" / "a" / name).write_text("mine")
    export("c3d-bin", write_clips(tmp_path / "16.h5", {"a.mp4": 3}), tmp_path / "out", overwrite=True)
    kept = ["000000.fc6-1", "000008.fc7-1", "000016.fc6-1", "000032.fc6-1", "9.fc6-1", "notes.txt"]
    assert sorted(path.name for path in (tmp_path / "out" / "a").iterdir()) == kept


def test_charades_is_a_tensor_a_video(tmp_path: Path) -> None:
    clips = write_clips(tmp_path / "clips.h5", stride=8)
    warnings = export("charades-pt", clips, tmp_path / "out")
    assert warnings == [f"rows have {D} values, and what loads charades-pt expects 4096"]
    for video, n in LENGTHS.items():
        tensor = torch.load(tmp_path / "out" / f"{STEMS[video]}.pt", weights_only=True)
        assert tensor.dtype == torch.float32
        np.testing.assert_array_equal(tensor.numpy(), features(video, n))


@pytest.mark.parametrize(("stride", "fps"), [(16, None), (4, 25.0)])
def test_actionformer_finds_its_arrays_by_the_keys_of_its_yaml(
    tmp_path: Path, stride: int, fps: float | None
) -> None:
    clips = write_clips(tmp_path / "clips.h5", stride=stride, fps=fps)
    export("actionformer", clips, tmp_path / "out ü")
    dataset = yaml.safe_load((tmp_path / "out ü" / "actionformer.yaml").read_text("utf-8"))["dataset"]
    assert dataset["feat_stride"] == stride
    assert dataset["num_frames"] == 16
    assert dataset["default_fps"] == fps
    assert dataset["input_dim"] == D
    for video, n in LENGTHS.items():
        name = (dataset["file_prefix"] or "") + STEMS[video] + dataset["file_ext"]
        np.testing.assert_array_equal(np.load(Path(dataset["feat_folder"]) / name), features(video, n))
