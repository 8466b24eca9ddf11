"""Fixtures that several test files share."""

from __future__ import annotations

import os
import signal
import sqlite3
from functools import partial
from math import prod
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from c3d_extract import object_store

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray
    from s3_server import S3

os.environ["C3D_OFFLINE"] = "1"  # no test reaches for a network
if "PYTEST_XDIST_WORKER" in os.environ:  # several test processes share the cores
    os.environ.setdefault("OMP_NUM_THREADS", "1")
# A shell's background job ignores Ctrl-C, and so would every run that its tests start.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
MEAN = "100.61,108.05,107.81"


class UnsyncedConnection(sqlite3.Connection):
    """Commits without waiting for the disk."""

    def execute(self, sql: str, *values: Any) -> sqlite3.Cursor:
        return super().execute(sql.replace("synchronous = FULL", "synchronous = OFF"), *values)


@pytest.fixture(scope="module")
def s3_server_of_module() -> Iterator[S3]:
    from s3_server import s3_server  # here, since few tests need what it imports

    with s3_server() as found:
        yield found


@pytest.fixture
def s3(s3_server_of_module: S3, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3]:
    """A bucket without objects on a server without faults, with all counts at zero; tries follow at once."""
    monkeypatch.setattr(object_store, "_FIRST_PAUSE_SECONDS", 0.01)
    s3_server_of_module.clear()
    s3_server_of_module.server.requests.clear()
    yield s3_server_of_module
    s3_server_of_module.server.fault = lambda _: None


@pytest.fixture(scope="session", autouse=True)
def _no_waiting_for_the_disk() -> Iterator[None]:
    """What fsync protects against, a loss of power, happens in no test; two tests see that it is called."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        patch.setattr(sqlite3, "connect", partial(sqlite3.connect, factory=UnsyncedConnection))
        yield


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """The feature file of a run that has not begun."""
    return tmp_path / "feats.h5"


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let commands write tables as on a terminal of 80 columns."""
    from c3d_extract.cli import tables

    monkeypatch.setattr(tables, "sys", SimpleNamespace(stdout=SimpleNamespace(isatty=lambda: True)))
    monkeypatch.setenv("COLUMNS", "80")


@pytest.fixture
def two_threads() -> Iterator[None]:
    """Let torch share work between two cores, however many test processes there are."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real test videos, which are not part of the project; skips where it is absent."""
    if not SHARED.is_dir():
        pytest.skip("needs the real test videos in ../shared/data")
    return SHARED


def moving_square(
    n_frames: int, *, height: int = 48, width: int = 64, seed: int = 0
) -> list[NDArray[np.uint8]]:
    """Render a bright square that moves over a fixed texture: uint8 (H, W, 3), R, G, B."""
    ground = np.random.default_rng(seed).integers(0, 160, (height, width, 3), dtype=np.uint8)
    frames = []
    for i in range(n_frames):
        frame = ground.copy()
        left = (3 * i + 7 * seed) % (width - 12)
        frame[height // 3 : height // 3 + 12, left : left + 12] = (250, 230 - 10 * seed % 200, 40)
        frames.append(frame)
    return frames


LENGTHS = {
    "a/one.mp4": 16,
    "a/two.mp4": 40,
    "b/one.mp4": 33,
    "b/short.mp4": 5,
    "long.mp4": 100,
    "mid.mp4": 48,
}
"""Name → frames of the small videos of the `videos` fixture."""


@pytest.fixture(scope="session")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of six small videos, 5 to 100 frames long; do not write into it."""
    from c3d_extract.decode import write_video

    root = tmp_path_factory.mktemp("videos")
    for seed, (name, n_frames) in enumerate(LENGTHS.items()):
        path = root / name
        path.parent.mkdir(exist_ok=True)
        write_video(path, moving_square(n_frames, seed=seed), fps=25)
    return root


@pytest.fixture(scope="session")
def narrow_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random C3D a sixteenth as wide, as a state dict in DavideA's layout."""
    import torch

    from c3d_extract.models.c3d import ARCHITECTURES

    generator = torch.Generator().manual_seed(0)
    state = {}
    for name, shape in ARCHITECTURES["c3d"].scaled(1 / 16).state_shapes().items():
        key = name.replace("conv1a", "conv1").replace("conv2a", "conv2")
        if name.endswith("weight"):
            state[key] = torch.randn(shape, generator=generator) * (2 / prod(shape[1:])) ** 0.5
        else:
            state[key] = torch.rand(shape, generator=generator) * 0.1
    path = tmp_path_factory.mktemp("weights") / "narrow.pickle"
    torch.save(state, path)
    return path
