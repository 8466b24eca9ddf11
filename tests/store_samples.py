"""Made-up videos for the tests of the store, and a program that writes them and can be killed.

``python store_samples.py OUTPUT N [key=value]...`` writes N videos and says what it does, a line a step.
"""

from __future__ import annotations

import hashlib
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from c3d_extract.errors import C3DError
from c3d_extract.output import ClipRows, RunIdentity, RunStore, StoreOptions, VideoRow
from c3d_extract.output.pca_basis import PcaBasis, fit

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from c3d_extract.output import Status, Summary

NAMES = ["b", "a/ü b.avi", "line\nbreak", "a", "Z", "日本/🎬.mp4"]
SIZES = {"fc6": 12, "fc7": 5}
WEIGHTS = {
    "weights": "random",
    "weights_sha256": "00ff",
    "pool5": "ceil",
    "colour": "bgr",
    "mean": "1,2,3",
    "mean_sha256": "0123",
    "record": {
        "preprocessing": {"resize": [128, 171], "crop": [112, 112], "colour": "bgr", "std": [1, 1, 1]}
    },
}
SETTINGS = {"stride": 16, "tail": "drop", "short": "pad", "fps": None}


def identity(**settings: Any) -> RunIdentity:
    return RunIdentity({**SETTINGS, **settings}, dict(WEIGHTS), dict(SIZES), {"c3d-extract": "0.1.0"})


def video_row(
    name: str, status: Status = "ok", version: int = 0, sizes: dict[str, int] | None = None
) -> VideoRow:
    """Return a row whose values follow from its name and version alone."""
    rng = np.random.default_rng(int(hashlib.sha256(f"{name} {version}".encode()).hexdigest()[:8], 16))
    features = {layer: rng.random(size, dtype=np.float32) for layer, size in (sizes or SIZES).items()}
    return VideoRow(
        video=name,
        status=status,
        error=None if status == "ok" else "decoder crashed: SIGSEGV",
        seconds=0.25,
        features={} if status == "failed" else features,
        n_clips=int(rng.integers(1, 5)),
        n_frames=100 + version,
        n_padded_frames=3,
        n_decode_errors=0 if status == "ok" else 2,
        fps=25.0,
        duration_seconds=float("nan"),
        width=320,
        height=240,
        size_bytes=1000 + version,
        mtime_ns=1_700_000_000_000_000_000 + version,
    )


def clip_rows(row: VideoRow, start: int = 0, end: int | None = None) -> ClipRows:
    clips = np.arange(start, row.n_clips if end is None else end)
    features = {layer: np.outer(clips + 1, x).astype(np.float32) for layer, x in row.features.items()}
    seconds = clips.astype(np.float64) * 0.64
    crop = np.zeros(len(clips), np.int32)
    return ClipRows(clips * 16, clips * 16 + 16, seconds, seconds + 0.64, features, crop)


def record(store: RunStore, row: VideoRow) -> None:
    """Write one video as a run does: its clips in two pieces, then its row."""
    if row.features:
        store.append_clips(row.video, clip_rows(row, 0, 1))
        store.append_clips(row.video, clip_rows(row, 1))
    store.commit(row)


def open_store(output: Path, identity: RunIdentity, **options: Any) -> RunStore:
    return RunStore.open(StoreOptions(output, **options), identity)


def preview_store(output: Path, identity: RunIdentity | None, **options: Any) -> RunStore:
    return RunStore.preview(StoreOptions(output, **options), identity)


def write(output: Path, rows: Iterable[VideoRow], *, complete: bool = True, **options: Any) -> Summary:
    """Open a store, write rows into it and finish it."""
    with open_store(output, options.pop("identity", identity()), **options) as store:
        for row in rows:
            record(store, row)
        return store.finish(complete=complete)


def start_writer(output: Path, n: int, *options: str, **pipes: Any) -> subprocess.Popen[str]:
    """Start this program, see `main`."""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1]), "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, __file__, str(output), str(n), *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, **pipes)


def run_forked(output: Path, n: int, *options: str) -> int:
    """Run `main` in a fork of this process, which has all imports; return the signal that ended it, or 0."""
    child = os.fork()
    if child == 0:
        try:
            main(str(output), str(n), *options)
        finally:
            os._exit(0)
    return os.WTERMSIG(os.waitpid(child, 0)[1])


def said(writer: subprocess.Popen[str]) -> list[str]:
    return writer.communicate(timeout=60)[0].splitlines()


def is_done(store: RunStore, row: VideoRow) -> str | None:
    return store.is_done(row.video, row.size_bytes, row.mtime_ns)


def datasets(path: Path) -> dict[str, Any]:
    """Return every dataset as bytes, with its type and shape."""
    with h5py.File(path, "r") as file:
        return {
            name: (
                data.asstr()[()].tolist() if name == "video" else data[()].tobytes(),
                data.shape,
                str(data.dtype),
            )
            for name, data in file.items()
        }


def sample_rows(n: int) -> list[VideoRow]:
    statuses: tuple[Status, ...] = ("ok", "ok", "partial", "ok", "failed")
    return [video_row(f"folder {i % 3}/ü {i:03d}.avi", statuses[i % 5]) for i in range(n)]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def begin(output: Path, rows: list[VideoRow], **options: Any) -> None:
    """Commit rows and leave the run unfinished."""
    with open_store(output, identity(), **options) as store:
        for row in rows:
            record(store, row)


def pca_features(n: int, d: int, seed: int = 0) -> NDArray[np.float32]:
    """Rows as fc6 gives them: not negative, a third zero, of unlike variances."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, d)) * np.linspace(3, 0.2, d) + rng.standard_normal(d)
    return np.maximum(X, 0).astype(np.float32)


def sample_basis() -> PcaBasis:
    return fit({"fc6": lambda: [pca_features(20, 12)], "fc7": lambda: [pca_features(20, 6, seed=1)]}, 3)


ROWS = sample_rows(5)


def half_done_runs(root: Path) -> dict[str, Path]:
    """Make the folders of a whole run, of one left after three of five videos, and of one killed there."""
    folders = {name: root / name for name in ("whole", "left", "killed")}
    write(folders["whole"] / "feats.h5", ROWS, clips=folders["whole"] / "clips.h5")
    with open_store(folders["left"] / "feats.h5", identity(), clips=folders["left"] / "clips.h5") as store:
        for row in ROWS[:3]:
            record(store, row)
        shutil.copytree(folders["left"], folders["killed"])  # what kill -9 leaves
    return folders


def main(output: str, n: str, *options: str) -> None:
    """Write ``n`` videos.

    ``pause=S`` sleeps before each; ``hold=1`` waits for stdin to close, with the output open;
    ``wait=1`` waits for a line of stdin before that;
    ``die=before:2`` kills itself at the second file to be put in place;
    ``limit=journal|finish`` lets no file grow any more, from soon after the start or from the end on.
    """
    chosen = dict(option.split("=") for option in options)
    if "wait" in chosen:
        say("ready")
        sys.stdin.readline()
    clips = Path(output).with_name("clips.h5")
    with open_store(Path(output), identity(), clips=clips, pca=4, l2=True) as store:
        say("open")
        if "hold" in chosen:
            sys.stdin.read()
            return
        if chosen.get("limit") == "journal":
            resource.setrlimit(resource.RLIMIT_FSIZE, (120_000, 120_000))
        for row in sample_rows(int(n)):
            if is_done(store, row) is None:
                time.sleep(float(chosen.get("pause", 0)))
                say(f"do {row.video}")
                record(store, row)
                say(f"done {row.video}")
        if "die" in chosen:
            die_at(*chosen["die"].split(":"))
        if chosen.get("limit") == "finish":
            resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))
        store.finish(complete=True)
    say("finished")


def die_at(when: str, count: str) -> None:
    replace, left = Path.replace, int(count)

    def replace_or_die(self: Path, target: Path) -> Path:
        nonlocal left
        left -= 1
        if left or when == "after":
            replace(self, target)
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)
        return target

    Path.replace = replace_or_die  # type: ignore[assignment,method-assign]


def say(line: str) -> None:
    print(line, flush=True)  # noqa: T201 - this is what the test reads


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except C3DError as error:
        say(f"{type(error).__name__}: {error}")
        sys.exit(1)
