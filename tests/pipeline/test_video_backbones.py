"""From a video file to features of torchvision's networks: those of its own model on its own transforms."""

from __future__ import annotations

import dataclasses
import re
from typing import TYPE_CHECKING, Any

import av
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torchvision.models import get_model, get_model_weights

from c3d_extract import Extractor, FeatureFile
from c3d_extract.cli import extract as extract_command
from c3d_extract.decode import write_video
from c3d_extract.errors import UsageError
from c3d_extract.models.registry import default_backbone
from c3d_extract.models.torchvision import VideoNetwork, published
from c3d_extract.settings import ExtractSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor, nn

pytestmark = pytest.mark.slow

N_FRAMES, FPS = 40, 25
ALL_FRAMES = ExtractSettings(fps="source")


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 frames of moving noise, 180 x 250: neither side nor ratio is that of any network."""
    tile = np.random.default_rng(0).integers(0, 256, (45, 50, 3), dtype=np.uint8)
    still = tile.repeat(4, axis=0).repeat(5, axis=1)
    path = tmp_path_factory.mktemp("video") / "noise.mp4"
    write_video(path, [np.roll(still, (2 * i, 3 * i), (0, 1)) for i in range(N_FRAMES)], fps=FPS)
    return path


def read_frames(path: Path) -> NDArray[np.uint8]:
    """uint8 (T, H, W, 3), R, G, B, by FFmpeg's own conversion as OpenCV asks for it."""
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray(format="bgr24")[..., ::-1] for frame in container.decode(video=0)]
    return np.stack(frames)


def random_model(name: str, folder: Path, n_classes: int = 400) -> tuple[nn.Module, Path]:
    """torchvision's model with random weights, and the file that torch writes of it."""
    torch.manual_seed(0)
    model = get_model(name, num_classes=n_classes).eval()
    torch.save(model.state_dict(), folder / "weights.pth")
    return model, folder / "weights.pth"


@pytest.fixture(scope="module")
def r3d(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, Path]:
    return random_model("r3d_18", tmp_path_factory.mktemp("r3d"))


def torchvisions_features(
    model: nn.Module, transform: Callable[[Tensor], Tensor], clips: Sequence[NDArray[np.uint8]]
) -> Tensor:
    """Class scores of clips uint8 (T, H, W, 3), R, G, B, by torchvision's transforms and model."""
    frames = [transform(torch.from_numpy(np.ascontiguousarray(clip)).permute(0, 3, 1, 2)) for clip in clips]
    with torch.inference_mode():
        scores: Tensor = model(torch.stack(frames))
    return scores


def relative(found: NDArray[np.float32], right: Tensor) -> float:
    return float(np.linalg.norm(found - right.numpy()) / right.norm())


@pytest.mark.usefixtures("two_threads")  # torch's resize rounds differently with one
def test_r3d_18_equals_torchvisions_model_and_transforms(
    video: Path, r3d: tuple[nn.Module, Path], tmp_path: Path
) -> None:
    model, weights = r3d
    settings = ExtractSettings(layers=("logits", "avgpool"), fps="source", tail="pad")
    run: dict[str, Any] = {"device": "cpu", "precision": "fp32", "batch_size": 1}
    with Extractor.from_weights(weights, settings, **run) as extractor:
        list(extractor.extract_files([video], tmp_path / "feats.h5", clips=tmp_path / "clips.h5"))
    frames = read_frames(video)
    frames = np.concatenate([frames, frames[-1:].repeat(8, axis=0)])
    transform = get_model_weights("r3d_18").DEFAULT.transforms()
    expected = torchvisions_features(model, transform, [frames[i : i + 16] for i in (0, 16, 32)])
    with FeatureFile(tmp_path / "feats.h5") as file, FeatureFile(tmp_path / "clips.h5") as rows:
        assert rows.column("end_frame").tolist() == [16, 32, 40]
        assert file.column("n_padded_frames").tolist() == [8]
        assert relative(rows["logits"], expected) < 1e-5
        assert relative(file["logits"][0], expected.mean(0)) < 1e-5
        assert file["avgpool"].shape == (1, 512)
        settings_written, weights_written = file.attributes["settings"], file.attributes["weights"]
    assert settings_written["fps"] is None
    assert weights_written["preprocessing"].startswith("torchvision 128x171, crop 112x112, std 55.33")
    assert weights_written["record"]["architecture"]["clip"] == [16, 112, 112]


@pytest.mark.usefixtures("two_threads")
def test_clips_of_32_frames_that_keep_their_aspect_equal_torchvisions(
    video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    n_frames, record = 32, published()["swin3d_t"]
    # The network takes crops of any size; whole ones would take a minute.
    smaller = dataclasses.replace(record.preprocessing, resize=(150, 150), crop=(64, 96))
    monkeypatch.setitem(published(), "swin3d_t", record._replace(preprocessing=smaller))
    transform = get_model_weights("swin3d_t").DEFAULT.transforms(resize_size=(150,), crop_size=(64, 96))
    model, weights = random_model("swin3d_t", tmp_path, n_classes=6)  # so that no other test shares its cost
    short = tmp_path / "short.mp4"
    write_video(short, list(read_frames(video)[: n_frames - 3]), fps=FPS)
    settings = ExtractSettings(layers=("logits",), fps="source")
    with Extractor.from_weights(weights, settings, device="cpu", precision="fp32") as extractor:
        assert extractor.network.clip_shape == (n_frames, 64, 96, 3)
        found = extractor.extract(short)
    frames = read_frames(short)
    padded = np.concatenate([frames, frames[-1:].repeat(3, axis=0)])
    expected = torchvisions_features(model, transform, [padded])
    assert (found.end_frames - found.start_frames).tolist() == [n_frames - 3]
    # torch 2.6 rounds one pixel in 10,000 to the next level, see tests/preprocess/test_resize_float.py.
    assert relative(found.clips, expected) < (1e-5 if torch.__version__ >= "2.7" else 1e-3)


def test_the_networks_own_frame_rate_is_the_default_and_written(
    video: Path, r3d: tuple[nn.Module, Path], tmp_path: Path
) -> None:
    common = [
        str(video),
        "--weights",
        str(r3d[1]),
        "--device",
        "cpu",
        "--precision",
        "fp32",
        "--workers",
        "0",
        "--batch-size",
        "1",
    ]
    output = ["-o", str(tmp_path / "feats.h5")]
    result = CliRunner().invoke(extract_command.command, [*common, *output])
    assert result.exit_code == 0, result.output
    assert re.search(r"16 frames a clip at 15 a second, on cpu in fp32", result.stderr)
    with FeatureFile(tmp_path / "feats.h5") as file:
        assert file.attributes["settings"]["fps"] == 15
        assert file.attributes["settings"]["stride"] == 16
        assert file.column("n_frames").tolist() == [N_FRAMES * 15 // FPS]
        assert file.column("n_clips").tolist() == [1]
    other = CliRunner().invoke(extract_command.command, [*common, *output, "--fps", "source"])
    assert other.exit_code == 1
    assert "fps: 15.0 → null" in other.output
    wrong = CliRunner().invoke(extract_command.command, [*common, *output, "--fps", "all"])
    assert wrong.exit_code == 2
    assert "neither a number nor source" in wrong.output


def test_a_pca_basis_fits_features_of_the_same_network(
    video: Path, r3d: tuple[nn.Module, Path], tmp_path: Path
) -> None:
    other = tmp_path / "other.mp4"
    write_video(other, list(read_frames(video)[20:36]), fps=FPS)
    first, second = str(tmp_path / "a.h5"), str(tmp_path / "b.h5")
    common = ["--weights", str(r3d[1]), "--device", "cpu", "--workers", "0", "--batch-size", "1"]
    run = CliRunner().invoke
    result = run(extract_command.command, [str(other), str(video), *common, "-o", first, "--pca", "1"])
    assert result.exit_code == 0, result.output
    basis = ["--pca-from", str(tmp_path / "a.pca.h5")]
    result = run(extract_command.command, [str(other), *common, "-o", second, *basis])
    assert result.exit_code == 0, result.output
    with FeatureFile(first) as fitted, FeatureFile(second) as projected:
        np.testing.assert_allclose(projected["avgpool"][0], fitted["avgpool"][-1], rtol=1e-5)
    result = run(
        extract_command.command, [str(other), *common, "-o", second, *basis, "--fps", "source", "--overwrite"]
    )
    assert result.exit_code == 1
    assert "the basis was fitted on other features" in result.output


def test_preprocessing_is_compared_on_resume(r3d: tuple[nn.Module, Path]) -> None:
    with Extractor.from_weights(r3d[1], ALL_FRAMES, device="cpu") as extractor:
        checkpoint, identity = extractor.checkpoint, extractor.identity()
    changes: tuple[dict[str, Any], ...] = (
        {"resize": (128, 172)},
        {"crop": (110, 112)},
        {"std": (1.0, 1.0, 1.0)},
        {"resampling": "opencv"},
        {"resize": (128, 128), "keeps_aspect": True},
        {"colour": "bgr"},
    )
    for change in changes:
        preprocessing = dataclasses.replace(checkpoint.preprocessing, **change)
        changed = dataclasses.replace(checkpoint, preprocessing=preprocessing).identity()
        differences = dataclasses.replace(identity, weights=changed).differences(identity)
        assert differences, change
        assert all(line.startswith(("weights preprocessing: ", "weights colour: ")) for line in differences)


def test_the_rate_of_a_run_is_the_given_one_the_networks_or_none() -> None:
    r3d, c3d = VideoNetwork("r3d_18"), default_backbone()
    assert ExtractSettings().for_backbone(r3d).fps == 15
    assert ExtractSettings(fps=3.5).for_backbone(r3d).fps == 3.5
    assert ExtractSettings(fps="source").for_backbone(r3d).fps is None
    assert ExtractSettings().for_backbone(c3d).fps is None
    assert ExtractSettings(fps="source").for_backbone(c3d) == ExtractSettings().for_backbone(c3d)
    with pytest.raises(UsageError, match="must be a number or source"):
        ExtractSettings(fps="decoded")  # type: ignore[arg-type]


def test_a_dry_run_without_the_weights_knows_the_networks_settings(
    video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    arguments = [str(video), "--weights", "swin3d_b_22k", "--dry-run", "-o", str(tmp_path / "feats.h5")]
    result = CliRunner().invoke(extract_command.command, arguments)
    assert result.exit_code == 0, result.output
    assert "Would extract avgpool of 1 of 1 videos" in result.stderr


@pytest.mark.usefixtures("two_threads")
def test_features_do_not_depend_on_the_place_in_a_batch(r3d: tuple[nn.Module, Path]) -> None:
    with Extractor.from_weights(r3d[1], ALL_FRAMES, device="cpu", precision="fp32") as extractor:
        network = extractor.network
    rng = np.random.default_rng(0)
    clips = rng.integers(0, 256, (network.batch_size, *network.clip_shape), dtype=np.uint8)
    clips[-1] = clips[0]
    rows = network(clips)["avgpool"]
    np.testing.assert_array_equal(rows[0], rows[-1])
