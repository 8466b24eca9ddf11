"""Features that are not finite make their video fail, and are stored nowhere."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from conftest import LENGTHS, MEAN

from c3d_extract import Extractor, FeatureFile
from c3d_extract.compute.network import Pending
from c3d_extract.errors import VideoError
from c3d_extract.settings import ExtractSettings
from c3d_extract.weights import load_checkpoint

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray


def make(weights: Path, layers: tuple[str, ...] = ("fc6",)) -> Extractor:
    settings = ExtractSettings(layers=layers)
    return Extractor.from_weights(str(weights), settings, mean=MEAN, device="cpu", precision="fp32")


@pytest.fixture(scope="module")
def huge_weights(narrow_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint whose first layers are right and whose later ones overflow."""
    state = torch.load(narrow_weights, weights_only=True)
    for name in state:
        state[name] = state[name] * (1e30 if name.startswith(("fc6", "fc7")) else 1)
    path = tmp_path_factory.mktemp("huge") / "huge.pickle"
    torch.save(state, path)
    return path


def test_one_video_raises_and_names_layers_and_clips(huge_weights: Path, videos: Path) -> None:
    with make(huge_weights, ("pool5", "fc7")) as extractor, pytest.raises(VideoError) as raised:
        extractor.extract(videos / "a" / "two.mp4")
    assert raised.value.reason.startswith(
        "features are not finite: fc7 in 2 of 2 clips; check the checkpoint"
    )


def test_a_std_that_divides_by_nothing_is_found(narrow_weights: Path, videos: Path) -> None:
    checkpoint = load_checkpoint(narrow_weights, layers=("fc6",), mean=MEAN)
    checkpoint = replace(checkpoint, preprocessing=replace(checkpoint.preprocessing, std=(1e-300, 1, 1)))
    with (
        Extractor(checkpoint, device="cpu", precision="fp32") as extractor,
        pytest.raises(VideoError, match="not finite: fc6 in 2 of 2 clips"),
    ):
        extractor.extract(videos / "a" / "two.mp4")


@pytest.mark.filterwarnings("error")
def test_of_a_batch_of_several_videos_only_the_one_fails_whose_clip_it_was(
    narrow_weights: Path, videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with make(narrow_weights) as extractor:
        marked = extractor.extract(videos / "long.mp4").clips[3].copy()
        result = Pending.result

        def spoilt(self: Pending) -> dict[str, NDArray[np.float32]]:
            features = {layer: np.array(rows) for layer, rows in result(self).items()}
            features["fc6"][(features["fc6"] == marked).all(axis=1), 7] = np.inf
            return features

        monkeypatch.setattr(Pending, "result", spoilt)
        run = extractor.extract_files([videos], tmp_path / "feats.h5", clips=tmp_path / "clips.h5")
        failed: list[Any] = [outcome for outcome in run if outcome.status == "failed"]
    assert [(o.video, o.error.split(";")[0]) for o in failed] == [
        ("long.mp4", "features are not finite: fc6 in 1 of 6 clips")
    ]
    for name in ("feats.h5", "clips.h5"):
        with FeatureFile(tmp_path / name) as file:
            assert set(file.videos) == set(LENGTHS) - {"long.mp4"}
            assert np.isfinite(file["fc6"]).all()


def test_features_that_are_large_and_finite_are_stored(narrow_weights: Path, videos: Path) -> None:
    """Their sum over a batch overflows, and nothing of them does."""
    with make(narrow_weights) as extractor:
        features = np.full((4, 256), 3e38, np.float32)
        assert extractor.extract(videos / "a" / "one.mp4").outcome.status == "ok"
    from c3d_extract.pipeline.stream import _not_finite

    assert _not_finite({"fc6": features}) == {}
