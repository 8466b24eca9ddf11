"""Decoding in this process: any transform, any number of frames at a time, nothing shared."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import pytest
from video_samples import MeanColour, moving_frames, read, write

from c3d_extract.decode import DecodeOptions, DecodePool, FramesDecoded, InProcessDecoder, VideoRead
from c3d_extract.preprocess.resize import FrameSampler
from c3d_extract.preprocess.spec import Preprocessing

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from c3d_extract.decode import Decoder


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("in_process") / "a.avi", moving_frames(23))


def frames_of(decoder: Decoder, video: Path) -> list[NDArray[np.uint8]]:
    """Decode one video; return copies of its frames, as they were yielded."""
    *decoded, end = (
        event.frames.copy() if isinstance(event, FramesDecoded) else event
        for event in decoder.run([(0, video)])
    )
    assert isinstance(end, VideoRead)
    return decoded  # type: ignore[return-value]


@pytest.mark.parametrize("in_process", [True, False])
def test_any_transform_and_any_number_of_frames_at_a_time(video: Path, in_process: bool) -> None:
    options = DecodeOptions(MeanColour(), 5)
    decoder: Decoder = InProcessDecoder(options) if in_process else DecodePool(1, options)
    try:
        handed_over = frames_of(decoder, video)
    finally:
        decoder.close()
    assert [frames.shape for frames in handed_over] == [(5, 1, 1, 3)] * 4 + [(3, 1, 1, 3)]
    transform = MeanColour()
    assert (np.concatenate(handed_over) == np.stack([transform(frame) for frame in read(video)[0]])).all()


@pytest.mark.parametrize("step", [2, 3])
def test_one_of_several_decoded_frames_is_taken(video: Path, step: int) -> None:
    decoder = InProcessDecoder(DecodeOptions(MeanColour(), 4, frame_step=step))
    transform = MeanColour()
    expected = np.stack([transform(frame) for frame in read(video)[0]])[::step]
    assert (np.concatenate(frames_of(decoder, video)) == expected).all()


def test_decoders_of_the_same_options_work_in_several_threads(
    video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NumPy's sampler has buffers of its own, which another thread would overwrite."""
    monkeypatch.setattr(FrameSampler, "compiled", False)
    options = DecodeOptions(FrameSampler(Preprocessing()), 16)
    expected = np.concatenate(frames_of(InProcessDecoder(options), video))
    with ThreadPoolExecutor(4) as threads:
        decoders = [InProcessDecoder(options) for _ in range(8)]
        for found in threads.map(lambda decoder: frames_of(decoder, video), decoders):
            assert (np.concatenate(found) == expected).all()
