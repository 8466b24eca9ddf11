"""A run in an object store: planned once, committed by one PUT, merged to what one machine writes."""

from __future__ import annotations

import dataclasses
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from click.testing import CliRunner
from conftest import MEAN

from c3d_extract import Extractor, FeatureFile
from c3d_extract.cli.extract import command as extract
from c3d_extract.cli.info import command as info
from c3d_extract.cli.merge import command as merge_command
from c3d_extract.distributed.merge import MergeOptions, merge_parts
from c3d_extract.distributed.part import run_part
from c3d_extract.distributed.plan import Plan, plan_run, read_plan
from c3d_extract.distributed.run_folder import RunFolder, open_run_folder
from c3d_extract.errors import MismatchError, RemoteError, StoreError, UsageError
from c3d_extract.sources.find import find_videos
from c3d_extract.sources.source import Source

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from s3_server import S3


@pytest.fixture(scope="module")
def extractor(narrow_weights: Path) -> Iterator[Extractor]:
    options: dict[str, Any] = {"device": "cpu", "precision": "fp32", "batch_size": 4, "workers": 1}
    with Extractor.from_weights(str(narrow_weights), mean=MEAN, **options) as made:
        yield made


@pytest.fixture(params=["folder", "s3"])
def folder(request: pytest.FixtureRequest, s3: S3, tmp_path: Path) -> RunFolder:
    name = f"s3://videos/{tmp_path.name}" if request.param == "s3" else str(tmp_path)
    return open_run_folder(name)


def test_files_are_written_read_and_listed(folder: RunFolder, tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(b"part")
    assert folder.read("a.json") is None
    folder.create("a.json", b"first")
    folder.create("a.json", b"second")
    folder.put("parts/0.h5", tmp_path / "source")
    folder.write("parts/1.json", b"one")
    folder.write("parts/1.json", b"two")
    assert folder.read("a.json") == b"first"
    assert folder.read("parts/1.json") == b"two"
    assert folder.exists("parts/0.h5")
    assert not folder.exists("parts/2.h5")
    assert folder.times("none") == {}
    assert sorted(folder.times("parts")) == ["0.h5", "1.json"]
    with folder.copies(tmp_path) as local:
        assert local("parts/0.h5").read_bytes() == b"part"
        assert not local("parts/2.h5").exists()


def test_what_cannot_be_written_is_one_line(folder: RunFolder, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"none\.h5: cannot be read"):
        folder.put("parts/0.h5", tmp_path / "none.h5")
    assert not folder.exists("parts/0.h5")


def test_copies_of_remote_files_are_made_once_and_removed(s3: S3, tmp_path: Path) -> None:
    s3.put("copies/parts/0.h5", b"part")
    s3.server.requests.clear()
    with open_run_folder("s3://videos/copies").copies(tmp_path) as local:
        assert local("parts/0.h5") == local("parts/0.h5")
        assert list(tmp_path.iterdir()) != []
    assert s3.server.requests["GET", "/videos/copies/parts/0.h5"] == 1
    assert list(tmp_path.iterdir()) == []


def test_processes_that_plan_other_videos_at_once_have_one_plan(
    folder: RunFolder, extractor: Extractor, videos: Path
) -> None:
    begin, found = threading.Barrier(4), find_videos([videos]).videos

    def plan(n: int) -> Plan:
        begin.wait()
        return plan_run(folder, found[n % 2 :], extractor.identity(), part_size=2)

    with ThreadPoolExecutor(4) as threads:
        plans = list(threads.map(plan, range(4)))
    assert len({each.sha256 for each in plans}) == 1
    assert all(each == read_plan(folder) for each in plans)
    named = sorted(source.name for number in range(len(plans[0].parts)) for source in plans[0].videos(number))
    assert named in ([v.name for v in found], [v.name for v in found[1:]])


def test_a_run_in_an_object_store_is_merged_to_what_one_machine_writes(
    s3: S3, extractor: Extractor, videos: Path, tmp_path: Path
) -> None:
    list(extractor.extract_files([videos], tmp_path / "one.h5", clips=tmp_path / "one.clips.h5"))
    found = find_videos([videos]).videos
    plan = plan_run("s3://videos/RUN", found, extractor.identity(), with_clips=True, part_size=2)
    for number in range(len(plan.parts)):
        run_part(extractor, plan, number, scratch=tmp_path)
    assert not list(tmp_path.glob("c3d-extract-*")), "scratch is left clean"
    merge_parts(
        "s3://videos/RUN",
        tmp_path / "two.h5",
        MergeOptions(clips=tmp_path / "two.clips.h5", scratch=tmp_path),
    )
    for kind in ("h5", "clips.h5"):
        with FeatureFile(tmp_path / f"one.{kind}") as a, FeatureFile(tmp_path / f"two.{kind}") as b:
            assert a.videos == b.videos
            for name in [*a.layers, *a._columns]:
                np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def test_a_part_run_twice_at_once_is_there_once_and_whole(
    s3: S3, extractor: Extractor, videos: Path, narrow_weights: Path, tmp_path: Path
) -> None:
    plan = plan_run("s3://videos/TWICE", find_videos([videos]).videos, extractor.identity(), part_size=3)
    begin = threading.Barrier(2)

    def work(name: str) -> None:
        options: dict[str, Any] = {"device": "cpu", "precision": "fp32", "batch_size": 4, "workers": 1}
        (tmp_path / name).mkdir()
        with Extractor.from_weights(str(narrow_weights), mean=MEAN, **options) as own:
            begin.wait()
            run_part(own, plan, 0, scratch=tmp_path / name)

    with ThreadPoolExecutor(2) as threads:
        list(threads.map(work, ["one", "two"]))
    written = s3.get("TWICE/parts/000000.h5")
    s3.server.client().delete_object(Bucket="videos", Key="TWICE/parts/000000.h5")
    run_part(extractor, plan, 0, scratch=tmp_path)
    assert s3.get("TWICE/parts/000000.h5") == written


def test_a_store_that_refuses_leaves_a_part_undone_and_its_work_on_scratch(
    s3: S3, extractor: Extractor, videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_run("s3://videos/FULL", find_videos([videos]).videos, extractor.identity(), part_size=3)

    def fault(environ: dict[str, Any]) -> Any:
        body = b"<Error><Code>QuotaExceeded</Code><Message>full</Message></Error>"
        is_commit = environ["REQUEST_METHOD"] == "PUT" and environ["PATH_INFO"].endswith(".h5")
        return ("507 Full", [("Content-Length", str(len(body)))], body) if is_commit else None

    s3.server.fault = fault
    with pytest.raises(RemoteError, match=r"s3://videos/FULL/parts/000000\.h5: cannot be .* written"):
        run_part(extractor, plan, 0, scratch=tmp_path)
    assert not plan.is_done(0)
    s3.server.fault = lambda _: None
    monkeypatch.setattr(Extractor, "_stream", None)  # nothing is left to decode
    run_part(extractor, plan, 0, scratch=tmp_path)
    assert plan.is_done(0)


def test_a_run_killed_between_its_report_and_its_commit_is_not_done(
    s3: S3, extractor: Extractor, videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_run("s3://videos/KILL", find_videos([videos]).videos, extractor.identity(), part_size=3)
    put = type(plan.folder).put

    def killed(self: RunFolder, name: str, source: Path) -> None:
        if name.endswith(".h5"):
            raise KeyboardInterrupt
        put(self, name, source)

    with monkeypatch.context() as patch:
        patch.setattr(type(plan.folder), "put", killed)
        with pytest.raises(KeyboardInterrupt):
            run_part(extractor, plan, 0, scratch=tmp_path)
    assert "KILL/parts/000000.report.jsonl" in s3.object_keys()
    assert not plan.is_done(0)
    with pytest.raises(StoreError, match="2 of 2 parts are not done"):
        merge_parts(plan.folder.address(), tmp_path / "x.h5")


def test_parts_of_unlike_devices_are_merged_only_where_the_plan_allows_it(
    extractor: Extractor, videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = find_videos([videos]).videos
    here = extractor.identity()
    there = dataclasses.replace(here, versions={**here.versions, "device": "cpu other"})
    strict = plan_run(tmp_path / "STRICT", found, here, part_size=3)
    mixed = plan_run(tmp_path / "MIXED", found, here, part_size=3, mixed=True)
    for plan in (strict, mixed):
        run_part(extractor, plan, 0, scratch=tmp_path)
    monkeypatch.setattr(Extractor, "identity", lambda _: there)
    with pytest.raises(MismatchError, match="cpu other"):
        run_part(extractor, strict, 1, scratch=tmp_path)
    run_part(extractor, mixed, 1, scratch=tmp_path)
    merge_parts(tmp_path / "MIXED", tmp_path / "feats.h5")
    with FeatureFile(tmp_path / "feats.h5") as file:
        assert file.attributes["versions"]["device"] == f"{here.versions['device']}, cpu other"
        assert len(file) == len(found)
    for ending in (".h5", ".report.jsonl"):
        done = (tmp_path / "MIXED" / "parts" / f"000001{ending}").read_bytes()
        (tmp_path / "STRICT" / "parts" / f"000001{ending}").write_bytes(done)
    with pytest.raises(MismatchError, match=r"device: .* → cpu other"):
        merge_parts(tmp_path / "STRICT", tmp_path / "other.h5")


def test_from_the_command_line(s3: S3, videos: Path, narrow_weights: Path, tmp_path: Path) -> None:
    common = ["--weights", str(narrow_weights), "--mean", MEAN, "--device", "cpu", "--scratch", str(tmp_path)]
    run = CliRunner().invoke
    done = run(extract, [str(videos), "-o", "s3://videos/CLI", "--shard", "0/1", "--mixed", *common])
    assert done.exit_code == 0, done.output
    assert "→ s3://videos/CLI/parts/000000.h5" in done.stderr
    assert json.loads(s3.get("CLI/run.json"))["mixed"] is True
    shown = run(info, ["s3://videos/CLI"])
    assert "1 of 1 done" in shown.output
    merged = run(merge_command, ["s3://videos/CLI", "-o", str(tmp_path / "f.h5"), "--scratch", str(tmp_path)])
    assert merged.exit_code == 0, merged.output
    with FeatureFile(tmp_path / "f.h5") as file:
        assert len(file) == len(find_videos([videos]).videos)
    missing = run(info, ["s3://videos/NONE"])
    assert missing.exit_code == 1
    assert "holds no planned run" in missing.stderr


def test_a_signed_address_is_kept_out_of_plans(extractor: Extractor, tmp_path: Path) -> None:
    address = "https://127.0.0.1/a.mp4?X-Amz-Expires=60&X-Amz-Signature=0a1b"
    video = Source("a.mp4", tmp_path, 1, 0, address=address)
    with pytest.raises(UsageError, match="a signed address is a credential") as caught:
        plan_run(tmp_path / "RUN", [video], extractor.identity())
    assert "0a1b" not in str(caught.value)
    assert not (tmp_path / "RUN").exists()
