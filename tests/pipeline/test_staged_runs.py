"""Runs over members of archives: the features of the files themselves, and nothing that stays on scratch."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import pytest
from click.testing import CliRunner, Result
from conftest import LENGTHS, MEAN
from tar_samples import pack, pack_folder

from c3d_extract import Extractor, FeatureFile, read_report
from c3d_extract.cli.extract import command
from c3d_extract.distributed import MergeOptions, merge_parts, plan_run, run_part
from c3d_extract.errors import StoreError, UsageError, VideoError
from c3d_extract.sources import staging
from c3d_extract.sources.find import find_videos

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from s3_server import S3


@pytest.fixture(scope="module")
def extractor(narrow_weights: Path) -> Iterator[Extractor]:
    options: dict[str, Any] = {"device": "cpu", "precision": "fp32", "batch_size": 4, "workers": 2}
    with Extractor.from_weights(str(narrow_weights), mean=MEAN, **options) as made:
        yield made


@pytest.fixture(scope="module")
def reference(extractor: Extractor, videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run over the files, with clips."""
    folder = tmp_path_factory.mktemp("reference")
    for _ in extractor.extract_files([videos], folder / "feats.h5", clips=folder / "clips.h5"):
        pass
    return folder


@pytest.fixture
def shard(videos: Path, tmp_path: Path) -> Path:
    return pack_folder(tmp_path / "shards/s.tar", videos)


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    folder = tmp_path / "scratch"
    folder.mkdir()
    return folder


def assert_same_features(one: Path, other: Path, prefix: str = "s.tar/") -> None:
    """All datasets are equal to the bit, but for the names and times of the videos."""
    for name in ("feats.h5", "clips.h5"):
        with h5py.File(one / name) as a, h5py.File(other / name) as b:
            assert [prefix + video for video in a["video"].asstr()] == list(b["video"].asstr())
            assert set(a) == set(b)
            for dataset in set(a) - {"video", "mtime_ns"}:
                np.testing.assert_array_equal(a[dataset][:], b[dataset][:], err_msg=dataset)


@pytest.mark.parametrize("workers", [0, 2])
def test_members_have_the_features_of_the_files(
    narrow_weights: Path, reference: Path, shard: Path, tmp_path: Path, scratch: Path, workers: int
) -> None:
    options: dict[str, Any] = {"device": "cpu", "precision": "fp32", "batch_size": 4, "workers": workers}
    with Extractor.from_weights(str(narrow_weights), mean=MEAN, **options) as extractor:
        run = extractor.extract_files(
            [shard], tmp_path / "feats.h5", clips=tmp_path / "clips.h5", scratch=scratch
        )
        outcomes = list(run)
    assert {(outcome.status, outcome.path) for outcome in outcomes} == {("ok", shard)}
    assert_same_features(reference, tmp_path)
    assert list(scratch.iterdir()) == []


def test_files_and_members_go_together_and_are_skipped_when_done(
    extractor: Extractor, videos: Path, shard: Path, output: Path, scratch: Path
) -> None:
    inputs = [videos / "long.mp4", shard, videos / "mid.mp4"]
    assert [outcome.status for outcome in extractor.extract_files(inputs, output, scratch=scratch)] == [
        "ok"
    ] * 8
    again = {outcome.video: outcome.status for outcome in extractor.extract_files(inputs, output)}
    assert again == dict.fromkeys(["long.mp4", "mid.mp4", *(f"s.tar/{name}" for name in LENGTHS)], "skipped")
    with FeatureFile(output) as file:
        rows = dict(zip(file.videos, file["fc6"], strict=True))
    np.testing.assert_array_equal(rows["long.mp4"], rows["s.tar/long.mp4"])


def test_a_changed_archive_is_done_again(extractor: Extractor, shard: Path, output: Path) -> None:
    assert len(list(extractor.extract_files([shard], output))) == 6
    os.utime(shard, ns=(1, 1))
    run = extractor.extract_files([shard], output)
    assert {outcome.status for outcome in run} == {"ok"}
    assert run.progress.n_changed == 6


def test_one_member_can_be_extracted_alone(extractor: Extractor, videos: Path, tmp_path: Path) -> None:
    path = pack(tmp_path / "one.tar", ("a.mp4", (videos / "mid.mp4").read_bytes()))
    np.testing.assert_array_equal(extractor.extract(path).clips, extractor.extract(videos / "mid.mp4").clips)
    pack(path)
    with pytest.raises(UsageError, match="holds 0 videos, not one"):
        extractor.extract(path)
    path.write_bytes(b"cut")
    with pytest.raises(VideoError, match=r"one\.tar: not a tar archive"):
        extractor.extract(path)


def test_local_files_are_read_where_they_are(
    extractor: Extractor, videos: Path, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(staging, "Staging", None)
    assert len(list(extractor.extract_files([videos], output))) == 6


def test_playlists_in_an_archive_open_nothing(
    extractor: Extractor, videos: Path, tmp_path: Path, output: Path
) -> None:
    secret = videos / "mid.mp4"
    hls = f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{secret}\n#EXT-X-ENDLIST\n".encode()
    concat = f"ffconcat version 1.0\nfile '{secret}'\n".encode()
    numbers = b"#EXTM3U\n#EXTINF:9,\n000003.mp4\n"
    members = {"a.m3u8": hls, "b.mp4": hls, "c.mp4": concat, "d.m3u8": numbers}
    path = pack(tmp_path / "s.tar", *members.items(), ("e.mp4", secret.read_bytes()))
    outcomes = {outcome.video: outcome for outcome in extractor.extract_files([path], output)}
    assert outcomes.pop("s.tar/e.mp4").status == "ok"
    assert {outcome.status for outcome in outcomes.values()} == {"failed"}
    assert all("a playlist or script" in (outcome.error or "") for outcome in outcomes.values())


def test_a_full_scratch_disk_ends_the_run_and_the_next_one_goes_on(
    extractor: Extractor, shard: Path, output: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = staging.Staging._copy_member

    def full(stage: Any, source: Any, path: Path) -> None:
        if source.name == "s.tar/mid.mp4":
            raise OSError(28, "No space left on device")
        copy(stage, source, path)

    monkeypatch.setattr(staging.Staging, "_copy_member", full)
    with pytest.raises(StoreError, match=r"No space left on device.*--scratch"):
        list(extractor.extract_files([shard], output, scratch=scratch))
    assert list(scratch.iterdir()) == []
    monkeypatch.undo()
    statuses = {outcome.status for outcome in extractor.extract_files([shard], output, scratch=scratch)}
    assert statuses <= {"ok", "skipped"}
    with FeatureFile(output) as file:
        assert len(file) == 6


@pytest.fixture
def s3(s3: S3, videos: Path) -> S3:
    """The bucket with the videos below v/."""
    for name in LENGTHS:
        s3.put(f"v/{name}", (videos / name).read_bytes())
    s3.server.requests.clear()
    return s3


def test_objects_have_the_features_of_the_files_for_one_get_each(
    extractor: Extractor, reference: Path, s3: S3, tmp_path: Path, scratch: Path
) -> None:
    outputs: dict[str, Any] = {"output": tmp_path / "feats.h5", "clips": tmp_path / "clips.h5"}
    outcomes = list(extractor.extract_files(["s3://videos/v"], **outputs, scratch=scratch))
    assert {outcome.status for outcome in outcomes} == {"ok"}
    assert {outcome.path for outcome in outcomes} == {f"s3://videos/v/{name}" for name in LENGTHS}
    assert_same_features(reference, tmp_path, prefix="")
    assert list(scratch.iterdir()) == []
    gets = {path: n for (method, path), n in s3.server.requests.items() if method == "GET"}
    assert gets.pop("/videos") == 1
    assert gets == {f"/videos/v/{name}": 1 for name in LENGTHS}
    again = extractor.extract_files(["s3://videos/v"], **outputs)
    assert {outcome.status for outcome in again} == {"skipped"}


def test_members_of_a_stored_archive_have_the_features_of_the_files(
    extractor: Extractor, reference: Path, s3: S3, shard: Path, tmp_path: Path
) -> None:
    address = s3.put("shards/s.tar", shard.read_bytes())
    run = extractor.extract_files([address], tmp_path / "feats.h5", clips=tmp_path / "clips.h5")
    assert {(outcome.status, outcome.path) for outcome in run} == {("ok", address)}
    assert_same_features(reference, tmp_path)


def test_parts_of_stored_videos_merge_to_the_same_features(
    extractor: Extractor, reference: Path, s3: S3, tmp_path: Path, scratch: Path
) -> None:
    found = find_videos(["s3://videos/v"]).videos
    plan = plan_run(tmp_path / "RUN", found, extractor.identity(), with_clips=True, part_size=4)
    for number in range(len(plan.parts)):
        run_part(extractor, plan, number, scratch=scratch)
    merge_parts(tmp_path / "RUN", tmp_path / "feats.h5", MergeOptions(clips=tmp_path / "clips.h5"))
    assert_same_features(reference, tmp_path, prefix="")
    assert list(scratch.iterdir()) == []


def test_one_object_can_be_extracted_alone(extractor: Extractor, s3: S3, videos: Path) -> None:
    features = extractor.extract("s3://videos/v/long.mp4")
    np.testing.assert_array_equal(features.clips, extractor.extract(videos / "long.mp4").clips)
    assert features.outcome.path == "s3://videos/v/long.mp4"
    with pytest.raises(VideoError, match=r"^s3://videos/v/gone\.mp4: is not there"):
        extractor.extract("s3://videos/v/gone.mp4")


def test_objects_that_cannot_be_fetched_fail_alone_and_can_be_tried_again(
    extractor: Extractor, s3: S3, output: Path, scratch: Path
) -> None:
    def fault(environ: dict[str, Any]) -> Any:
        if (environ["REQUEST_METHOD"], environ["PATH_INFO"]) != ("GET", "/videos/v/mid.mp4"):
            return None
        return "403 Forbidden", [], b"<Error><Code>AccessDenied</Code><Message>no</Message></Error>"

    s3.server.fault = fault
    run = extractor.extract_files(["s3://videos/v"], output, scratch=scratch)
    errors = {outcome.video: outcome.error for outcome in run if outcome.status != "ok"}
    assert list(errors) == ["mid.mp4"]
    assert str(errors["mid.mp4"]).startswith("access is refused")
    s3.server.fault = lambda _: None
    again = extractor.extract_files(["s3://videos/v"], output, scratch=scratch, retry_failed=True)
    assert sorted(outcome.status for outcome in again) == ["ok"] + ["skipped"] * 5


def test_a_playlist_among_objects_opens_nothing(extractor: Extractor, s3: S3, output: Path) -> None:
    secret = f"{os.environ['AWS_ENDPOINT_URL']}/videos/secret.mp4"
    hls = f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{secret}\n#EXT-X-ENDLIST\n".encode()
    s3.put("secret.mp4", s3.get("v/mid.mp4"))
    for name, content in {"a.m3u8": hls, "b.mp4": f"ffconcat version 1.0\nfile {secret}\n".encode()}.items():
        s3.put(f"lists/{name}", content)
    outcomes = list(extractor.extract_files(["s3://videos/lists"], output))
    assert {outcome.status for outcome in outcomes} == {"failed"}
    assert all("a playlist or script" in (outcome.error or "") for outcome in outcomes)
    assert not [path for _, path in s3.server.requests if "secret" in path]


def test_leaving_the_loop_ends_what_is_being_fetched(
    extractor: Extractor, s3: S3, output: Path, scratch: Path
) -> None:
    run = iter(extractor.extract_files(["s3://videos/v"], output, scratch=scratch))
    assert next(run).status == "ok"
    run.close()
    assert list(scratch.iterdir()) == []
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("c3d-staging")]


def call(*words: object) -> Result:
    return CliRunner().invoke(command, list(map(str, words)), catch_exceptions=False)


def test_a_cut_archive_makes_the_command_exit_with_3(
    narrow_weights: Path, shard: Path, output: Path, scratch: Path
) -> None:
    os.truncate(shard, shard.stat().st_size * 2 // 3)
    words = ["--weights", narrow_weights, "--mean", MEAN, "-o", output, "--scratch", scratch, "--workers", 1]
    result = call(shard, *words)
    assert result.exit_code == 3, result.output
    assert "failed: s.tar: the archive ends in the middle of member" in result.stderr
    lines = {line["video"]: line for line in read_report(output.with_suffix(".report.jsonl"))}
    assert lines["s.tar"]["status"] == "failed"
    assert "s.tar/a/one.mp4" in lines
    assert list(scratch.iterdir()) == []


def test_a_dry_run_lists_members_and_unpacks_nothing(
    narrow_weights: Path, shard: Path, output: Path, scratch: Path
) -> None:
    words = ["--weights", narrow_weights, "--mean", MEAN, "-o", output, "--scratch", scratch]
    result = call(shard, *words, "--dry-run", "--json")
    todo = json.loads(result.stdout)["todo"]
    assert [entry["video"] for entry in todo] == sorted(f"s.tar/{name}" for name in LENGTHS)
    assert {entry["path"] for entry in todo} == {str(shard)}
    assert list(scratch.iterdir()) == []


def test_a_dry_run_shows_addresses(narrow_weights: Path, s3: S3, output: Path) -> None:
    words = ["--weights", narrow_weights, "--mean", MEAN, "-o", output]
    todo = json.loads(call("s3://videos/v", *words, "--dry-run", "--json").stdout)["todo"]
    assert {entry["path"] for entry in todo} == {f"s3://videos/v/{name}" for name in LENGTHS}
    result = call("s3://videos/v/gone.mp4", *words)
    assert (result.exit_code, result.stderr.splitlines()[-1][:60]) == (
        2,
        "Error: s3://videos/v/gone.mp4: no such object, and none belo",
    )


def test_what_a_killed_run_left_is_removed_and_the_rest_is_done(
    reference: Path, narrow_weights: Path, shard: Path, tmp_path: Path, scratch: Path
) -> None:
    words = [shard, "--weights", narrow_weights, "--mean", MEAN, "--scratch", scratch, "--batch-size", 4]
    words += ["-o", tmp_path / "feats.h5", "--clips", tmp_path / "clips.h5", "--precision", "fp32"]
    process = subprocess.Popen([sys.executable, "-m", "c3d_extract", "extract", *map(str, words)])
    deadline = time.monotonic() + 60
    while not list(scratch.glob("*/*.mp4")) and time.monotonic() < deadline:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert [path.name[:19] for path in scratch.iterdir()] == ["c3d-extract-staged-"]
    assert call(*words).exit_code == 0
    assert list(scratch.iterdir()) == []
    assert_same_features(reference, tmp_path)
