"""The pipeline over videos: end to end, idle time of the device, runs that are interrupted and resumed."""

from __future__ import annotations

import os
import shutil
import time
from itertools import pairwise
from math import ceil
from typing import TYPE_CHECKING, Any, NamedTuple

import h5py
import numpy as np
import torch

from c3d_extract.settings import ExtractSettings
from c3d_extract.train.synthetic import ACTIONS, render_video
from gpu_kit.report import NotPossible
from gpu_kit.speed import submitted_rate

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from torch.autograd.profiler_util import FunctionEvent

    from c3d_extract.pipeline import Extractor
    from gpu_kit.kit import Kit
    from gpu_kit.report import Section

Span = tuple[float, float]

MOST_COPIES = 60
FPS = 24


def end_to_end(kit: Kit, section: Section) -> None:
    """Run over real and rendered videos with all cores."""
    kit.need_videos()
    real = _real(kit)
    if not real:
        section.skip("real videos", "no folder of them; name one by --videos")
    runs = [("real", stride) for stride in (16, 8) if real] + [("rendered", 16)]
    for kind, stride in kit.within_time(section, runs, "runs"):
        with kit.attempt(section, f"{kind} videos, stride {stride}"):
            _one_run(kit, section, kind, real if kind == "real" else _rendered(kit), stride)
        kit.free()


def _one_run(kit: Kit, section: Section, kind: str, videos: Sequence[Path], stride: int) -> None:
    with _extractor(kit, stride) as extractor:
        alone = submitted_rate(kit, extractor.network)
        found = _warm_run(kit, extractor, kind, videos, kit.sizes.run_seconds)
        section.row(
            f"end to end in {extractor.precision}, {extractor.workers} decoders",
            kind=kind,
            stride=stride,
            **{name: found[name] for name in ("videos", "clips", "clips_per_second", "frames_per_second")},
            of_network=found["clips_per_second"] / alone,
        )
        section.row(
            "shares of the wall time of these runs, and the main process's processor time",
            kind=kind,
            stride=stride,
            **{name: found[name] for name in ("seconds", "waiting", "network", "store", "main_ms")},
        )
        name = f"{kind} videos, stride {stride}: every video is finished"
        section.check(name, found["failed"] == 0, f"{found['failed']} of {found['videos']} failed")


def _extractor(kit: Kit, stride: int | None = None, **run: Any) -> Extractor:
    from c3d_extract.pipeline import Extractor

    settings = ExtractSettings(stride=stride)
    options: dict[str, Any] = {"device": str(kit.device), "workers": 1 if kit.small else "auto"} | run
    return Extractor(kit.checkpoint, settings, **options)


def _warm_run(
    kit: Kit, extractor: Extractor, kind: str, videos: Sequence[Path], seconds: float
) -> dict[str, Any]:
    """Run over copies of the videos until a run with started decoders takes about so many seconds."""
    times = ceil((extractor.workers + 1) / len(videos))  # so that every decoder starts
    _measured(kit, extractor, _copies(kit, kind, videos, times))
    found = _measured(kit, extractor, _copies(kit, kind, videos, times))
    while found["seconds"] < seconds / 2 and times < MOST_COPIES:
        times = min(MOST_COPIES, ceil(times * seconds / found["seconds"]))
        found = _measured(kit, extractor, _copies(kit, kind, videos, times))
    return found


def _measured(kit: Kit, extractor: Extractor, videos: Sequence[Path]) -> dict[str, Any]:
    """Extract videos and return the run's figures.

    ``waiting``, ``network`` and ``store`` are shares of the wall time: the network had no work, the main thread
    waited for the network, or committed. ``main_ms`` is processor time of the main process, a clip.
    """
    run = extractor.extract_files(videos, kit.folder / "run.h5", overwrite=True)
    started, before = time.monotonic(), os.times()
    outcomes = list(run)
    seconds, after = time.monotonic() - started, os.times()
    progress = run.progress
    own = after.user + after.system - before.user - before.system
    return {
        "seconds": seconds,
        "videos": len(outcomes),
        "failed": sum(outcome.status == "failed" for outcome in outcomes),
        "clips": progress.n_clips,
        "clips_per_second": progress.n_clips / seconds,
        "frames_per_second": progress.n_frames / seconds,
        "waiting": progress.waiting_seconds / seconds,
        "network": progress.network_seconds / seconds,
        "store": progress.store_seconds / seconds,
        "main_ms": 1e3 * own / max(1, progress.n_clips),
    }


def _real(kit: Kit) -> list[Path]:
    from c3d_extract.sources.find import find_videos

    if kit.real_videos is None:
        return []
    found = [source.path for source in find_videos([kit.real_videos]).videos]
    return found[:2] if kit.small else found


def _rendered(kit: Kit) -> list[Path]:
    """Return videos of people and shapes that move, rendered once."""
    from c3d_extract.decode import write_video

    folder = kit.folder / "rendered"
    folder.mkdir(exist_ok=True)
    paths = [folder / f"{number:03}.mp4" for number in range(kit.sizes.videos)]
    for number, path in enumerate(paths):
        if not path.exists():
            # Several lengths, so that a batch ends in the middle of a video, elsewhere in each run.
            n_frames = kit.sizes.frames + 16 * (number % 4) + number
            size = (n_frames, *kit.sizes.frame_size)
            frames = render_video(
                list(ACTIONS)[number % len(ACTIONS)], number, size=size, seconds=n_frames / FPS
            )
            write_video(path, frames[..., ::-1], FPS)
    return paths


def _copies(kit: Kit, kind: str, videos: Sequence[Path], times: int) -> list[Path]:
    """Return the videos several times under other names: hard links where the disk has them."""
    copies = []
    for time_number in range(times):
        folder = kit.folder / f"{kind}-copies" / f"{time_number:03}"
        folder.mkdir(parents=True, exist_ok=True)
        for number, video in enumerate(videos):
            copy = folder / f"{number:05}{video.suffix}"
            if not copy.exists():
                _link(video, copy)
            copies.append(copy)
    return copies


def _link(video: Path, copy: Path) -> None:
    try:
        os.link(video.resolve(), copy)
    except OSError:
        shutil.copyfile(video, copy)


def idle_gaps(kit: Kit, section: Section) -> None:
    """Profile a run: how long the device was busy, and where it had nothing to do."""
    kit.need_videos()
    from torch.profiler import ProfilerActivity, profile

    real = _real(kit)
    kind, videos = ("real", real) if real else ("rendered", _rendered(kit))
    with _extractor(kit) as extractor:
        trial = _warm_run(kit, extractor, kind, videos, kit.sizes.run_seconds / 4)
        copies = _copies(kit, kind, videos, trial["videos"] // len(videos))
        with profile(activities=[ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * kit.is_cuda) as profiler:
            found = _measured(kit, extractor, copies)
        n_batches = ceil(found["clips"] / extractor.network.batch_size)
    work = device_work(profiler.events() or [], on_cuda=kit.is_cuda)
    if not work:
        raise NotPossible("the profiler recorded no work of the device")
    _tell_work(section, work, kind, found["clips"])
    enough = sum(not event.is_copy for event in work) >= n_batches
    section.check("the profiler recorded work for every batch", enough, f"{n_batches} batches")
    pageable = sum("Pageable" in event.name for event in work)
    name = "the device copies from and to page-locked memory alone"
    section.check(name, not pageable, f"{pageable} other copies") if kit.is_cuda else section.skip(
        name, "no GPU"
    )


def _tell_work(section: Section, work: Sequence[Work], kind: str, n_clips: int) -> None:
    busy = merged(event.span for event in work)
    kernels = merged(event.span for event in work if not event.is_copy)
    copies = merged(event.span for event in work if event.is_copy)
    seconds = busy[-1][1] - busy[0][0]
    section.row(
        f"the device during a run over {kind} videos, profiled; shares of the time",
        clips=n_clips,
        seconds=seconds,
        busy=total(busy) / seconds,
        computing=total(kernels) / seconds,
        copying=total(copies) / seconds,
        both=(total(kernels) + total(copies) - total(busy)) / seconds,
        kernels=sum(not event.is_copy for event in work),
        gaps=len(busy) - 1,
    )
    gaps = sorted(((after[0] - before[1], before[1]) for before, after in pairwise(busy)), reverse=True)
    for gap, at in gaps[:5]:
        section.row("the largest gaps", milliseconds=1e3 * gap, at_second=at - busy[0][0])


class Work(NamedTuple):
    """A kernel or a copy on the device, in seconds; on a CPU an operator."""

    name: str
    span: Span

    @property
    def is_copy(self) -> bool:
        return self.name.startswith("Memcpy")


def device_work(events: Sequence[FunctionEvent], *, on_cuda: bool) -> list[Work]:
    """Return what the device did; on a CPU that is torch's operators."""
    kind = torch.autograd.DeviceType.CUDA if on_cuda else torch.autograd.DeviceType.CPU
    return [
        Work(event.name, (event.time_range.start / 1e6, event.time_range.end / 1e6))
        for event in events
        # A range that a program marked covers kernels and the gaps between them.
        if event.device_type == kind and not getattr(event, "is_user_annotation", False)
        if on_cuda or event.name.startswith("aten::")
    ]


def merged(spans: Iterable[Span]) -> list[Span]:
    """Return spans in order, those that touch or overlap joined."""
    joined: list[Span] = []
    for start, end in sorted(spans):
        if joined and start <= joined[-1][1]:
            joined[-1] = joined[-1][0], max(end, joined[-1][1])
        else:
            joined.append((start, end))
    return joined


def total(spans: Sequence[Span]) -> float:
    return sum(end - start for start, end in spans)


def resumed(kit: Kit, section: Section) -> None:
    """Interrupt a run, resume it in a new Extractor, and compare with an uninterrupted one, bit by bit."""
    kit.need_videos()
    for precision in kit.within_time(section, kit.main_precisions, "resumed runs"):
        with kit.attempt(section, f"a resumed run in {precision}"):
            _one_resumed(kit, section, precision)
        kit.free()


def _one_resumed(kit: Kit, section: Section, precision: str) -> None:
    whole, broken = (kit.folder / f"{name}-{precision}" for name in ("whole", "broken"))
    n_videos = len(_rendered(kit))
    _extract(kit, whole, precision, None)
    _extract(kit, broken, precision, n_videos // 3)
    skipped = _extract(kit, broken, precision, None)
    section.row("interrupted and resumed", precision=precision, videos=n_videos, skipped=skipped)
    section.check(f"{precision}: the second run skips what the first finished", 0 < skipped < n_videos)
    for name in ("feats.h5", "clips.h5"):
        unlike = differences(whole / name, broken / name)
        title = f"{precision}: every dataset of {name} is equal to the bit"
        section.check(title, not unlike, f"not equal: {', '.join(unlike)}" if unlike else "")


def _extract(kit: Kit, folder: Path, precision: str, stop_after: int | None) -> int:
    """Extract the rendered videos, up to some outcomes; return how many were skipped."""
    folder.mkdir(exist_ok=True)
    skipped = 0
    workers = {"workers": 0} if kit.small else {}  # starting processes takes most of a small run
    with _extractor(kit, precision=precision, **workers) as extractor:
        run = iter(extractor.extract_files(_rendered(kit), folder / "feats.h5", clips=folder / "clips.h5"))
        for number, outcome in enumerate(run, 1):
            skipped += outcome.status == "skipped"
            if number == stop_after:
                break
        run.close()
    return skipped


def differences(one: Path, other: Path) -> list[str]:
    """Return the datasets that two files do not share to the bit."""
    with h5py.File(one) as a, h5py.File(other) as b:
        names = sorted({*a, *b})
        return [
            name for name in names if name not in a or name not in b or not _equal(a[name][()], b[name][()])
        ]


def _equal(a: NDArray[Any], b: NDArray[Any]) -> bool:
    return np.array_equal(a, b, equal_nan=a.dtype.kind == "f")
