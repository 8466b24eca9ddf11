"""Scratch folders are private, and never outlive their process for long."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from c3d_extract.sources import scratch
from c3d_extract.sources.scratch import ScratchFolder

if TYPE_CHECKING:
    import pytest


def abandoned(parent: Path) -> Path:
    """A folder with a file in it, whose process was killed."""
    code = (
        "import os, sys; from pathlib import Path; from c3d_extract.sources.scratch import ScratchFolder; "
        "folder = ScratchFolder(Path(sys.argv[1])); (folder.path / '000000.mp4').touch(); "
        "print(folder.path, flush=True); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, parent], stdout=subprocess.PIPE, text=True, check=False
    )
    assert done.returncode == -9
    return Path(done.stdout.strip())


def test_a_folder_is_private_and_removed_with_its_files(tmp_path: Path) -> None:
    with ScratchFolder(tmp_path / "new") as folder:
        assert folder.path.parent == tmp_path / "new"
        assert folder.path.stat().st_mode & 0o777 == 0o700
        (folder.path / "000000.mp4").touch()
    assert list((tmp_path / "new").iterdir()) == []


def test_the_folder_of_a_killed_process_is_removed_by_the_next(tmp_path: Path) -> None:
    left = abandoned(tmp_path)
    assert left.is_dir()
    with ScratchFolder(tmp_path):
        assert not left.exists()


def test_the_folder_of_a_running_process_stays(tmp_path: Path) -> None:
    with ScratchFolder(tmp_path) as one:
        with ScratchFolder(tmp_path) as other:
            assert one.path.is_dir()
            assert other.path != one.path
        assert one.path.is_dir()


def test_folders_with_other_names_and_links_stay(tmp_path: Path) -> None:
    kept = tmp_path / "elsewhere"
    kept.mkdir()
    (tmp_path / "c3d-extract-1234").mkdir()
    (tmp_path / "c3d-extract-staged-link").symlink_to(kept)
    with ScratchFolder(tmp_path):
        assert kept.is_dir()
        assert (tmp_path / "c3d-extract-1234").is_dir()


def test_other_users_folders_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left = abandoned(tmp_path)
    monkeypatch.setattr(scratch, "_user", lambda: os.getuid() + 1)
    with ScratchFolder(tmp_path):
        assert left.is_dir()


def test_where_there_are_no_locks_nothing_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left = abandoned(tmp_path)

    def unsupported(*_: int) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    with ScratchFolder(tmp_path) as folder:
        assert folder.path.is_dir()
        assert left.is_dir()


def test_many_at_the_same_time_remove_none_of_each_other(tmp_path: Path) -> None:
    def use() -> None:
        for _ in range(30):
            with ScratchFolder(tmp_path) as folder:
                (folder.path / "000000.mp4").write_bytes(b"x")
                assert (folder.path / "000000.mp4").exists()

    errors: list[BaseException] = []

    def checked() -> None:
        try:
            use()
        except BaseException as error:  # noqa: BLE001 - shown below
            errors.append(error)

    threads = [threading.Thread(target=checked) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert list(tmp_path.iterdir()) == []
