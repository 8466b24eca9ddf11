"""Several runs of one Extractor at a time: each has the features that it would have alone, to the bit."""

from __future__ import annotations

import itertools
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import pytest
from conftest import LENGTHS, MEAN, moving_square

from c3d_extract import Extractor, FeatureFile
from c3d_extract.decode import write_video
from c3d_extract.errors import DecoderError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray


@pytest.fixture(scope="module")
def extractor(narrow_weights: Path) -> Iterator[Extractor]:
    with make(narrow_weights) as made:
        yield made


@pytest.fixture(scope="module")
def alone(extractor: Extractor, videos: Path) -> dict[str, NDArray[np.float32]]:
    """Each video's clips, from runs that follow one another."""
    return {name: extractor.extract(videos / name).clips for name in LENGTHS}


@pytest.fixture(scope="module")
def long_video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """So long that no run is through with it before the other begins."""
    path = tmp_path_factory.mktemp("long") / "long.mp4"
    write_video(path, (frame for _ in range(20) for frame in moving_square(40, seed=9)), fps=25)
    return path


def make(weights: Path, workers: int = 1) -> Extractor:
    return Extractor.from_weights(
        str(weights), mean=MEAN, device="cpu", precision="fp32", workers=workers, batch_size=4
    )


def rows(path: Path) -> dict[str, NDArray[np.float32]]:
    with FeatureFile(path) as file:
        return dict(zip(file.videos, file["fc6"], strict=True))


def assert_rows_are(path: Path, alone: dict[str, NDArray[np.float32]], names: set[str]) -> None:
    found = rows(path)
    assert set(found) == names
    for name, row in found.items():
        mean = (alone[name].sum(axis=0, dtype=np.float64) / len(alone[name])).astype(np.float32)
        np.testing.assert_array_equal(row, mean, err_msg=name)


@pytest.mark.parametrize("workers", [0, 1])
def test_two_runs_that_take_turns_write_the_files_of_two_runs_one_after_the_other(
    narrow_weights: Path, videos: Path, alone: dict[str, NDArray[np.float32]], tmp_path: Path, workers: int
) -> None:
    with make(narrow_weights, workers) as extractor:
        one = extractor.extract_files([videos], tmp_path / "one.h5", clips=tmp_path / "one.clips.h5")
        other = extractor.extract_files([videos / "long.mp4", videos / "a" / "two.mp4"], tmp_path / "two.h5")
        for outcomes in itertools.zip_longest(one, other):
            assert {outcome.status for outcome in outcomes if outcome} == {"ok"}
    assert_rows_are(tmp_path / "one.h5", alone, set(LENGTHS))
    assert_rows_are(tmp_path / "two.h5", alone | {"two.mp4": alone["a/two.mp4"]}, {"long.mp4", "two.mp4"})
    with FeatureFile(tmp_path / "one.clips.h5") as clips:
        names, features = np.array(clips.videos), clips["fc6"]
    for name, expected in alone.items():
        np.testing.assert_array_equal(features[names == name], expected)


def test_one_video_within_the_loop_over_many(
    extractor: Extractor, videos: Path, alone: dict[str, NDArray[np.float32]], tmp_path: Path
) -> None:
    for outcome in extractor.extract_files([videos], tmp_path / "feats.h5"):
        found = extractor.extract(outcome.path).clips
        np.testing.assert_array_equal(found, alone[outcome.video])
    assert_rows_are(tmp_path / "feats.h5", alone, set(LENGTHS))


def test_threads_that_extract_at_once(
    narrow_weights: Path, videos: Path, alone: dict[str, NDArray[np.float32]]
) -> None:
    begin = threading.Barrier(4)
    with make(narrow_weights) as extractor:  # new: its networks are built by four threads at once, too

        def extract(name: str) -> NDArray[np.float32]:
            begin.wait()
            return extractor.extract(videos / name).clips

        names = ["long.mp4", "mid.mp4", "a/two.mp4", "long.mp4"] * 2
        with ThreadPoolExecutor(4) as threads:
            for name, found in zip(names, threads.map(extract, names), strict=True):
                np.testing.assert_array_equal(found, alone[name])
        assert len(extractor.networks) == 1


def test_an_abandoned_run_does_not_hold_up_the_next_ones(
    extractor: Extractor, videos: Path, alone: dict[str, NDArray[np.float32]], tmp_path: Path
) -> None:
    abandoned = iter(extractor.extract_files([videos], tmp_path / "one.h5"))
    first = next(abandoned)  # and it stays where it is
    list(extractor.extract_files([videos], tmp_path / "two.h5"))
    assert_rows_are(tmp_path / "two.h5", alone, set(LENGTHS))
    abandoned.close()
    finished = set(rows(tmp_path / "one.h5"))  # what ended with the first batch is stored together
    assert first.video in finished
    assert_rows_are(tmp_path / "one.h5", alone, finished)


def test_an_extractor_closed_in_the_midst_of_a_run_ends_it_with_what_was_finished(
    narrow_weights: Path, videos: Path, long_video: Path, tmp_path: Path
) -> None:
    extractor = make(narrow_weights)
    later = tmp_path / "z.mp4"
    later.symlink_to(long_video)
    run = iter(extractor.extract_files([videos / "a" / "one.mp4", later], tmp_path / "feats.h5"))
    first = next(run)
    extractor.close()
    with pytest.raises(UsageError, match="was closed while a run was in progress"):
        list(run)
    assert list(rows(tmp_path / "feats.h5")) == [first.video]


def test_an_extractor_closed_by_another_thread_ends_a_run_that_waits(
    narrow_weights: Path, long_video: Path
) -> None:
    extractor = make(narrow_weights)
    with ThreadPoolExecutor(1) as thread:
        found = thread.submit(extractor.extract, long_video)
        while not extractor._streams:
            time.sleep(0.01)
        extractor.close()
        with pytest.raises(UsageError, match="was closed while a run was in progress"):
            found.result(timeout=30)
    with pytest.raises(UsageError, match="is closed"):
        extractor.extract(long_video)


def test_a_pool_of_decoders_takes_one_run_at_a_time(extractor: Extractor, videos: Path) -> None:
    with extractor._decoders.lend(1, extractor.networks) as pool:
        going = pool.run([(0, videos / "long.mp4")])
        next(going)
        with pytest.raises(DecoderError, match="used by two runs at a time"):
            next(pool.run([(0, videos / "mid.mp4")]))
        going.close()
