"""Five and ten crops a clip: decoded once, each equal to the plain way, resumed to the bit."""

from __future__ import annotations

import dataclasses
import shutil
from typing import TYPE_CHECKING, Any

import cv2
import h5py
import numpy as np
import pytest
import torch
from checkpoint_writers import random_state
from conftest import LENGTHS
from oracle import conv_maps, fc6_of, relative
from store_samples import datasets
from torchvision.models import get_model
from torchvision.transforms import FiveCrop, TenCrop
from torchvision.transforms import functional as F

from c3d_extract import Extractor, FeatureFile
from c3d_extract.decode.pyav import PyAVReader
from c3d_extract.errors import MismatchError, StoreError, UsageError
from c3d_extract.models.c3d import ARCHITECTURES
from c3d_extract.models.torchvision import published
from c3d_extract.output.export import export_features, find_preset
from c3d_extract.preprocess.spec import Preprocessing
from c3d_extract.settings import ExtractSettings
from c3d_extract.weights import load_checkpoint, save_checkpoint

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from c3d_extract.settings import Crops


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A narrow C3D for clips of 32 x 32, whose frames are resized to 44 x 36."""
    architecture = dataclasses.replace(ARCHITECTURES["c3d"].scaled(1 / 16), clip=(16, 32, 32))
    state = {name: torch.from_numpy(a) for name, a in random_state(architecture.state_shapes()).items()}
    path = tmp_path_factory.mktemp("weights") / "small.safetensors"
    preprocessing = Preprocessing(resize=(36, 44), crop=(32, 32))
    save_checkpoint(path, state, architecture, preprocessing, np.array([90.0, 98, 102]), name="small")
    return path


@pytest.fixture(scope="module")
def cube(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A mean that differs between all places of the resized frame."""
    path = tmp_path_factory.mktemp("mean") / "cube.npy"
    np.save(path, np.random.default_rng(0).uniform(60, 140, (3, 16, 36, 44)))
    return path


def make(weights: Path, cube: Path, crops: Crops, **run: Any) -> Extractor:
    settings = ExtractSettings(crops=crops, stride=run.pop("stride", None), tail="pad")
    options: dict[str, Any] = {"device": "cpu", "precision": "fp32", "workers": 0} | run
    return Extractor.from_weights(weights, settings, mean=cube, **options)


@pytest.fixture(scope="module")
def ten_crops(weights: Path, cube: Path) -> Iterator[Extractor]:
    with make(weights, cube, "ten", batch_size=8) as made:  # no multiple of ten
        yield made


@pytest.fixture(scope="module")
def few(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of four of the small videos, eight clips together."""
    folder = tmp_path_factory.mktemp("few")
    for name in ("a", "b"):
        shutil.copytree(videos / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def whole_run(ten_crops: Extractor, few: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Feature and clip file of those videos, ten crops a clip."""
    folder = tmp_path_factory.mktemp("whole")
    list(ten_crops.extract_files([few], folder / "feats.h5", clips=folder / "clips.h5"))
    return folder


def resized_frames(path: Path) -> NDArray[np.uint8]:
    """uint8 (T, 36, 44, 3), B, G, R, by OpenCV."""
    capture = cv2.VideoCapture(str(path))
    frames = []
    while (read := capture.read())[0]:
        frames.append(cv2.resize(read[1], (44, 36)))
    return np.stack(frames)


def plain_features(weights: Path, cube: Path, path: Path) -> NDArray[np.float64]:
    """fc6 (clips, 10, D): the cube subtracted from resized frames, then TenCrop, then a clip at a time."""
    tensors, frames = load_checkpoint(weights).state, resized_frames(path)
    state = {name.replace("1a", "1").replace("2a", "2"): value for name, value in tensors.items()}
    n_clips = -(-len(frames) // 16)
    frames = np.concatenate([frames, frames[-1:].repeat(16 * n_clips - len(frames), axis=0)])
    rows = []
    for clip in frames.reshape(n_clips, 16, 36, 44, 3):
        x = (
            torch.from_numpy(clip.astype(np.float32)).permute(3, 0, 1, 2)
            - torch.from_numpy(np.load(cube)).float()
        )
        with torch.inference_mode():
            rows.append([fc6_of(state, conv_maps(state, crop[None]), "ceil")[0] for crop in TenCrop(32)(x)])
    return np.stack([torch.stack(crops).double().numpy() for crops in rows])


@pytest.mark.parametrize("name", ["a/two.mp4", "b/short.mp4"])
def test_ten_crops_equal_a_plain_loop_over_torchvisions(
    whole_run: Path, weights: Path, cube: Path, few: Path, name: str
) -> None:
    expected = plain_features(weights, cube, few / name)
    with FeatureFile(whole_run / "clips.h5") as file, FeatureFile(whole_run / "feats.h5") as averages:
        rows = np.array(file.videos) == name
        found = file["fc6"][rows].reshape(expected.shape)
        assert file.column("crop").dtype == np.int32
        assert file.column("crop")[rows].tolist() == [*range(10)] * len(expected)
        starts = file.column("start_frame")[rows]
        row = averages.videos.index(name)
        average, n_clips = averages["fc6"][row], averages.column("n_clips")[row]
        n_padded = averages.column("n_padded_frames")[row]
    for crop in range(10):
        assert relative(found[:, crop], expected[:, crop]) < 1e-5, f"crop {crop}"
    assert relative(average, expected.mean((0, 1))) < 1e-5
    assert starts.tolist() == [16 * i for i in range(len(expected)) for _ in range(10)]
    assert (n_clips, n_padded) == (len(expected), -LENGTHS[name] % 16), "counted once, not for every crop"


def test_crops_of_python_are_an_axis(ten_crops: Extractor, whole_run: Path, few: Path) -> None:
    features = ten_crops.extract(few / "a" / "two.mp4")
    assert features.clips.shape == (3, 10, 256)
    assert features.start_frames.tolist() == [0, 16, 32]
    assert len(features.start_seconds) == len(features.end_frames) == 3
    with FeatureFile(whole_run / "feats.h5") as file:
        np.testing.assert_array_equal(features.mean(), file["fc6"][file.videos.index("a/two.mp4")])


def test_five_crops_are_the_first_five_of_ten(
    weights: Path, cube: Path, whole_run: Path, few: Path, tmp_path: Path
) -> None:
    with make(weights, cube, "five", batch_size=8, workers=2) as extractor:
        list(extractor.extract_files([few], tmp_path / "feats.h5", clips=tmp_path / "clips.h5"))
    with FeatureFile(whole_run / "clips.h5") as ten, FeatureFile(tmp_path / "clips.h5") as five:
        chosen = ten.column("crop") < 5
        np.testing.assert_array_equal(five["fc6"], ten["fc6"][chosen])
        np.testing.assert_array_equal(five.column("start_frame"), ten.column("start_frame")[chosen])


def test_frames_are_decoded_once_whatever_the_crops(
    weights: Path, cube: Path, videos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sampled, n = PyAVReader._sampled, 0

    def counted(self: PyAVReader, *given: Any) -> Any:
        nonlocal n
        n += self.path.name == "two.mp4"  # decoding is tried on a video of its own first
        return sampled(self, *given)

    monkeypatch.setattr(PyAVReader, "_sampled", counted)
    with make(weights, cube, "ten", stride=8) as extractor:
        assert extractor.extract(videos / "a" / "two.mp4").clips.shape == (4, 10, 256)
    assert n == LENGTHS["a/two.mp4"]


def test_an_interrupted_run_with_crops_goes_on_to_the_same_bytes(
    weights: Path, cube: Path, whole_run: Path, few: Path, tmp_path: Path
) -> None:
    with make(weights, cube, "ten", batch_size=8) as extractor:
        for i, _ in enumerate(
            extractor.extract_files([few], tmp_path / "feats.h5", clips=tmp_path / "clips.h5")
        ):
            if i == 1:
                break
    with make(weights, cube, "ten", batch_size=8, workers=1) as extractor:
        rest = list(extractor.extract_files([few], tmp_path / "feats.h5", clips=tmp_path / "clips.h5"))
    assert [outcome.status for outcome in rest].count("skipped") == 2
    for name in ("feats.h5", "clips.h5"):
        assert datasets(tmp_path / name) == datasets(whole_run / name)


@pytest.mark.parametrize("crops", ["centre", "five"])
def test_other_crops_do_not_extend_a_file(
    weights: Path, cube: Path, whole_run: Path, few: Path, crops: Crops
) -> None:
    with (
        make(weights, cube, crops) as other,
        pytest.raises(MismatchError, match=f"crops: ten → {crops}"),
    ):
        other.extract_files([few], whole_run / "feats.h5", clips=whole_run / "clips.h5")


def test_a_file_of_centre_crops_has_no_column_of_crops(
    weights: Path, cube: Path, videos: Path, tmp_path: Path
) -> None:
    with make(weights, cube, "centre") as extractor:
        list(extractor.extract_files([videos / "a"], tmp_path / "feats.h5", clips=tmp_path / "clips.h5"))
    assert "crop" not in datasets(tmp_path / "clips.h5")
    with FeatureFile(tmp_path / "clips.h5") as file:
        assert not file.has_crops


@pytest.mark.parametrize("problem", ["missing", "of another type"])
def test_a_clip_file_without_the_crops_that_it_states_is_refused(
    whole_run: Path, tmp_path: Path, problem: str
) -> None:
    path = tmp_path / "clips.h5"
    path.write_bytes((whole_run / "clips.h5").read_bytes())
    with h5py.File(path, "r+") as file:
        crops = file["crop"][:]
        del file["crop"]
        if problem != "missing":
            file["crop"] = crops.astype(np.int64)
    with pytest.raises(StoreError, match="crop"):
        FeatureFile(path)


def test_an_export_of_ten_crops_is_what_was_extracted(
    whole_run: Path, few: Path, ten_crops: Extractor, tmp_path: Path
) -> None:
    export_features(find_preset("rtfm-10crop"), whole_run / "clips.h5", tmp_path / "out")
    found = np.load(tmp_path / "out" / "a" / "two.npy")
    np.testing.assert_array_equal(found, ten_crops.extract(few / "a" / "two.mp4").clips)


def test_unknown_crops_are_refused() -> None:
    with pytest.raises(UsageError, match="--crops: must be one of centre, five, ten, not 'three'"):
        ExtractSettings(crops="three")  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("crops", ["five", "ten"])
def test_crops_of_frames_that_keep_their_aspect_equal_torchvisions(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, crops: Crops
) -> None:
    record = published()["r3d_18"]
    smaller = dataclasses.replace(record.preprocessing, resize=(40, 40), crop=(32, 33), keeps_aspect=True)
    monkeypatch.setitem(published(), "r3d_18", record._replace(preprocessing=smaller))
    torch.manual_seed(0)
    model = get_model("r3d_18", num_classes=7).eval()
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    settings = ExtractSettings(layers=("logits",), fps="source", crops=crops)
    with Extractor.from_weights(
        tmp_path / "weights.pth", settings, device="cpu", precision="fp32"
    ) as extractor:
        found = extractor.extract(videos / "a" / "two.mp4").clips
    cut = FiveCrop((32, 33)) if crops == "five" else TenCrop((32, 33))
    resized = []
    capture = cv2.VideoCapture(str(videos / "a" / "two.mp4"))
    while (read := capture.read())[0]:
        image = torch.from_numpy(np.ascontiguousarray(read[1][..., ::-1])).permute(2, 0, 1)
        resized.append(F.resize(image, [40], antialias=False))
    assert resized[0].shape[1:] == (40, 53), "the margins are odd: the mirrored centre is another crop"
    mean, std = (
        torch.tensor(values)[:, None, None, None]
        for values in (record.mean[::-1], record.preprocessing.std[::-1])
    )
    for i, clip in enumerate(found):
        frames = torch.stack(resized[16 * i : 16 * i + 16])
        inputs = [(crop.permute(1, 0, 2, 3).float() - mean) / std for crop in cut(frames)]
        with torch.inference_mode():
            expected = model(torch.stack(inputs))
        # torch rounds a few values of frames as small as these to the next level (test_resize_float.py).
        assert relative(clip, expected.numpy()) < 1e-3
