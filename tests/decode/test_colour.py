"""Conversion: OpenCV's colours."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import av
import numpy as np
import pytest
from video_samples import moving_frames, read, write

from c3d_extract.decode import PyAVReader

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("codec", ["mpeg2video", "libx264"])
def test_interlaced_frames_are_not_deinterlaced(tmp_path: Path, codec: str) -> None:
    """OpenCV cannot serve as oracle (see above); the same frames, not marked as interlaced, do."""
    options = (
        {"flags": "+ildct+ilme"} if codec == "mpeg2video" else {"x264-params": "tff=1:fake-interlaced=1"}
    )
    path = write(tmp_path / "a.mkv", moving_frames(6, 96, 64), codec=codec, options=options)
    with PyAVReader(path) as reader:
        decoded = [frame for packet in reader._packets() for frame in reader._decode(packet)]
    assert any(frame.interlaced_frame for frame in decoded)
    for frame, ours in zip(decoded, read(path)[0], strict=True):
        plain = av.VideoFrame(frame.width, frame.height, "yuv420p")
        for source, target in zip(frame.planes, plain.planes, strict=True):
            lines = np.frombuffer(cast("Any", source), np.uint8).reshape(source.height, source.line_size)
            padded = np.zeros((target.height, target.line_size), np.uint8)
            padded[:, : target.width] = lines[:, : target.width]
            target.update(padded.tobytes())
        expected = plain.reformat(format="bgr24", interpolation="BICUBIC").to_ndarray()
        assert (ours == expected).all()


@pytest.mark.parametrize("matrix", [1, 2, 6, 7, 9])
@pytest.mark.parametrize("value_range", [1, 2])
def test_colours_follow_the_matrix_and_range_of_the_file(
    tmp_path: Path, matrix: int, value_range: int
) -> None:
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as out:
        stream = cast("Any", out.add_stream("libx264", rate=25, options={"qp": "10"}))
        stream.height, stream.width, stream.pix_fmt = 64, 64, "yuv420p"
        stream.codec_context.colorspace, stream.codec_context.color_range = matrix, value_range
        flat = av.VideoFrame(64, 64, "yuv420p")
        for plane, value in zip(flat.planes, (120, 80, 190), strict=True):
            plane.update(bytes([value]) * plane.buffer_size)
        out.mux(stream.encode(flat))
        out.mux(stream.encode())
    blue, green, red = read(path)[0][0][32, 32].astype(float)
    k_red, k_blue = {1: (0.2126, 0.0722), 7: (0.212, 0.087), 9: (0.2627, 0.0593)}.get(matrix, (0.299, 0.114))
    full = value_range == 2
    y = 120 if full else (120 - 16) * 255 / 219
    u, v = ((80 - 128), (190 - 128)) if full else ((80 - 128) * 255 / 224, (190 - 128) * 255 / 224)
    expected_red = y + 2 * (1 - k_red) * v
    expected_blue = y + 2 * (1 - k_blue) * u
    expected_green = (y - k_red * expected_red - k_blue * expected_blue) / (1 - k_red - k_blue)
    # The coder may move a plane by a level, which the matrix makes two; a wrong matrix would be 10 and more.
    assert (blue, green, red) == pytest.approx((expected_blue, expected_green, min(expected_red, 255)), abs=3)
