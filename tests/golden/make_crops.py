"""Write ``opencv_crops.json``: what OpenCV makes of the shared sample videos, without our package.

    python tests/golden/make_crops.py ../shared/data/samples

A file's entry is the number of frames that were taken, at most 40, and the SHA-256 of their crops, each
uint8 (112, 112, 3), B, G, R: resized to 171x128 by ``cv2.resize``, rows 8 to 119, columns 29 to 140.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import cv2

MOST_FRAMES = 40
# OpenCV 5.0 cannot convert interlaced frames, and its wheel has no AV1 decoder; of files with several video
# streams it takes the first, not the best; at damage it may drop one frame more.
NOT_FOR_OPENCV = {"av1_video.mkv", "corrupted.mp4", "test1.mp4", "nasa_13013.mp4"}


def digest(path: Path) -> dict[str, int | str]:
    """Return the entry of one video."""
    capture, crops, n_frames = cv2.VideoCapture(str(path)), hashlib.sha256(), 0
    while n_frames < MOST_FRAMES:
        ok, frame = capture.read()
        if not ok:
            break
        crops.update(cv2.resize(frame, (171, 128))[8:120, 29:141].tobytes())
        n_frames += 1
    return {"n_frames": n_frames, "sha256": crops.hexdigest()}


def main() -> None:
    """Write the file beside this script."""
    samples = Path(sys.argv[1])
    videos = [path for path in sorted(samples.glob("*/*.*")) if path.name not in NOT_FOR_OPENCV]
    golden = {
        "made_by": f"OpenCV {cv2.__version__}",
        "videos": {path.relative_to(samples).as_posix(): digest(path) for path in videos},
    }
    target = Path(__file__).with_name("opencv_crops.json")
    target.write_text(json.dumps(golden, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
