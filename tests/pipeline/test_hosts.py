"""An Extractor in other programs: Pools, DataLoader workers, joblib, forks, event loops, notebooks.

docs/pipelines.md lists them; Ray's tasks are in tests/distributed/ray_cases.py.
"""

from __future__ import annotations

import asyncio
import functools
import multiprocessing
import os
import pickle
import sys
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nbclient
import nbformat
import numpy as np
import pytest
import torch

from c3d_extract import Extractor
from c3d_extract.decode import (
    DecodeOptions,
    DecodePool,
    FramesDecoded,
    InProcessDecoder,
    VideoFailed,
    VideoRead,
)
from c3d_extract.errors import UsageError
from c3d_extract.preprocess.resize import FrameSampler
from c3d_extract.preprocess.spec import Preprocessing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from c3d_extract.decode import Decoder

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="forks, and looks at processes"),
]
SECONDS = 60  # until a host counts as hanging


@functools.cache
def extractor(_: int) -> Extractor:
    return Extractor.from_weights("motion-mini", device="cpu", precision="fp32", offline=True)


def clips_and_workers(video: Path) -> tuple[NDArray[np.float32], int]:
    """What a host's process runs: its own Extractor's features, and how it decodes."""
    mine = extractor(os.getpid())
    clips = mine.extract(video).clips
    np.testing.assert_array_equal(mine.extract(video.read_bytes()).clips, clips)
    return clips, mine.workers


@pytest.fixture(scope="module")
def video(videos: Path) -> Path:
    return videos / "a" / "two.mp4"


@pytest.fixture(scope="module")
def expected(video: Path) -> NDArray[np.float32]:
    """The features in this process, which decodes in processes of its own."""
    clips, workers = clips_and_workers(video)
    assert workers > 0
    return clips


@pytest.mark.parametrize("how", ["fork", "spawn"])
def test_in_a_multiprocessing_pool_videos_are_decoded_in_the_process_itself(
    video: Path, expected: NDArray[np.float32], how: str
) -> None:
    with multiprocessing.get_context(how).Pool(1) as pool:
        clips, workers = pool.apply_async(clips_and_workers, [video]).get(SECONDS)
    assert workers == 0
    np.testing.assert_array_equal(clips, expected)


def test_in_a_process_pool_of_concurrent_futures(video: Path, expected: NDArray[np.float32]) -> None:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        clips, workers = pool.submit(clips_and_workers, video).result(SECONDS)
    assert workers > 0, "it may have children"
    np.testing.assert_array_equal(clips, expected)


def test_in_threads_of_a_server(video: Path, expected: NDArray[np.float32]) -> None:
    with ThreadPoolExecutor(3) as threads:
        for clips, _ in threads.map(clips_and_workers, [video] * 3, timeout=SECONDS):
            np.testing.assert_array_equal(clips, expected)


def test_in_the_threads_of_an_event_loop(video: Path, expected: NDArray[np.float32]) -> None:
    async def serve() -> list[tuple[NDArray[np.float32], int]]:
        requests = (asyncio.to_thread(clips_and_workers, video) for _ in range(3))
        return await asyncio.wait_for(asyncio.gather(*requests), SECONDS)

    for clips, _ in asyncio.run(serve()):
        np.testing.assert_array_equal(clips, expected)


def test_in_the_thread_of_a_running_event_loop_as_in_a_cell_of_jupyter(
    video: Path, expected: NDArray[np.float32], tmp_path: Path
) -> None:
    async def cell() -> None:
        clips, workers = clips_and_workers(video)
        assert workers > 0
        np.testing.assert_array_equal(clips, expected)
        outcomes = list(extractor(os.getpid()).extract_files([video], tmp_path / "feats.h5"))
        assert [outcome.status for outcome in outcomes] == ["ok"]

    asyncio.run(cell())


def test_in_a_real_notebook(video: Path, expected: NDArray[np.float32], tmp_path: Path) -> None:
    np.save(tmp_path / "expected.npy", expected)
    source = f"""
import numpy as np
from c3d_extract import Extractor
extractor = Extractor.from_weights("motion-mini", device="cpu", precision="fp32", offline=True)
assert (extractor.extract({str(video)!r}).clips == np.load({str(tmp_path / "expected.npy")!r})).all()"""
    v4: Any = nbformat.v4  # its functions have no types
    notebook = v4.new_notebook(cells=[v4.new_code_cell(source)])
    nbclient.NotebookClient(notebook, timeout=SECONDS).execute()


def add_features(row: dict[str, Any]) -> dict[str, Any]:
    clips, _ = clips_and_workers(Path(row["path"]))
    return {"features": clips}


def test_in_the_processes_of_hugging_faces_map(video: Path, expected: NDArray[np.float32]) -> None:
    datasets = pytest.importorskip("datasets")
    rows = datasets.Dataset.from_dict({"path": [str(video)] * 2})
    for found in rows.map(add_features, num_proc=2, load_from_cache_file=False).with_format("numpy"):
        np.testing.assert_array_equal(found["features"], expected)


def test_decoders_that_were_asked_for_start_in_a_daemonic_process_too(
    video: Path, expected: NDArray[np.float32]
) -> None:
    with multiprocessing.get_context("fork").Pool(1) as pool:
        clips = pool.apply_async(clips_with_a_decoder, [video]).get(SECONDS)
    np.testing.assert_array_equal(clips, expected)


def clips_with_a_decoder(video: Path) -> NDArray[np.float32]:
    with Extractor.from_weights(
        "motion-mini", device="cpu", precision="fp32", offline=True, workers=1
    ) as mine:
        return mine.extract(video).clips


class Videos(torch.utils.data.Dataset[Any]):
    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        clips, workers = clips_and_workers(self.paths[index])
        return torch.from_numpy(clips), workers


def test_in_a_data_loaders_worker(video: Path, expected: NDArray[np.float32]) -> None:
    loader = torch.utils.data.DataLoader(
        Videos([video]), batch_size=None, num_workers=1, multiprocessing_context="fork", timeout=SECONDS
    )
    ((clips, workers),) = list(loader)
    assert workers == 0
    np.testing.assert_array_equal(clips.numpy(), expected)


def test_in_joblibs_processes_decoders_have_processes_of_their_own(
    video: Path, expected: NDArray[np.float32]
) -> None:
    joblib = pytest.importorskip("joblib")
    with joblib.Parallel(n_jobs=2, backend="loky", timeout=SECONDS) as parallel:
        ((clips, workers),) = parallel([joblib.delayed(clips_and_workers)(video)])
    assert workers > 0
    np.testing.assert_array_equal(clips, expected)


def test_in_a_fork_of_a_process_that_has_decoders_and_has_computed(
    video: Path, expected: NDArray[np.float32]
) -> None:
    with ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as pool:
        clips, workers = pool.submit(clips_and_workers, video).result(SECONDS)
    assert workers > 0, "it may have children"
    np.testing.assert_array_equal(clips, expected)


def test_a_fork_refuses_its_parents_extractor_and_leaves_it_alone(
    video: Path, expected: NDArray[np.float32]
) -> None:
    parents = extractor(os.getpid())
    with multiprocessing.get_context("fork").Pool(1) as pool:
        said = pool.apply_async(use_of_a_parents_extractor, [os.getpid(), video]).get(SECONDS)
    assert (
        said
        == f"Extractor: belongs to process {os.getpid()}, of which this is a fork; make one in each process"
    )
    np.testing.assert_array_equal(parents.extract(video).clips, expected)


def use_of_a_parents_extractor(parent: int, video: Path) -> str:
    with extractor(parent) as parents:  # cached before the fork
        try:
            parents.extract(video)
        except UsageError as error:
            return str(error)
    return "nothing"


def test_an_extractor_that_was_not_used_yet_can_be_sent_to_another_process(
    video: Path, expected: NDArray[np.float32]
) -> None:
    with Extractor.from_weights("motion-mini", device="cpu", precision="fp32", offline=True) as made:
        with multiprocessing.get_context("fork").Pool(1) as pool:
            found = pool.apply_async(made.extract, [video]).get(SECONDS)
        np.testing.assert_array_equal(found.clips, expected)
        made.extract(video)
        with pytest.raises(UsageError, match="was used, so it cannot be sent to another process"):
            pickle.dumps(made)


def events(decoder: Decoder, paths: Sequence[Path]) -> list[Any]:
    """Every event of one video after the other, with copies of frames and without seconds."""
    found: list[Any] = []
    for event in decoder.run(enumerate(paths)):
        if isinstance(event, FramesDecoded):
            found.append((event.task, event.frames.tobytes(), event.times_seconds))
        elif isinstance(event, VideoFailed):
            found.append((event.task, event.reason))
        elif isinstance(event, VideoRead):
            facts = event.info, event.n_decoded, event.n_decode_errors, event.trouble
            found.append((event.task, *facts))
    return found


@pytest.mark.parametrize("fps", [None, 10.0])
def test_decoding_in_the_process_gives_the_events_of_a_decoder_process(
    videos: Path, tmp_path: Path, fps: float | None
) -> None:
    (tmp_path / "text.mp4").write_text("no video")
    paths = [
        videos / "a" / "two.mp4",
        tmp_path / "text.mp4",
        videos / "b" / "short.mp4",
        tmp_path / "gone.mp4",
    ]
    options = DecodeOptions(FrameSampler(Preprocessing()), 16, fps=fps)
    with DecodePool(1, options) as pool:
        assert events(InProcessDecoder(options), paths) == events(pool, paths)
