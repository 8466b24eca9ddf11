"""Batches are as large as each device takes them, none waits without need, and results keep their order."""

from __future__ import annotations

import queue
import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from conftest import MEAN

from c3d_extract import Extractor
from c3d_extract.compute.network import Network
from c3d_extract.pipeline.feeder import Batch
from c3d_extract.pipeline.results import Progress
from c3d_extract.pipeline.scheduler import Scheduler
from c3d_extract.pipeline.stream import _largest_buffer

if TYPE_CHECKING:
    from pathlib import Path

    import pytest
    import torch
    from numpy.typing import NDArray

    from c3d_extract.compute.network import Pending
    from c3d_extract.pipeline.feeder import Feeder


class _Pending:
    """A batch on a device that is done with it when it is told so."""

    def __init__(self, clips: NDArray[np.uint8]) -> None:
        self.clips = clips
        self.is_done = threading.Event()

    def done(self) -> bool:
        return self.is_done.is_set()

    def result(self) -> dict[str, NDArray[np.float32]]:
        assert self.is_done.wait(5), "waited for a result while a batch was ready"
        return {"fc6": self.clips.astype(np.float32)}


class _Network:
    def __init__(self, batch_size: int = 1) -> None:
        self.batch_size = batch_size
        self.submitted: queue.Queue[_Pending] = queue.Queue()

    def new_batch(self) -> NDArray[np.uint8]:
        return np.zeros((self.batch_size, 1), np.uint8)

    def submit(self, clips: NDArray[np.uint8], _n: int) -> Pending:
        pending = _Pending(clips)
        self.submitted.put(pending)
        return cast("Pending", pending)


def _feeder(queued: queue.Queue[Any]) -> Feeder:
    return cast("Feeder", SimpleNamespace(queue=queued))


def _batch(value: int) -> Batch:
    return Batch(np.array([[value]], np.uint8))


def test_a_batch_that_comes_while_another_runs_is_started_at_once_and_results_keep_their_order() -> None:
    network, queued = _Network(), queue.Queue[Any]()
    found: list[float] = []

    def consume() -> None:
        results = Scheduler([cast("Network", network)], _feeder(queued), Progress()).results()
        found.extend(float(result.features["fc6"][0, 0]) for result in results)

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
    assert next(results).features["fc6"][0, 0] == 7
    assert progress.network_seconds > 0.02
    assert progress.waiting_seconds < 0.02


def test_batches_are_as_large_as_the_device_with_most_memory_takes_them() -> None:
    networks = [_Network(2), _Network(8), _Network(4)]
    assert len(_largest_buffer(cast("list[Network]", networks))) == 8
    networks[1].batch_size = 1
    assert len(_largest_buffer(cast("list[Network]", networks))) == 4


def test_a_device_that_backs_off_leaves_the_other_its_batches(
    narrow_weights: Path, videos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    video = videos / "long.mp4"
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

        def counted(self: Network, clips: NDArray[np.uint8], n: int) -> Pending:
            given.append(len(clips))
            return submit(self, clips, n)

        monkeypatch.setattr(Network, "_run", small_memory)
        monkeypatch.setattr(Network, "submit", counted)
        extractor.extract(video)  # the small one backs off
        given.clear()
        found = extractor.extract(video).clips
        assert (small.batch_size, large.batch_size) == (1, 2)
    assert given == [2, 2, 2]
    assert np.linalg.norm(found - expected) < 1e-5 * np.linalg.norm(expected)
