"""Batches are as large as each device takes them, none waits without need, and results keep their order."""

from __future__ import annotations

import queue
import threading
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from conftest import MEAN

from c3d_extract import Extractor
from c3d_extract.compute.network import Network
from c3d_extract.decode import VideoFailed
from c3d_extract.models.c3d import Architecture
from c3d_extract.pipeline.feeder import Batch, BatchClip, VideoEnd
from c3d_extract.pipeline.results import Progress
from c3d_extract.pipeline.scheduler import Scheduler
from c3d_extract.pipeline.stream import _largest_batch
from c3d_extract.preprocess.clips import ClipAssembler, FrameBlock

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    import pytest
    import torch
    from numpy.typing import NDArray

    from c3d_extract.compute.clip_frames import Pieces
    from c3d_extract.compute.network import Pending
    from c3d_extract.pipeline.feeder import Feeder


class _Pending:
    """A batch on a device that is done with it when it is told so."""

    def __init__(self, clips: Sequence[Pieces]) -> None:
        self.clips = np.stack([pieces[0].frames for pieces in clips])
        self.is_done = threading.Event()
        self.has_read = False

    def is_read(self) -> bool:
        return self.has_read

    def done(self) -> bool:
        return self.is_done.is_set()

    def result(self) -> dict[str, NDArray[np.float32]]:
        assert self.is_done.wait(5), "waited for a result while a batch was ready"
        return {"fc6": self.clips.astype(np.float32)}


class _Network:
    device = SimpleNamespace(type="cpu")

    def __init__(self, batch_size: int = 1) -> None:
        self.batch_size = batch_size
        self.submitted: queue.Queue[_Pending] = queue.Queue()

    def submit(self, clips: Sequence[Pieces], _: Sequence[int] = ()) -> Pending:
        pending = _Pending(clips)
        self.submitted.put(pending)
        return cast("Pending", pending)


def _feeder(queued: queue.Queue[Any]) -> Feeder:
    return cast("Feeder", SimpleNamespace(next=partial(queued.get, True), is_empty=queued.empty))


def _batch(value: int, release: Callable[[], None] = lambda: None) -> Batch:
    block = FrameBlock(np.full((1, 1, 1, 3), value, np.uint8), release)
    (clip,) = ClipAssembler(1, 1, "drop", "pad").push(block, [0.0])
    return Batch([BatchClip(0, clip)])


def test_a_batch_that_comes_while_another_runs_is_started_at_once_and_results_keep_their_order() -> None:
    network, queued = _Network(), queue.Queue[Any]()
    found: list[float] = []

    def consume() -> None:
        results = Scheduler([cast("Network", network)], _feeder(queued), Progress()).results()
        found.extend(float(result.features["fc6"].flat[0]) for result in results)

    consumer = threading.Thread(target=consume, daemon=True)
    consumer.start()
    queued.put(_batch(1))
    first = network.submitted.get(timeout=5)
    queued.put(_batch(2))
    second = network.submitted.get(timeout=2)  # though the first is not done and nothing was queued before
    second.is_done.set()
    consumer.join(0.05)
    assert found == []
    first.is_done.set()
    queued.put(None)
    consumer.join(5)
    assert found == [1, 2]


def test_a_result_is_taken_while_no_batch_comes() -> None:
    network, queued, progress = _Network(), queue.Queue[Any](), Progress()
    results = Scheduler([cast("Network", network)], _feeder(queued), progress).results()
    queued.put(_batch(7))

    def finish() -> None:
        network.submitted.get().is_done.set()

    threading.Timer(0.05, finish).start()
    assert next(results).features["fc6"].flat[0] == 7
    assert progress.network_seconds > 0.02
    assert progress.waiting_seconds < 0.02


def test_ends_of_videos_come_together_with_and_after_the_batch_that_they_follow() -> None:
    network, queued = _Network(), queue.Queue[Any]()
    results = Scheduler([cast("Network", network)], _feeder(queued), Progress()).results()
    before, inside, *after = (VideoEnd(VideoFailed(task, "broken", 0.0), 0) for task in range(4))
    batch = _batch(5)
    batch.ends.append(inside)
    for item in (before, batch, *after, None):
        queued.put(item)

    def finish() -> None:
        network.submitted.get().is_done.set()

    threading.Timer(0.02, finish).start()
    assert next(results) == (None, {}, [before])
    found = next(results)
    assert found.batch is batch
    assert found.ends == [inside, *after]
    assert list(results) == []


def test_a_gpu_has_a_third_batch_while_the_main_process_writes_results() -> None:
    network, queued = _Network(), queue.Queue[Any]()
    network.device = SimpleNamespace(type="cuda")
    results = Scheduler([cast("Network", network)], _feeder(queued), Progress()).results()
    for value in range(4):
        queued.put(_batch(value))
    consumer = threading.Thread(target=results.__next__, daemon=True)
    consumer.start()
    pending = [network.submitted.get(timeout=5) for _ in range(3)]
    pending[0].is_done.set()
    consumer.join(5)
    assert not consumer.is_alive()


def test_batches_are_as_large_as_the_device_with_most_memory_takes_them() -> None:
    networks = [_Network(2), _Network(8), _Network(4)]
    assert _largest_batch(cast("list[Network]", networks)) == 8
    networks[1].batch_size = 1
    assert _largest_batch(cast("list[Network]", networks)) == 4


def test_frames_are_let_go_of_as_soon_as_the_device_has_read_them() -> None:
    network, queued, freed = _Network(), queue.Queue[Any](), threading.Event()
    results = Scheduler([cast("Network", network)], _feeder(queued), Progress()).results()
    consumer = threading.Thread(target=lambda: list(results), daemon=True)
    consumer.start()
    queued.put(_batch(1, freed.set))
    pending = network.submitted.get(timeout=5)
    assert not freed.wait(0.05), "it has not read them yet"
    pending.has_read = True
    assert freed.wait(5), "though it is not done"
    pending.is_done.set()
    queued.put(None)
    consumer.join(5)


def test_frames_are_let_go_of_with_the_result_where_the_network_reads_them_itself() -> None:
    network, queued, freed = _Network(), queue.Queue[Any](), threading.Event()
    results = Scheduler([cast("Network", network)], _feeder(queued), Progress()).results()
    queued.put(_batch(1, freed.set))

    def finish() -> None:
        network.submitted.get().is_done.set()

    threading.Timer(0.02, finish).start()
    next(results)
    assert freed.is_set()


def test_a_device_that_backs_off_leaves_the_other_its_batches(
    narrow_weights: Path, videos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    video = videos / "long.mp4"
    monkeypatch.setattr(Architecture, "cpu_network", lambda *_, **__: None)  # as on a GPU
    run, submit = Network._run, Network.submit
    given: list[int] = []
    with Extractor.from_weights(
        str(narrow_weights), mean=MEAN, device="cpu,cpu", precision="fp32", batch_size=2
    ) as extractor:
        expected = extractor.extract(video).clips
        small, large = extractor.networks

        def small_memory(self: Network, model: Any, x: torch.Tensor) -> dict[str, torch.Tensor]:
            if self is small and len(x) > 1:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return run(self, model, x)

        def counted(self: Network, clips: Sequence[Pieces], crops: Sequence[int]) -> Pending:
            given.append(len(clips))
            return submit(self, clips, crops)

        monkeypatch.setattr(Network, "_run", small_memory)
        monkeypatch.setattr(Network, "submit", counted)
        extractor.extract(video)  # the small one backs off
        given.clear()
        found = extractor.extract(video).clips
        assert (small.batch_size, large.batch_size) == (1, 2)
    assert given == [2, 2, 2]
    assert np.linalg.norm(found - expected) < 1e-5 * np.linalg.norm(expected)
