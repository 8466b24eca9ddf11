"""Testing a network: loss and accuracy, by clip and by video."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader

from c3d_extract.train.data import TestVideos, collate, start_worker
from c3d_extract.train.report import Evaluation

if TYPE_CHECKING:
    from collections.abc import Callable

    from c3d_extract.train.data import ClipSet, LabelledClip

__all__ = ["Sums", "chance_accuracy", "count_correct", "cross_entropy", "evaluate"]

_VIDEOS_TOGETHER = 16  # per test batch
_CLIPS_TOGETHER = 32
_KINDS = {"motion", "shape", "action"}


class Sums(NamedTuple):
    """Sums over clips since the last report."""

    loss: float = 0.0
    n_clips: int = 0
    n_correct: int = 0
    n_asked: int = 0

    def plus(self, *more: float) -> Sums:
        """Return the sums with other values added, in field order."""
        return Sums(*(a + b for a, b in zip(self, more, strict=True)))  # type: ignore[arg-type]

    @property
    def mean_loss(self) -> float:
        """Mean loss per clip."""
        return self.loss / max(self.n_clips, 1)

    @property
    def accuracy(self) -> float:
        """Share of correct predictions."""
        return self.n_correct / max(self.n_asked, 1)


def cross_entropy(scores: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return the summed cross-entropy of scores and target probabilities, both float (N, classes)."""
    return -(targets * F.log_softmax(scores, dim=1)).sum()


def count_correct(scores: torch.Tensor, targets: torch.Tensor, labels: tuple[str, ...]) -> tuple[int, int]:
    """Return the number of correct predictions, and of all predictions.

    The first word of labels such as ``motion left`` is their kind. For each kind that a clip has a label of,
    there is one prediction, the highest score of that kind. All other labels together are one kind.

    Parameters
    ----------
    scores, targets
        Float (N, classes); targets are above 0 for the correct classes.
    labels
        Names of the classes.
    """
    n_correct = n_asked = 0
    for columns in _kinds(labels):
        wanted = targets[:, columns] > 0
        asked = wanted.any(dim=1)
        best = scores[:, columns].argmax(dim=1, keepdim=True)
        n_correct += int((wanted.gather(1, best).squeeze(1) & asked).sum())
        n_asked += int(asked.sum())
    return n_correct, n_asked


def chance_accuracy(labels: tuple[str, ...]) -> float | None:
    """Return the accuracy of guessing; None for labels of several kinds, which clips have unequally often."""
    kinds = _kinds(labels)
    return 1 / len(labels) if len(kinds) == 1 else None


def _kinds(labels: tuple[str, ...]) -> list[list[int]]:
    kinds: dict[str, list[int]] = {}
    for column, label in enumerate(labels):
        kind, space, _ = label.partition(" ")
        kinds.setdefault(kind if space and kind in _KINDS else "", []).append(column)
    return list(kinds.values())


@torch.no_grad()
def evaluate(
    score: Callable[[torch.Tensor], torch.Tensor], test: ClipSet, labels: tuple[str, ...], *, n_workers: int
) -> Evaluation:
    """Test on a set; videos that cannot be read are skipped and reported.

    Parameters
    ----------
    score
        Returns float (N, classes) for clips uint8 (N, T, H, W, 3).
    n_workers
        Processes that read videos; 0 reads them in this one.
    """
    clips, videos, failures = Sums(), Sums(), []
    groups = DataLoader(
        TestVideos(test),
        _VIDEOS_TOGETHER,
        num_workers=n_workers,
        collate_fn=list,
        worker_init_fn=start_worker,
    )
    for group in groups:
        failures += [why for why in group if isinstance(why, str)]
        found = [video for video in group if not isinstance(video, str)]
        if found:
            of_clips, of_videos = _test_group(score, found, labels)
            clips, videos = clips.plus(*of_clips), videos.plus(*of_videos)
    return Evaluation(clips.mean_loss, clips.accuracy, videos.accuracy, failures)


def _test_group(
    score: Callable[[torch.Tensor], torch.Tensor],
    videos: list[list[LabelledClip]],
    labels: tuple[str, ...],
) -> tuple[Sums, Sums]:
    """Return the sums over the clips of a group of videos, and over the videos."""
    batch = collate([clip for video in videos for clip in video], len(labels))
    scores = torch.cat([score(part) for part in torch.split(batch.clips, _CLIPS_TOGETHER)])
    targets = batch.targets.to(scores.device)
    loss = float(cross_entropy(scores, targets))
    sizes = [len(video) for video in videos]
    # The paper's prediction for a video is the mean of its clips' probabilities (Section 3.3).
    mean = torch.stack([part.softmax(1).mean(0) for part in torch.split(scores, sizes)])
    first = torch.stack([part[0] for part in torch.split(targets, sizes)])
    of_clips = Sums(loss, len(targets), *count_correct(scores, targets, labels))
    return of_clips, Sums(0.0, len(sizes), *count_correct(mean, first, labels))
