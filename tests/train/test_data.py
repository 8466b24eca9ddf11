"""Which clip a position of a run is, and how clips are cut from videos."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image
from training_samples import SMALL, render_class_folders

from c3d_extract.decode import DecodeOptions, FramesDecoded, InProcessDecoder, open_video
from c3d_extract.preprocess.resize import FrameSampler
from c3d_extract.preprocess.spec import Preprocessing
from c3d_extract.train import RECIPES, VideoClipSet, read_videos
from c3d_extract.train.data import TrainingClips, collate

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray


@pytest.fixture(scope="module")
def class_folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return render_class_folders(tmp_path_factory.mktemp("videos"))


def test_test_clips_are_cut_as_extraction_cuts_them(class_folders: Path) -> None:
    clips = VideoClipSet(read_videos(class_folders), SMALL, RECIPES["ucf101"], seed=0)
    with open_video(clips.videos[1].path) as reader:
        crops = [FrameSampler(SMALL)(frame.bgr) for frame in reader.frames()]
    found = [clip for clip, _ in clips.test_clips(1)]
    assert np.array_equal(found[0], crops[:16])
    assert np.array_equal(found[-1], crops[-16:])


def test_of_a_long_video_the_test_clips_alone_are_held_and_are_spread_evenly(
    class_folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("c3d_extract.train.data._MANY_FRAMES", 30)
    clips = VideoClipSet(read_videos(class_folders), SMALL, RECIPES["ucf101"], seed=0)
    with open_video(clips.videos[2].path) as reader:
        crops = np.stack([FrameSampler(SMALL)(frame.bgr) for frame in reader.frames()])
    assert len(crops) == 40
    starts = []
    for clip, _ in clips.test_clips(2):
        starts += [t for t in range(25) if np.array_equal(crops[t : t + 16], clip)]
    # 25 places, ten of them from the first to the last, each rounded down.
    assert starts == [0, 2, 5, 8, 11, 13, 16, 19, 22, 24]


LIKE_SWIN = Preprocessing(
    resize=(36, 36), crop=(32, 32), colour="rgb", resampling="torchvision", keeps_aspect=True
)
"""48 x 64 becomes 36 x 48."""


@pytest.mark.parametrize(("fps", "step", "n_frames"), [(5.0, 1, 6), (30.0, 1, 32), (None, 2, 8)])
def test_clips_of_other_networks_are_resized_and_timed_as_extraction_does(
    class_folders: Path, fps: float | None, step: int, n_frames: int
) -> None:
    clips = VideoClipSet(
        read_videos(class_folders),
        LIKE_SWIN,
        RECIPES["ucf101"],
        seed=0,
        n_frames=n_frames,
        fps=fps,
        frame_step=step,
    )
    path = clips.videos[1].path  # 30 frames at 15 a second
    frames = decoded(path, LIKE_SWIN, fps, step)
    found = [clip for clip, _ in clips.test_clips(1)]
    assert np.array_equal(found[0], frames[:n_frames] if len(found) > 1 else middle(frames, n_frames))
    if len(found) > 1:
        assert np.array_equal(found[-1], frames[-n_frames:])
    # Training clips: any frames of the video in this rhythm, any window of them.
    resized = Preprocessing(resize=(36, 48), crop=(36, 48), resampling="torchvision")
    whole = decoded(path, resized, None, 1)
    rhythm = [int(i * (15 / fps) + 1e-9) if fps else i * step for i in range(n_frames)]
    starts, corners = set(), set()
    for seed in range(4):
        clip, _ = clips.clip(1, np.random.default_rng(seed))
        (place,) = [
            (start, top, left)
            for start in range(30 - rhythm[-1])
            for top in range(5)
            for left in range(17)
            for window in [whole[np.add(rhythm, start), top : top + 32, left : left + 32]]
            if np.array_equal(clip, window) or np.array_equal(clip, window[:, :, ::-1])
        ]
        starts.add(place[0])
        corners.add(place[1:])
    assert len(starts) >= 2
    assert len(corners) >= 3


def decoded(path: Path, preprocessing: Preprocessing, fps: float | None, step: int) -> NDArray[np.uint8]:
    """What extraction makes of a video."""
    options = DecodeOptions(FrameSampler(preprocessing), 1000, fps=fps, frame_step=step)
    events = list(InProcessDecoder(options).run([(0, path)]))
    (frames,) = [event.frames for event in events if isinstance(event, FramesDecoded)]
    return frames.copy()


def middle(frames: NDArray[np.uint8], n: int) -> NDArray[np.uint8]:
    start = (len(frames) - n) // 2
    return frames[start : start + n]


def test_a_video_counts_as_long_by_the_frames_that_resampling_makes(
    class_folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[float] = []
    frames_at = VideoClipSet._frames_at

    def noted(self: VideoClipSet, path: Path, sampler: FrameSampler, *places: float) -> list[Any]:
        read.append(places[1])
        return frames_at(self, path, sampler, *places)

    monkeypatch.setattr(VideoClipSet, "_frames_at", noted)
    for fps, n_read in ((15.0, 0), (450.0, 10)):  # 40 frames become 1,200
        clips = VideoClipSet(read_videos(class_folders), SMALL, RECIPES["ucf101"], seed=0, fps=fps)
        read.clear()
        assert [len(clip) for clip, _ in clips.test_clips(2)] == [16] * 10
        assert len(read) == n_read


def test_folders_of_numbered_images_are_videos_too_and_all_of_them_is_used(tmp_path: Path) -> None:
    for name, length in (("run", 200), ("walk", 3)):
        folder = tmp_path / name / "a video"
        folder.mkdir(parents=True)
        for number in range(length):
            Image.new("RGB", (44, 36), (number, number, number)).save(folder / f"{number:06d}.png")
    listed = read_videos(tmp_path)
    assert [video.path.name for video in listed.videos] == ["a video"] * 2
    clips = VideoClipSet(listed, SMALL, RECIPES["ucf101"], seed=0)
    assert [int(clip[0, 0, 0, 0]) for clip, _ in clips.test_clips(0)][-1] == 184
    firsts = [int(clips.clip(0, np.random.default_rng(seed))[0][0, 0, 0, 0]) for seed in range(60)]
    assert min(firsts) < 20
    assert max(firsts) > 165
    assert np.unique(clips.clip(1, np.random.default_rng(0))[0][:, 0, 0, 0]).tolist() == [0, 1, 2]


def test_training_clips_are_windows_of_the_video_some_of_them_mirrored(class_folders: Path) -> None:
    listed = read_videos(class_folders)
    whole = Preprocessing(resize=SMALL.resize, crop=SMALL.resize)
    with open_video(listed.videos[0].path) as reader:
        frames = np.stack([FrameSampler(whole)(frame.bgr) for frame in reader.frames()])
    windows = {
        (frames[t : t + 16, y : y + 32, x : x + 32][:, :, :: 1 - 2 * flip].tobytes()): (t, y, x, flip)
        for t in range(len(frames) - 15)
        for y in range(5)
        for x in range(13)
        for flip in (0, 1)
    }
    clips = VideoClipSet(listed, SMALL, RECIPES["ucf101"], seed=0)
    found = [windows[clips.clip(0, np.random.default_rng(seed))[0].tobytes()] for seed in range(40)]
    assert 8 <= sum(place[3] for place in found) <= 32
    assert len({place[0] for place in found}) >= 4
    assert len({place[1:3] for place in found}) >= 15


def test_every_clip_comes_once_an_epoch_in_an_order_of_its_own(class_folders: Path) -> None:
    source = VideoClipSet(read_videos(class_folders), SMALL, RECIPES["ucf101"], seed=0)
    clips = TrainingClips(source, seed=3)
    orders = [[clips._item(position, 6) for position in range(start, start + 6)] for start in (0, 6, 12)]
    assert all(sorted(order) == list(range(6)) for order in orders)
    assert len({tuple(order) for order in orders}) > 1


def test_a_clip_of_several_classes_asks_for_each_in_equal_parts() -> None:
    clip = np.zeros((16, 4, 4, 3), np.uint8)
    batch = collate([(clip, (0, 2)), "lost", (clip, (1,))], n_classes=3)
    assert batch.targets.tolist() == [[0.5, 0.0, 0.5], [0.0, 1.0, 0.0]]
    assert batch.failures == ["lost"]
