"""A run in parts: planned once, each part committed in one step, merged to what one machine writes."""

from __future__ import annotations

import json
import os
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result
from conftest import LENGTHS, MEAN
from hypothesis import given
from hypothesis import strategies as st

from c3d_extract import Extractor, FeatureFile
from c3d_extract.cli.extract import command as extract
from c3d_extract.cli.info import command as info
from c3d_extract.cli.merge import command as merge_command
from c3d_extract.cli.shard import read_shard
from c3d_extract.distributed import describe_run
from c3d_extract.distributed import part as part_module
from c3d_extract.distributed.merge import MergeOptions, merge_by_name, merge_parts
from c3d_extract.distributed.part import numbers_of_shard, run_part
from c3d_extract.distributed.plan import Plan, _cut, plan_run, read_plan
from c3d_extract.errors import MismatchError, StoreError, UsageError
from c3d_extract.settings import ExtractSettings
from c3d_extract.sources.find import Source, find_videos

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def inputs(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six videos, and two that cannot be read, by whose names one part has nothing else."""
    root = tmp_path_factory.mktemp("inputs")
    shutil.copytree(videos, root, dirs_exist_ok=True)
    for name in ("x1.mp4", "x2.mp4"):
        (root / name).write_text("no video")
    return root


def make(weights: Path, settings: ExtractSettings | None = None, **run: Any) -> Extractor:
    options: dict[str, Any] = {"device": "cpu", "precision": "fp32", "batch_size": 4, "workers": 1} | run
    return Extractor.from_weights(str(weights), settings, mean=MEAN, **options)


@pytest.fixture(scope="module")
def extractor(narrow_weights: Path) -> Iterator[Extractor]:
    with make(narrow_weights) as made:
        yield made


@pytest.fixture(scope="module")
def planned(extractor: Extractor, inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Plan:
    """A run of four parts of two videos, with clips, each done."""
    folder = tmp_path_factory.mktemp("run")
    plan = plan_run(
        folder / "RUN", find_videos([inputs]).videos, extractor.identity(), with_clips=True, part_size=2
    )
    for number in range(len(plan.parts)):
        run_part(extractor, plan, number, scratch=folder)
    return plan


def folder_of(plan: Plan) -> Path:
    return Path(plan.folder.address())


def output(plan: Plan, number: int) -> Path:
    return folder_of(plan) / plan.output(number)


@pytest.fixture
def run(planned: Plan, tmp_path: Path) -> Path:
    """A copy of that run, to be damaged."""
    return shutil.copytree(folder_of(planned), tmp_path / "RUN")


def assert_equal_datasets(one: Path, other: Path) -> None:
    with FeatureFile(one) as a, FeatureFile(other) as b:
        assert a.videos == b.videos
        assert len(a) > 0
        for name in [*a.layers, *a._columns]:
            np.testing.assert_array_equal(a[name], b[name], err_msg=name)


@pytest.mark.parametrize("options", [{}, {"l2": True}, {"l2": True, "pca": 3}], ids=str)
def test_merged_parts_equal_a_run_on_one_machine(
    planned: Plan, narrow_weights: Path, inputs: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    with make(narrow_weights, ExtractSettings(**options)) as alone:
        list(alone.extract_files([inputs], tmp_path / "one.h5", clips=tmp_path / "one.clips.h5"))
    merge_parts(
        folder_of(planned), tmp_path / "two.h5", MergeOptions(clips=tmp_path / "two.clips.h5", **options)
    )
    assert_equal_datasets(tmp_path / "one.h5", tmp_path / "two.h5")
    assert_equal_datasets(tmp_path / "one.clips.h5", tmp_path / "two.clips.h5")
    one, two = (
        [
            (line["video"], line["status"])
            for line in map(json.loads, (tmp_path / name).read_text().splitlines())
        ]
        for name in ("one.report.jsonl", "two.report.jsonl")
    )
    assert one == two
    assert len(two) == len(LENGTHS) + 2, "a line for every planned video"


def test_parts_with_several_crops_are_merged_with_their_numbers(
    narrow_weights: Path, videos: Path, tmp_path: Path
) -> None:
    clips, tables = tmp_path / "two.clips.h5", tmp_path / "tables"
    with make(narrow_weights, ExtractSettings(crops="five")) as extractor:
        list(extractor.extract_files([videos / "b"], tmp_path / "one.h5", clips=tmp_path / "one.clips.h5"))
        found = find_videos([videos / "b"]).videos
        plan = plan_run(tmp_path / "RUN", found, extractor.identity(), with_clips=True, part_size=1)
        for number in range(len(plan.parts)):
            run_part(extractor, plan, number, scratch=tmp_path)
    merge_parts(tmp_path / "RUN", tmp_path / "two.h5", MergeOptions(clips=clips, parquet=tables))
    assert_equal_datasets(tmp_path / "one.h5", tmp_path / "two.h5")
    assert_equal_datasets(tmp_path / "one.clips.h5", clips)
    table = pq.read_table(tables / "clips.parquet")
    with FeatureFile(clips) as file:
        assert file.column("crop").tolist() == table["crop"].to_pylist() == [*range(5)] * 3
    assert table.schema.field("crop").type == "int32"


def test_merged_tables_in_parquet_equal_those_in_hdf5(planned: Plan, tmp_path: Path) -> None:
    options = MergeOptions(clips=tmp_path / "clips.h5", parquet=tmp_path / "tables")
    merge_parts(folder_of(planned), tmp_path / "feats.h5", options)
    for hdf5, parquet in (("feats.h5", "videos.parquet"), ("clips.h5", "clips.parquet")):
        table = pq.read_table(tmp_path / "tables" / parquet)
        with FeatureFile(tmp_path / hdf5) as file:
            assert table["video"].to_pylist() == file.videos
            assert set(table.column_names) == {"video", *file._columns, *file.layers}
            for name in file._columns:
                np.testing.assert_array_equal(table[name], file.column(name))
            np.testing.assert_array_equal(np.stack(table["fc6"].to_pylist()), file["fc6"])
            assert json.loads(table.schema.metadata[b"c3d_extract"]) == file.attributes
    with pytest.raises(StoreError, match=r"videos\.parquet: exists already"):
        merge_parts(folder_of(planned), tmp_path / "other.h5", MergeOptions(parquet=tmp_path / "tables"))


def test_a_part_whose_videos_all_failed_is_done(planned: Plan) -> None:
    sizes = {}
    for number in range(len(planned.parts)):
        with FeatureFile(output(planned, number)) as file:
            sizes[planned.parts[number].first] = len(file)
    assert sizes["x1.mp4"] == 0
    assert sum(sizes.values()) == len(LENGTHS)


def test_a_part_that_is_done_is_not_done_again(
    planned: Plan, extractor: Extractor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Extractor, "extract_found", None)
    result = run_part(extractor, planned, 0, scratch=tmp_path)
    assert result.was_done
    assert result.n_videos == 2


def test_a_part_killed_before_its_commit_is_finished_from_scratch_without_decoding_again(
    planned: Plan, run: Path, extractor: Extractor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = read_plan(run)
    assert plan is not None
    before = output(plan, 1).read_bytes()
    output(plan, 1).unlink()
    with monkeypatch.context() as patch:
        patch.setattr(part_module, "_commit", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run_part(extractor, plan, 1, scratch=tmp_path)
    assert not output(plan, 1).exists()
    monkeypatch.setattr(Extractor, "_stream", None)  # nothing is left to decode
    run_part(extractor, plan, 1, scratch=tmp_path)
    assert output(plan, 1).read_bytes() == before
    assert not list(tmp_path.glob("c3d-extract-*")), "scratch is left clean"


def test_runs_of_the_same_videos_have_scratch_folders_of_their_own(
    planned: Plan, run: Path, narrow_weights: Path, inputs: Path, tmp_path: Path
) -> None:
    with make(narrow_weights, ExtractSettings(stride=8)) as other:
        settings = plan_run(
            folder_of(planned).parent / "OTHER", find_videos([inputs]).videos, other.identity(), part_size=2
        )
    assert settings.sha256 == planned.sha256, "the same videos in the same parts"
    elsewhere = read_plan(run)
    assert elsewhere is not None
    names = {plan.scratch_name(0) for plan in (planned, settings, elsewhere)}
    assert len(names) == 3
    assert planned.scratch_name(0) != planned.scratch_name(1)


def test_a_part_run_twice_at_once_is_there_once_and_whole(
    run: Path, narrow_weights: Path, tmp_path: Path
) -> None:
    plan = read_plan(run)
    assert plan is not None
    before = output(plan, 0).read_bytes()
    output(plan, 0).unlink()
    begin = threading.Barrier(2)

    def work(name: str) -> None:
        with make(narrow_weights) as own:
            (tmp_path / name).mkdir()
            begin.wait()
            run_part(own, plan, 0, scratch=tmp_path / name)

    with ThreadPoolExecutor(2) as threads:
        list(threads.map(work, ["one", "two"]))
    assert output(plan, 0).read_bytes() == before
    assert not list(output(plan, 0).parent.glob("*.tmp"))


def test_a_full_disk_leaves_a_part_undone(
    run: Path, extractor: Extractor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = read_plan(run)
    assert plan is not None
    output(plan, 2).unlink()

    def full(*_: object) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match="the disk is full"):
        run_part(extractor, plan, 2, scratch=tmp_path)
    assert not output(plan, 2).exists()


def test_missing_parts_are_named_and_merged_without_only_where_asked(run: Path, tmp_path: Path) -> None:
    plan = read_plan(run)
    assert plan is not None
    output(plan, 1).unlink()
    with pytest.raises(StoreError, match=r"1 of 4 parts are not done: 1; .* --allow-missing"):
        merge_parts(run, tmp_path / "feats.h5")
    merge_parts(run, tmp_path / "feats.h5", MergeOptions(allow_missing=True))
    with FeatureFile(tmp_path / "feats.h5") as file:
        assert not {source.name for source in plan.videos(1)} & set(file.videos)
        assert not file.attributes["complete"]


def test_parts_of_another_run_are_refused(
    run: Path, narrow_weights: Path, inputs: Path, tmp_path: Path
) -> None:
    with make(narrow_weights, ExtractSettings(stride=8)) as other:
        plan = plan_run(tmp_path / "OTHER", find_videos([inputs]).videos, other.identity(), part_size=2)
        run_part(other, plan, 0, scratch=tmp_path)
    shutil.copy(output(plan, 0), run / "parts" / "000000.h5")
    with pytest.raises(MismatchError, match=r"000000\.h5: is of another run \(stride: 16 → 8\)"):
        merge_parts(run, tmp_path / "feats.h5")


def test_a_part_in_the_place_of_another_is_refused(run: Path, tmp_path: Path) -> None:
    for ending in (".h5", ".clips.h5", ".report.jsonl"):
        shutil.copy(run / "parts" / f"000000{ending}", run / "parts" / f"000001{ending}")
    with pytest.raises(StoreError, match="its report is not of the planned videos"):
        merge_parts(run, tmp_path / "feats.h5")


def test_a_damaged_or_foreign_clip_file_is_refused(run: Path, tmp_path: Path) -> None:
    shutil.copy(run / "parts" / "000000.clips.h5", run / "parts" / "000001.clips.h5")
    with pytest.raises(StoreError, match="is not the clip file of its part"):
        merge_parts(run, tmp_path / "feats.h5")
    (run / "parts" / "000001.clips.h5").unlink()
    with pytest.raises(StoreError, match="is not the clip file of its part"):
        merge_parts(run, tmp_path / "feats.h5")


def test_other_settings_on_a_planned_run_are_refused(run: Path, narrow_weights: Path, tmp_path: Path) -> None:
    plan = read_plan(run)
    assert plan is not None
    for settings, batch_size, named in (
        (ExtractSettings(stride=8), 4, "stride: 16 → 8"),
        (None, 2, "cpu in batches of 4 → cpu in batches of 2"),
    ):
        with make(narrow_weights, settings, batch_size=batch_size) as other:
            with pytest.raises(MismatchError, match=named):
                plan_run(run, [], other.identity(), with_clips=True)
            with pytest.raises(MismatchError, match=named):
                run_part(other, plan, 0, scratch=tmp_path)


def test_processes_that_plan_at_once_have_one_plan(
    extractor: Extractor, inputs: Path, tmp_path: Path
) -> None:
    begin, found = threading.Barrier(4), find_videos([inputs]).videos

    def plan(n: int) -> Plan:
        begin.wait()
        return plan_run(tmp_path / "RUN", found[n % 2 :], extractor.identity(), part_size=2)

    with ThreadPoolExecutor(4) as threads:
        plans = list(threads.map(plan, range(4)))
    assert len({each.sha256 for each in plans}) == 1
    assert plans[0] == read_plan(tmp_path / "RUN")
    assert sorted(path.name for path in (tmp_path / "RUN").iterdir()) == ["plan", "run.json"]


@given(st.lists(st.integers(0, 100), max_size=40), st.integers(1, 6), st.integers(1, 60))
def test_a_plan_has_every_video_once_and_keeps_its_bounds(
    sizes: list[int], part_size: int, max_bytes: int
) -> None:
    videos = [Source(f"{i:03d}", "", size, 0) for i, size in enumerate(sizes)]
    parts = _cut(videos, part_size, max_bytes)
    assert sorted(video.name for part in parts for video in part) == [video.name for video in videos]
    totals = [sum(video.size_bytes for video in part) for part in parts]
    assert totals == sorted(totals, reverse=True), "the largest first"
    for part, total in zip(parts, totals, strict=True):
        assert 1 <= len(part) <= part_size
        assert total <= max_bytes or len(part) == 1
        assert [video.name for video in part] == sorted(video.name for video in part)


@given(st.lists(st.lists(st.text("abc", max_size=3), min_size=1, max_size=6), max_size=6))
def test_streams_are_merged_by_name(parts: list[list[str]]) -> None:
    streams = [sorted(part) for part in parts]
    opened = ((stream[0], lambda stream=stream: ((name, None) for name in stream)) for stream in streams)
    merged = [name for name, _ in merge_by_name(opened)]
    assert merged == sorted(name for part in parts for name in part)


def test_of_parts_that_follow_one_another_one_is_open_at_a_time() -> None:
    n_open = 0

    def stream(start: int) -> Iterator[tuple[str, None]]:
        nonlocal n_open
        n_open += 1
        assert n_open == 1
        for i in range(3):
            yield f"{start + i:05d}", None
        n_open -= 1

    parts = ((f"{start:05d}", lambda start=start: stream(start)) for start in range(0, 3000, 3))
    assert len(list(merge_by_name(parts))) == 3000


SLURM = {
    f"SLURM_ARRAY_TASK_{key}": value
    for key, value in zip(("ID", "MIN", "STEP", "COUNT"), "5324", strict=True)
}


@pytest.mark.parametrize(
    ("environ", "shard"),
    [
        (SLURM, (1, 4)),
        ({"JOB_COMPLETION_INDEX": "2", "JOB_COMPLETIONS": "3"}, (2, 3)),
        ({"RANK": "0", "WORLD_SIZE": "8"}, (0, 8)),
    ],
)  # fmt: skip
def test_a_scheduler_says_which_shard_this_is(environ: dict[str, str], shard: tuple[int, int]) -> None:
    assert read_shard("env", environ) == shard


@pytest.mark.parametrize("text", ["", "1", "1/2/3", "a/b", "2/2", "-1/2", "env"])
def test_what_names_no_shard_is_a_usage_error(text: str) -> None:
    with pytest.raises(UsageError, match="--shard"):
        read_shard(text, {})


def test_shards_share_the_parts(planned: Plan) -> None:
    shards = [numbers_of_shard(planned, i, 3) for i in range(3)]
    assert sorted(number for shard in shards for number in shard) == [0, 1, 2, 3]


def test_a_run_says_how_far_it_has_come(run: Path) -> None:
    plan = read_plan(run)
    assert plan is not None
    whole = describe_run(run)
    assert (whole["n_parts_done"], whole["parts_missing"], whole["n_videos_done"]) == (4, [], 8)
    assert whole["statuses"] == {"ok": 6, "failed": 2}
    output(plan, 3).unlink()
    for number, seconds in ((0, 100), (1, 110), (2, 120)):
        os.utime(output(plan, number), (seconds, seconds))
    part = describe_run(run)
    assert part["parts_missing"] == [3]
    assert part["videos_per_second"] == 4 / 20, "two parts of two videos since the first was done"
    assert part["seconds_left"] == 2 / (4 / 20)
    shown = CliRunner().invoke(info, [str(run)])
    assert shown.exit_code == 0
    assert "3 of 4 done" in shown.output
    assert "0.2 videos/s, 10 s left" in shown.output
    with pytest.raises(StoreError, match="holds no planned run"):
        describe_run(run.parent)


def call(command: Any, *arguments: object) -> Result:
    return CliRunner().invoke(command, [str(argument) for argument in arguments])


def test_from_the_command_line_three_shards_and_a_merge(
    inputs: Path, narrow_weights: Path, tmp_path: Path
) -> None:
    common = [inputs, "--weights", narrow_weights, "--mean", MEAN, "--device", "cpu"]
    codes = [
        call(
            extract,
            *common,
            "-o",
            tmp_path / "RUN",
            "--shard",
            f"{i}/3",
            "--part-size",
            2,
            "--scratch",
            tmp_path,
        ).exit_code
        for i in range(3)
    ]
    assert sorted(codes) == [0, 0, 3], "the part of the two that cannot be read"
    assert call(extract, *common, "-o", tmp_path / "one.h5").exit_code == 3
    merged = call(merge_command, tmp_path / "RUN", "-o", tmp_path / "two.h5")
    assert merged.exit_code == 0, merged.output
    assert_equal_datasets(tmp_path / "one.h5", tmp_path / "two.h5")
    again = call(merge_command, tmp_path / "RUN", "-o", tmp_path / "two.h5")
    assert again.exit_code == 1
    assert "exists already" in again.stderr
    assert call(merge_command, tmp_path, "-o", tmp_path / "x.h5").stderr.count("holds no planned run") == 1


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--shard", "0/2", "--pca", "3"], "--pca: is applied when the parts are merged"),
        (["--shard", "0/2", "--l2"], "--l2: is applied when the parts are merged"),
        (["--shard", "0/2", "--overwrite"], "--overwrite: does not go with a run in parts"),
        (["--shard", "0/2", "--dry-run"], "--dry-run: does not go with --shard"),
        (["--part-size", "3"], "--part-size: needs --shard or --ray"),
        (["--shard", "0/2", "--part-size", "0"], "--part-size: must be at least 1"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    inputs: Path, narrow_weights: Path, tmp_path: Path, arguments: list[str], named: str
) -> None:
    common = [inputs, "--weights", narrow_weights, "--mean", MEAN, "--device", "cpu", "-o", tmp_path / "RUN"]
    result = call(extract, *common, *arguments)
    assert result.exit_code == 2
    assert named in result.stderr
    assert not (tmp_path / "RUN" / "run.json").exists()


def test_a_plan_keeps_where_each_video_is(extractor: Extractor, tmp_path: Path) -> None:
    videos = [
        Source("a.mp4", tmp_path / "a.mp4", 1, 2),
        Source("b.mp4", Path("s3://b/k//b.mp4"), 3, 4, "s3://b/k//b.mp4", "etag"),
        Source("c.tar/c.mp4", tmp_path / "c.tar", 5, 6, offset=512),
        Source("d.tar/d.mp4", Path("s3://b/d.tar"), 7, 8, "s3://b/d.tar", "etag", 1024),
        Source("e.tar", tmp_path / "e.tar", 9, 10, error="the archive is cut off"),
    ]
    plan = plan_run(tmp_path / "RUN", videos, extractor.identity())
    assert plan.videos(0) == videos
    written = [json.loads(line) for line in next(tmp_path.glob("RUN/plan*/*.jsonl")).read_text().splitlines()]
    assert written[0] == {"name": "a.mp4", "path": str(tmp_path / "a.mp4"), "size_bytes": 1, "mtime_ns": 2}
    assert written[3] == {
        "name": "d.tar/d.mp4",
        "address": "s3://b/d.tar",
        "etag": "etag",
        "offset": 1024,
        "size_bytes": 7,
        "mtime_ns": 8,
    }
