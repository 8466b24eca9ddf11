"""Clips as a dataset of torch: those of extraction, shared by workers and processes, shuffled by epoch."""

from __future__ import annotations

import shutil
from collections import Counter
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from conftest import LENGTHS
from tiny_network import tiny_checkpoint
from torch import distributed, nn
from torch.utils.data import DataLoader

from c3d_extract import ClipDataset, Extractor, ExtractSettings, load_checkpoint
from c3d_extract.errors import UsageError, VideoError, WeightsError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

SETTINGS = ExtractSettings(stride=8, tail="back")


def made(videos: Path, **options: Any) -> ClipDataset:
    return ClipDataset([videos], tiny_checkpoint(), settings=SETTINGS, **options)


def keys(items: Iterable[Any]) -> list[tuple[str, int]]:
    return [(item.video, int(item.start_frame)) for item in items]


def keys_of_batches(loader: DataLoader[Any]) -> list[tuple[str, int]]:
    return [pair for batch in loader for pair in zip(batch.video, batch.start_frame.tolist(), strict=True)]


def test_a_network_makes_the_features_of_extraction_from_its_clips(videos: Path) -> None:
    checkpoint = tiny_checkpoint()
    network = checkpoint.build().eval()
    batches = list(DataLoader(made(videos), batch_size=7))
    assert batches[0].clip.shape == (7, 3, 8, 24, 32)
    with torch.inference_mode():
        found = np.concatenate([network(batch.clip, ["pooled"])["pooled"].numpy() for batch in batches])
    with Extractor(checkpoint, SETTINGS, device="cpu", precision="fp32") as extractor:
        expected = [extractor.extract(videos / name) for name in sorted(LENGTHS)]
    np.testing.assert_allclose(found, np.concatenate([each.clips for each in expected]), rtol=1e-5, atol=1e-5)
    starts = [start for batch in batches for start in batch.start_frame.tolist()]
    np.testing.assert_array_equal(starts, np.concatenate([each.start_frames for each in expected]))


def test_labels_are_folders_or_what_is_given(videos: Path) -> None:
    dataset = made(videos)
    assert dataset.classes == ["", "a", "b"]
    assert {item.video: item.label for item in dataset} == {
        name: ["", "a", "b"].index(name.rpartition("/")[0]) for name in LENGTHS
    }
    lengths = dict(LENGTHS)
    assert {item.video: item.label for item in made(videos, labels=lengths)} == LENGTHS
    del lengths["mid.mp4"]
    with pytest.raises(UsageError, match=r"mid\.mp4: has no label"):
        made(videos, labels=lengths)
    with pytest.raises(UsageError, match="crops=five: the centre crop alone"):
        ClipDataset([videos], tiny_checkpoint(), settings=ExtractSettings(crops="five"))


@pytest.mark.parametrize("how", ["fork", "spawn"])
def test_workers_share_the_videos(videos: Path, how: str) -> None:
    loader = DataLoader(
        made(videos, shuffle=True), batch_size=4, num_workers=2, multiprocessing_context=how, timeout=60
    )
    assert Counter(keys_of_batches(loader)) == Counter(keys(made(videos)))


def test_processes_that_train_together_share_the_videos(
    videos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = Counter(keys(made(videos)))
    monkeypatch.setattr(distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(distributed, "get_world_size", lambda: 4)
    found: list[tuple[str, int]] = []
    for rank in range(4):
        monkeypatch.setattr(distributed, "get_rank", lambda rank=rank: rank)
        mine = keys(made(videos, shuffle=True))
        assert not set(mine) & set(found)
        found += mine
    assert Counter(found) == expected


def test_an_epoch_has_an_order_of_its_own_and_the_same_each_time(videos: Path) -> None:
    dataset = made(videos, shuffle=True, seed=3, buffer_size=5)
    first, plain = keys(dataset), keys(made(videos))
    assert keys(dataset) == first
    assert first != plain
    assert Counter(first) == Counter(plain)
    dataset.set_epoch(1)
    second = keys(dataset)
    assert second != first
    assert Counter(second) == Counter(plain)
    assert keys(made(videos, shuffle=True, seed=4, buffer_size=5)) != first
    changes = sum(a[0] != b[0] for a, b in pairwise(first))
    assert changes > len(LENGTHS), "clips of several videos are mixed"


def test_workers_that_stay_hear_of_the_next_epoch(videos: Path) -> None:
    dataset = made(videos, shuffle=True)
    loader = DataLoader(dataset, batch_size=None, num_workers=1, persistent_workers=True, timeout=60)
    found = []
    for epoch in range(2):
        dataset.set_epoch(epoch)
        found.append(keys(loader))
        assert found[-1] == keys(dataset)
    assert found[0] != found[1]


def test_a_video_that_fails_is_skipped_and_logged_or_raised(
    videos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(videos / "a", tmp_path / "a")
    (tmp_path / "a" / "bad.mp4").write_text("no video")
    assert {video for video, _ in keys(made(tmp_path))} == {"a/one.mp4", "a/two.mp4"}
    assert any("failed: a/bad.mp4: not a readable video" in message for message in caplog.messages)
    with pytest.raises(VideoError, match="not a readable video"):
        list(made(tmp_path, on_error="fail"))


def test_c3d_is_fine_tuned_on_the_clips(videos: Path) -> None:
    checkpoint = load_checkpoint("motion-mini", layers=("fc7",))
    with pytest.raises(WeightsError, match=r"was loaded without fc8"):
        checkpoint.build()
    network = checkpoint.build(("fc7",))
    head = nn.Linear(network.get_submodule("fc7").out_features, 2)  # type: ignore[arg-type]
    dataset = ClipDataset([videos / "a", videos / "b"], checkpoint, labels=None, shuffle=True)
    parameters = [*network.parameters(), *head.parameters()]
    optimizer = torch.optim.SGD(parameters, lr=1e-3)
    before = [parameter.detach().clone() for parameter in parameters]
    batch = next(iter(DataLoader(dataset, batch_size=2)))
    loss = nn.functional.cross_entropy(head(network(batch.clip, ["fc7"])["fc7"]), batch.label % 2)
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    assert all(not torch.equal(old, new) for old, new in zip(before, parameters, strict=True))
