"""Parts to one output: checked to belong together, merged by name, then L2-normalised and projected.

Parts keep plain averages; what depends on all videos is done here, by the code that writes the output of one
machine (`Assembler`), so that both write the same datasets to the bit.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from c3d_extract.compute.batch_size import rounding_factors
from c3d_extract.distributed.plan import existing_plan
from c3d_extract.errors import MismatchError, StoreError
from c3d_extract.output import (
    FeatureFile,
    OutputPaths,
    RunIdentity,
    StoreOptions,
    VideoRow,
    check_n_components,
)
from c3d_extract.output.assemble import Assembler
from c3d_extract.output.feature_file import read_attributes
from c3d_extract.output.parquet_tables import write_parquet
from c3d_extract.output.report import iterate_report, line_of_values, write_report
from c3d_extract.output.schema import VIDEO_COLUMNS
from c3d_extract.parquet import check_parquet

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from c3d_extract.distributed.plan import Plan
    from c3d_extract.distributed.run_folder import LocalCopy
    from c3d_extract.output import TableRow
    from c3d_extract.strict_json import JSON

__all__ = ["MergeOptions", "merge_by_name", "merge_parts"]

_NAMED_PARTS = 8  # that an error names
T = TypeVar("T")


@dataclass(frozen=True)
class MergeOptions:
    """What is made of the parts.

    Attributes
    ----------
    clips
        Where to write the clips of all parts as well, or None.
    l2
        L2-normalise each video's average, before PCA.
    pca
        Fit a basis of so many components on all videos and project them, or None.
    allow_missing
        Merge the parts that are done, though others are not.
    parquet
        A folder for ``videos.parquet``, and ``clips.parquet`` with ``clips``; or None.
    overwrite
        Replace an output that is there.
    scratch
        Where parts of a run in an object store are copied to while they are merged; None for the system's
        folder of temporary files.
    """

    clips: Path | None = None
    l2: bool = False
    pca: int | None = None
    allow_missing: bool = False
    parquet: Path | None = None
    overwrite: bool = False
    scratch: Path | None = None


def merge_parts(
    folder: str | os.PathLike[str], output: Path, options: MergeOptions | None = None
) -> list[Path]:
    """Merge the parts of a run into one feature file; return the files that were written, that one last.

    Memory does not grow with the number of videos, nor the number of open files with the number of parts.

    Raises
    ------
    StoreError
        Where there is no run, parts are missing or damaged, or the output cannot be written.
    MismatchError
        Where a part is of another plan, of other weights or settings, or of another kind of device.
    PcaError
        Where there are fewer videos than components, or fewer dimensions.
    """
    options = options or MergeOptions()
    plan = existing_plan(folder)
    stored = StoreOptions(output, clips=options.clips, pca=options.pca, l2=options.l2)
    paths = stored.paths()
    paths.check()
    _check_output(paths, overwrite=options.overwrite)
    tables = _parquet_tables(paths, options)
    done = _finished_parts(plan, options)
    with plan.folder.copies(options.scratch) as local:
        parts = _Parts(plan, done, local)
        devices = parts.check()
        paths.make_folders()
        identity = stored.complete(_merged_identity(plan, devices, options))
        check_n_components(options.pca, identity.layer_sizes, n_videos=parts.count_rows())
        assembler = Assembler(paths, identity, parts, options.l2, options.pca, None)
        digest = write_report(paths.report, parts.report_lines())
        written = assembler.write(complete=len(done) == len(plan.parts), report_sha256=digest)
    for source, table in tables.items():
        write_parquet(source, table)
    return [*tables.values(), paths.report, *written]


def _parquet_tables(paths: OutputPaths, options: MergeOptions) -> dict[Path, Path]:
    """Return, for each HDF5 file of which a Parquet table is made, the table's path."""
    if options.parquet is None:
        return {}
    check_parquet(options.parquet)
    tables = {paths.features: options.parquet / "videos.parquet"}
    if paths.clips is not None:
        tables[paths.clips] = options.parquet / "clips.parquet"
    for table in tables.values():
        if table.exists() and not options.overwrite:
            raise StoreError("exists already", subject=table, hint="name another folder, or --overwrite")
    try:
        options.parquet.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"cannot be made ({error.strerror})", subject=options.parquet) from error
    return tables


def _merged_identity(plan: Plan, devices: list[str], options: MergeOptions) -> RunIdentity:
    settings = {**plan.identity.settings, "l2": options.l2, "pca": options.pca}
    versions = plan.identity.versions
    if plan.mixed and devices:
        versions = {**versions, "device": ", ".join(devices)}
    return replace(plan.identity, settings=settings, versions=versions)


def _finished_parts(plan: Plan, options: MergeOptions) -> list[int]:
    """Return the parts that are done."""
    numbers = range(len(plan.parts))
    done = sorted(plan.finished())
    missing = sorted(set(numbers) - set(done))
    if missing and not options.allow_missing:
        named = ", ".join(map(str, missing[:_NAMED_PARTS])) + (", …" if len(missing) > _NAMED_PARTS else "")
        reason = f"{len(missing)} of {len(numbers)} parts are not done: {named}"
        hint = "run them, or merge the rest with --allow-missing"
        raise StoreError(reason, subject=plan.folder.address(), hint=hint)
    if options.clips is not None and not plan.with_clips:
        reason = "has no clips: it was planned without"
        raise StoreError(reason, subject=plan.folder.address(), hint="leave --clips out")
    return done


def _planned_settings(plan: Plan, found: RunIdentity) -> dict[str, JSON]:
    """Return a part's settings without what its own store added, such as whether it has clips."""
    return {name: found.settings.get(name) for name in plan.identity.settings}


def _check_output(paths: OutputPaths, *, overwrite: bool) -> None:
    files = [(paths.features, "features")] + ([(paths.clips, "clips")] if paths.clips else [])
    for path, kind in files:
        if read_attributes(path, kind) and not overwrite:
            raise StoreError("exists already", subject=path, hint="name another file, or --overwrite")
    if paths.journal.exists():
        raise StoreError(
            "belongs to a run that is not finished", subject=paths.journal, hint="name another file"
        )


class _Parts:
    """The rows of several parts, sorted by video, as the journal of a run gives them to `Assembler`."""

    def __init__(self, plan: Plan, numbers: list[int], local: LocalCopy) -> None:
        self._plan = plan
        self._numbers = numbers
        self._local = local

    def check(self) -> list[str]:
        """Check that each part is what the plan says; return the models of devices it was made on."""
        return sorted({self._check_part(number) for number in self._numbers})

    def _check_part(self, number: int) -> str:
        plan, subject = self._plan, self._plan.folder.address(self._plan.output(number))
        with FeatureFile(self._output(number)) as file:
            attributes = file.attributes
        found = RunIdentity.from_attributes(attributes)
        differences = plan.identity.differences(replace(found, settings=_planned_settings(plan, found)))
        if not plan.mixed and rounding_factors(found.versions) != rounding_factors(plan.identity.versions):
            devices = (each.versions.get("device", "none") for each in (plan.identity, found))
            differences.append(f"device: {' → '.join(devices)}")
        if differences:
            hint = "run the part again"
            raise MismatchError("is of another run", differences=differences, subject=subject, hint=hint)
        reported = [line["video"] for line in self._report(number)]
        if reported != [video.name for video in plan.videos(number)]:
            reason = "its report is not of the planned videos"
            raise StoreError(reason, subject=subject, hint="run the part again")
        self._check_clips(number, attributes.get("clips_sha256"))
        return found.versions.get("device", "none")

    def _check_clips(self, number: int, expected: JSON) -> None:
        name = self._plan.clips(number)
        if name is None:
            return
        content = read_attributes(self._local(name), "clips").get("content_sha256")
        if content is None or content != expected:
            subject = self._plan.folder.address(name)
            raise StoreError("is not the clip file of its part", subject=subject, hint="run the part again")

    def _output(self, number: int) -> Path:
        return self._local(self._plan.output(number))

    def _report(self, number: int) -> Iterator[dict[str, JSON]]:
        name = self._plan.report(number)
        try:
            yield from iterate_report(self._local(name))
        except (OSError, ValueError) as error:
            subject = self._plan.folder.address(name)
            raise StoreError(
                f"cannot be read ({error})", subject=subject, hint="run the part again"
            ) from error

    def rows(self, layer_sizes: Mapping[str, int]) -> Iterator[VideoRow]:
        """Yield every video that has features."""
        for row in self._merged(lambda number: self._table(self._output(number), layer_sizes)):
            features = dict(zip(layer_sizes, row.vectors, strict=True))
            values = dict(zip(VIDEO_COLUMNS, row.scalars or (), strict=True))
            yield VideoRow(
                video=row.video,
                status="ok",
                error=None,
                seconds=0.0,
                features=features,
                **values,  # type: ignore[arg-type]
            )

    def clips(self, layer_sizes: Mapping[str, int]) -> Iterator[TableRow]:
        """Yield every clip."""
        return self._merged(lambda number: self._table(self._clips(number), layer_sizes))

    def count_rows(self) -> int:
        """Return how many videos have features."""
        return sum(self._length(number) for number in self._numbers)

    def count(self) -> int:
        """Return how many videos the parts have."""
        return sum(self._plan.parts[number].n_videos for number in self._numbers)

    def meta(self, key: str) -> bool:
        """Return False for ``extends``: the output holds the rows of the parts and no others."""
        del key
        return False

    def note_temporary(self, path: Path) -> None:
        """Do nothing: a merge that was killed is not resumed."""

    def note_written(self, digest: str) -> None:
        """Do nothing."""

    def report_lines(self) -> Iterator[str]:
        """Yield a line for every planned video of the parts."""
        lines = merge_by_name(
            (self._plan.parts[number].first, partial(self._lines, number)) for number in self._numbers
        )
        return (line for _, line in lines)

    def _lines(self, number: int) -> Iterator[tuple[str, str]]:
        for line in self._report(number):
            yield str(line["video"]), line_of_values(line)

    def _merged(self, opened: Callable[[int], Iterator[TableRow]]) -> Iterator[TableRow]:
        parts = (
            (self._plan.parts[number].first, partial(_named, opened, number)) for number in self._numbers
        )
        return (row for _, row in merge_by_name(parts))

    def _length(self, number: int) -> int:
        with FeatureFile(self._output(number)) as file:
            return len(file)

    def _clips(self, number: int) -> Path | None:
        name = self._plan.clips(number)
        return None if name is None else self._local(name)

    @staticmethod
    def _table(path: Path | None, layer_sizes: Mapping[str, int]) -> Iterator[TableRow]:
        if path is not None:
            with FeatureFile(path) as file:
                yield from file.rows(layer_sizes)


def _named(opened: Callable[[int], Iterator[TableRow]], number: int) -> Iterator[tuple[str, TableRow]]:
    for row in opened(number):
        yield row.video, row


def merge_by_name(
    parts: Iterator[tuple[str, Callable[[], Iterator[tuple[str, T]]]]],
) -> Iterator[tuple[str, T]]:
    """Merge streams of (name, value), each sorted by name; a stream is opened when its first name is reached.

    Parts follow one another by name but for those of a single large video, so that few are open at a time:
    as many files as there are parts would exceed what a process may open.
    """
    waiting = sorted(enumerate(parts), key=lambda part: (part[1][0], part[0]), reverse=True)
    heap: list[tuple[str, int, T, Iterator[tuple[str, T]]]] = []
    while heap or waiting:
        while waiting and (not heap or waiting[-1][1][0] <= heap[0][0]):
            number, (_, opened) = waiting.pop()
            _push(heap, number, opened())
        if heap:
            name, number, value, stream = heapq.heappop(heap)
            yield name, value
            _push(heap, number, stream)


def _push(
    heap: list[tuple[str, int, T, Iterator[tuple[str, T]]]], number: int, stream: Iterator[tuple[str, T]]
) -> None:
    for name, value in stream:
        heapq.heappush(heap, (name, number, value, stream))  # numbers differ: values are never compared
        return
