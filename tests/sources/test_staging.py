"""Members of archives and objects become local files ahead of the decoders, within bounds."""

from __future__ import annotations

import contextlib
import errno
import os
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from source_samples import touch
from staging_samples import contents, ready
from tar_samples import pack

from c3d_extract.errors import RemoteError, StoreError, UsageError
from c3d_extract.sources import staging
from c3d_extract.sources.find import Source, find_videos
from c3d_extract.sources.staging import Staged, Staging

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from c3d_extract.object_store import StoredObject

KIB = 1 << 10


def members(path: Path, *sizes: int) -> list[Source]:
    pack(path, *((f"{number:02d}.mp4", bytes([number]) * size) for number, size in enumerate(sizes)))
    return find_videos([path]).videos


def objects(*sizes: int) -> list[Source]:
    """Objects of a store that `serving` stands for."""
    addresses = [f"s3://b/{number}.mp4" for number in range(len(sizes))]
    return [
        Source(address[7:], Path(address), size, 0, address, "e")
        for address, size in zip(addresses, sizes, strict=True)
    ]


def serving(monkeypatch: pytest.MonkeyPatch, fetch: Callable[[str, Path, int], None]) -> None:
    """Answer every request for an object by ``fetch(address, target, size)``."""

    def fetch_object(stored: StoredObject, target: Path, **_: Any) -> None:
        fetch(stored.address, target, stored.size_bytes)

    monkeypatch.setattr(staging, "fetch_object", fetch_object)


def zeros(_: str, target: Path, size: int) -> None:
    target.write_bytes(bytes(size))


def run(sources: Sequence[Source], scratch: Path, **options: int) -> dict[int, bytes | str]:
    with Staging(sources, scratch, **options) as stage:
        found = contents(stage)
    assert list(scratch.iterdir()) == []
    return found


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    folder = tmp_path / "scratch"
    folder.mkdir()
    return folder


def test_members_become_files_with_numbers_for_names(tmp_path: Path, scratch: Path) -> None:
    path = pack(tmp_path / "s.tar", ("a.MP4", b"one"), ("b/c.mkv", b"two" * 500_000), ("d.webm", b""))
    with Staging(find_videos([path]).videos, scratch) as stage:
        found = {item.task: item.path for item in ready(stage)}
        assert {task: path.name for task, path in found.items()} == {
            0: "000000.mp4",
            1: "000001.mkv",
            2: "000002.webm",
        }
        assert [found[task].read_bytes() for task in range(3)] == [b"one", b"two" * 500_000, b""]
    assert list(scratch.iterdir()) == []


def test_only_the_suffix_of_a_video_is_kept(tmp_path: Path, scratch: Path) -> None:
    source = Source("s.tar/a.mp4; rm -rf", pack(tmp_path / "s.tar", ("a", b"x")), 1, 0, offset=512)
    os.utime(source.path, ns=(0, 0))
    with Staging([source], scratch) as stage:
        assert [item.path.name for item in ready(stage)] == ["000000"]


def test_local_files_are_not_copied(tmp_path: Path, scratch: Path) -> None:
    touch(tmp_path / "a.mp4", tmp_path / "b.mp4")
    files = find_videos([tmp_path / "a.mp4", tmp_path / "b.mp4"]).videos
    with Staging([files[0], *members(tmp_path / "s.tar", 5), files[1]], scratch) as stage:
        found = {item.task: item.path for item in ready(stage)}
    assert (found[0], found[2]) == (tmp_path / "a.mp4", tmp_path / "b.mp4")
    assert found[1].name == "000001.mp4"


def test_without_anything_to_fetch_no_folder_is_made(tmp_path: Path, scratch: Path) -> None:
    broken = Source("s.tar", tmp_path / "s.tar", 1 << 40, 0, error="the archive is cut off")
    with Staging([broken], scratch) as stage:
        assert list(ready(stage)) == [Staged(0, tmp_path / "s.tar", "the archive is cut off")]
        assert list(scratch.iterdir()) == []


def test_a_changed_archive_is_noticed(tmp_path: Path, scratch: Path) -> None:
    sources = members(tmp_path / "s.tar", 5, 5)
    os.utime(tmp_path / "s.tar", ns=(7, 7))
    assert run(sources, scratch) == dict.fromkeys((0, 1), "the archive was changed since it was searched")


def test_an_archive_that_is_gone_or_cut_fails_its_members(tmp_path: Path, scratch: Path) -> None:
    sources = members(tmp_path / "s.tar", 5, 5)
    os.truncate(tmp_path / "s.tar", sources[1].offset or 0)
    os.utime(tmp_path / "s.tar", ns=(0, sources[0].mtime_ns))
    assert run(sources, scratch)[1] == "the archive was cut off since it was searched"
    (tmp_path / "s.tar").unlink()
    assert run(sources, scratch)[0] == "the archive cannot be read: No such file or directory"


def test_no_more_bytes_are_staged_than_allowed(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    serving(monkeypatch, zeros)
    sizes = [100 * KIB, 100 * KIB, 300 * KIB, 64 * KIB, 64 * KIB, 64 * KIB]
    most = 0
    with Staging(objects(*sizes), scratch, max_bytes=200 * KIB) as stage:
        for item in ready(stage):
            for _ in range(20):  # time to fetch more than is allowed
                files = sizes_below(scratch)
                assert sum(files) <= 200 * KIB or files == [300 * KIB], files
                most = max(most, sum(files))
                time.sleep(0.001)
            stage.release(item.task)
    assert most == 300 * KIB, "a larger one is staged alone"


def test_videos_are_fetched_by_several_threads(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    together = threading.Barrier(4, timeout=20)

    def fetch(_: str, target: Path, size: int) -> None:
        together.wait()
        target.write_bytes(bytes(size))

    serving(monkeypatch, fetch)
    assert len(run(objects(*[1] * 8), scratch, n_threads=4)) == 8


def test_a_video_that_cannot_be_fetched_fails_alone(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(address: str, target: Path, size: int) -> None:
        target.write_bytes(bytes(size))
        if address.endswith("1.mp4"):
            raise RemoteError("is not there", subject=address)
        if address.endswith("2.mp4"):
            raise ZeroDivisionError("a bug")

    serving(monkeypatch, fetch)
    assert run(objects(1, 1, 1, 2), scratch) == {
        0: b"\0",
        1: "is not there",
        2: "cannot be fetched: ZeroDivisionError: a bug",
        3: b"\0\0",
    }


def sizes_below(scratch: Path) -> list[int]:
    """The sizes of the files that are there; others may be deleted meanwhile."""
    found = []
    for file in scratch.glob("*/*.mp4"):
        with contextlib.suppress(FileNotFoundError):
            found.append(file.stat().st_size)
    return found


class SmallDisk:
    """Has room for some bytes; a file that does not fit is left in part, as by a real write."""

    def __init__(self, scratch: Path, n_bytes: int) -> None:
        self.scratch = scratch
        self.n_bytes = n_bytes
        self.lock = threading.Lock()
        self.n_full = 0

    def fetch(self, _address: str, target: Path, size: int) -> None:
        for _ in range(0, size, KIB):
            with self.lock, target.open("ab") as file:
                if sum(sizes_below(self.scratch)) + KIB > self.n_bytes:
                    self.n_full += 1
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                file.write(bytes(KIB))


def test_a_full_disk_waits_until_others_are_decoded(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = SmallDisk(scratch, 250 * KIB)
    serving(monkeypatch, disk.fetch)
    sizes = [100 * KIB] * 12
    found = run(objects(*sizes), scratch)
    assert disk.n_full, "the disk was never full"
    assert found == {task: bytes(size) for task, size in enumerate(sizes)}


def test_a_disk_that_cannot_hold_one_video_ends_the_run(
    scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    serving(monkeypatch, SmallDisk(scratch, 50 * KIB).fetch)
    with pytest.raises(StoreError, match=r"No space left on device.*--scratch"):
        run(objects(20 * KIB, 100 * KIB, 20 * KIB), scratch)
    assert list(scratch.iterdir()) == []


def test_a_scratch_folder_that_cannot_be_made_ends_the_run(tmp_path: Path) -> None:
    touch(tmp_path / "file")
    with Staging(objects(1), tmp_path / "file") as stage, pytest.raises(StoreError, match="--scratch"):
        list(ready(stage))


def test_what_no_video_is_the_cause_of_ends_the_run(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(*_: object) -> None:
        raise UsageError("needs a package that is not installed")

    serving(monkeypatch, fetch)
    with pytest.raises(UsageError, match="package"):
        run(objects(1, 1), scratch)


def test_closing_does_not_wait_for_a_server_that_does_not_answer(
    scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, answered = threading.Event(), threading.Event()

    def fetch(*_: object) -> None:
        begun.set()
        answered.wait(60)

    serving(monkeypatch, fetch)
    with Staging(objects(1), scratch) as stage:
        assert next(iter(stage)) is None
        assert begun.wait(10)
        closed = time.monotonic()
    assert time.monotonic() - closed < 5
    assert list(scratch.iterdir()) == []
    answered.set()


def test_closing_ends_threads_that_wait_for_room(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    serving(monkeypatch, zeros)
    with Staging(objects(KIB, KIB, KIB), scratch, max_bytes=1, n_threads=2) as stage:
        next(ready(stage))
    assert not any(thread.is_alive() for thread in stage._threads)
    assert list(scratch.iterdir()) == []
