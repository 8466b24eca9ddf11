"""The names beside an output, and what may be in their place."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from store_samples import begin, identity, names, open_store, preview_store, video_row, write

from c3d_extract.errors import StoreError, UsageError
from c3d_extract.output import OutputPaths

if TYPE_CHECKING:
    from collections.abc import Callable


def test_paths_that_cannot_work_are_refused_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="is a folder"):
        open_store(tmp_path / "folder", identity())
    with pytest.raises(StoreError, match="the folder cannot be written"):
        open_store(tmp_path / "file" / "feats.h5", identity())
    for clips in ("feats.h5", "folder/../feats.h5", "feats.h5.partial", "feats.pca.h5", "feats.report.jsonl"):
        with pytest.raises(UsageError, match="--clips needs a file of its own"):
            open_store(tmp_path / "feats.h5", identity(), clips=tmp_path / clips)
    write(tmp_path / "new" / "sub" / "feats.h5", [video_row("a")])  # missing folders are made
    assert (tmp_path / "new" / "sub" / "feats.h5").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(StoreError, match="the folder cannot be written"):
        open_store(tmp_path / "feats.h5", identity())


def test_no_two_outputs_share_a_name() -> None:
    outputs = ["feats.h5", "feats.hdf5", "feats", "feats.partial", "feats.report", "feats.pca", "feats.H5"]
    every = [path.name for name in outputs for path in OutputPaths(Path(name)).every]
    assert len(set(every) - set(outputs)) == 3 * len(outputs) - 1  # the journal of feats is feats.partial
    assert OutputPaths(Path("feats.h5")).report == Path("feats.report.jsonl")
    assert OutputPaths(Path("feats.h5")).basis == Path("feats.pca.h5")
    assert OutputPaths(Path("feats.hdf5")).report == Path("feats.hdf5.report.jsonl")
    assert OutputPaths(Path("feats")).report == Path("feats-report.jsonl")


@pytest.mark.parametrize(("first", "second"), [("a.hdf5", "a.hdf5.h5"), ("a.hdf5.h5", "a.hdf5")])
@pytest.mark.parametrize("finished", [True, False])
def test_the_two_names_that_could_share_a_report_are_not_used_together(
    tmp_path: Path, first: str, second: str, finished: bool
) -> None:
    (write if finished else begin)(tmp_path / first, [video_row("a")])
    with pytest.raises(UsageError, match=rf"its report would be a\.hdf5\.report\.jsonl, .* of {first}"):
        open_store(tmp_path / second, identity())


def a_link(path: Path) -> None:
    path.symlink_to(path.with_name("thesis"))


def a_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(path))  # the length of its name is limited


KINDS: dict[str, Callable[[Path], object]] = {
    "a FIFO": os.mkfifo,
    "a folder": Path.mkdir,
    "a symbolic link": a_link,
    "a socket": a_socket,
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "name",
    ["feats.h5", "clips.h5", "feats.h5.partial", "feats.report.jsonl", "feats.pca.h5", "clips.h5.partial"],
)
def test_what_is_no_file_is_refused_at_once(output: Path, name: str, kind: str) -> None:
    if kind == "a symbolic link" and name in {"feats.h5", "clips.h5"}:
        pytest.skip("followed")
    path = output.with_name(name)
    KINDS[kind](path)
    for open_output in (open_store, preview_store):
        with pytest.raises(StoreError, match=f"{name}: is {kind}"):
            open_output(output, identity(), clips=output.with_name("clips.h5"), pca=2, overwrite=True)
    assert names(output.parent) == [name]


def test_a_device_and_links_in_a_circle_are_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="/dev/null: is a device"):
        open_store(Path("/dev/null"), identity())
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    with pytest.raises(StoreError, match="is a symbolic link"):
        open_store(tmp_path / "a", identity())
    with pytest.raises(StoreError, match="is a folder"):
        open_store(Path(), identity())


@pytest.mark.parametrize("address", ["s3://bucket/feats.h5", "https://host/feats.h5"])
def test_an_address_is_refused_and_makes_no_folder_of_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for paths in (OutputPaths(Path(address)), OutputPaths(Path("feats.h5"), Path(address))):
        with pytest.raises(UsageError, match="cannot be in an object store"):
            paths.check()
    assert list(tmp_path.iterdir()) == []
