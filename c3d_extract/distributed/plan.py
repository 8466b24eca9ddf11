"""The plan of a run in parts: which videos each part has, and how they are extracted; written once.

A run is a folder::

    run.json                what every part shares, and the SHA-256 of the plan; written last
    plan/000000.jsonl       the videos of one part, sorted by name, one per line
    parts/000000.h5         a finished part, in the format of a feature file

Any number of processes may start a run at the same time. In a folder each writes the plan under a name of
its own and renames it to ``plan``, which succeeds once; in an object store, where nothing can be renamed, the
plan is in ``plan/DIGEST``. ``run.json`` says which plan counts, and is created once.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from c3d_extract.compute.batch_size import rounding_factors
from c3d_extract.distributed.run_folder import open_run_folder
from c3d_extract.errors import MismatchError, StoreError, UsageError
from c3d_extract.object_store import is_signed
from c3d_extract.output import RunIdentity
from c3d_extract.sources.find import Source
from c3d_extract.strict_json import parse_json

if TYPE_CHECKING:
    from c3d_extract.distributed.run_folder import RunFolder
    from c3d_extract.strict_json import JSON

__all__ = ["MAX_PART_BYTES", "PART_SIZE", "Plan", "PlannedPart", "existing_plan", "plan_run", "read_plan"]

FORMAT, VERSION = "c3d-extract run", 1
PART_SIZE = 4096
"""Videos of a part at most; their fc6 of C3D takes 67 MB."""
_PARTS = "parts"  # the folder of the parts' files
MAX_PART_BYTES = 1 << 36
"""Bytes of a part's videos at most, 64 GiB; a larger video has a part to itself."""


@dataclass(frozen=True)
class PlannedPart:
    """What is known of a part before its videos are read."""

    n_videos: int
    n_bytes: int
    first: str
    """Name of its first video."""


@dataclass(frozen=True)
class Plan:
    """A run that is planned.

    Attributes
    ----------
    folder
        The run's folder.
    plan_folder
        Name of the folder of the plan's files in it.
    identity
        Settings, weights, layers and versions, which all parts share.
    with_clips
        Whether parts have clip files.
    mixed
        Whether parts may be of other models of devices.
    parts
        In the order of their numbers: the largest first, so that none is left to the end.
    sha256
        Of the plan's files.
    """

    folder: RunFolder
    plan_folder: str
    identity: RunIdentity
    with_clips: bool
    mixed: bool
    parts: tuple[PlannedPart, ...]
    sha256: str

    def output(self, number: int) -> str:
        """Return the name of a part's feature file; the part is done when it exists."""
        return f"{_PARTS}/{number:06d}.h5"

    def clips(self, number: int) -> str | None:
        """Return the name of a part's clip file, None where there are none."""
        return f"{_PARTS}/{number:06d}.clips.h5" if self.with_clips else None

    def report(self, number: int) -> str:
        """Return the name of a part's report."""
        return f"{_PARTS}/{number:06d}.report.jsonl"

    def is_done(self, number: int) -> bool:
        """Return whether a part is finished."""
        return self.folder.exists(self.output(number))

    def finished(self) -> dict[int, float]:
        """Return, by one listing, the numbers of the parts that are done, and when in s since 1970."""
        times = self.folder.times(_PARTS)
        names = {number: self.output(number).removeprefix(f"{_PARTS}/") for number in range(len(self.parts))}
        return {number: times[name] for number, name in names.items() if name in times}

    def scratch_name(self, number: int) -> str:
        """Return the name of a part's folder on scratch: no other run has it, of the same videos neither."""
        own = json.dumps([self.folder.address(), self.to_json()], sort_keys=True)
        return f"c3d-extract-{hashlib.sha256(own.encode()).hexdigest()[:16]}-{number:06d}"

    def videos(self, number: int) -> list[Source]:
        """Read the videos of a part, sorted by name."""
        name = f"{self.plan_folder}/{number:06d}.jsonl"
        try:
            lines = [parse_json(line) for line in (self.folder.read(name) or b"").split(b"\n") if line]
            return list(map(_source, lines))
        except (ValueError, LookupError, TypeError) as error:
            subject = self.folder.address(name)
            raise StoreError(f"the plan cannot be read ({error})", subject=subject) from error

    def check_same(self, identity: RunIdentity, *, with_clips: bool) -> None:
        """Raise MismatchError where a process would extract otherwise than the plan says."""
        differences = self.identity.differences(identity)
        was, now = self.identity.versions, identity.versions
        if not self.mixed and rounding_factors(was) != rounding_factors(now):
            devices = (f"{each.get('device')} in batches of {each.get('batch_size')}" for each in (was, now))
            differences.append(f"{' → '.join(devices)}; a run planned with --mixed allows it")
        if with_clips != self.with_clips:
            differences.append(f"clips: {self.with_clips} → {with_clips}")
        if differences:
            raise MismatchError(
                "was planned with other settings",
                differences=differences,
                subject=self.folder.address("run.json"),
                hint="take another folder",
            )

    def to_json(self) -> dict[str, JSON]:
        """Return the content of ``run.json``."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "identity": asdict(self.identity),
            "with_clips": self.with_clips,
            "mixed": self.mixed,
            "plan": self.plan_folder,
            "plan_sha256": self.sha256,
            "parts": [asdict(part) for part in self.parts],
        }


def plan_run(
    folder: str | os.PathLike[str] | RunFolder,
    videos: Sequence[Source],
    identity: RunIdentity,
    *,
    with_clips: bool = False,
    mixed: bool = False,
    part_size: int = PART_SIZE,
    max_part_bytes: int = MAX_PART_BYTES,
) -> Plan:
    """Write the plan of a run, or read the one that is there already, and return it.

    Parameters
    ----------
    folder
        The run's folder, which is made where it is missing; or its address in an object store.
    videos
        Sorted by name. Not used where the run is planned already: a plan never changes.
    identity
        What `Extractor.identity` returns.
    with_clips
        Whether parts have clip files.
    mixed
        Whether parts may be extracted on other models of devices, and in batches of other sizes, than
        ``identity`` says: last digits then differ between parts.
    part_size, max_part_bytes
        What a part has at most; a single larger video has a part to itself.

    Raises
    ------
    MismatchError
        Where the folder holds a run that was planned with other settings.
    StoreError, RemoteError
        Where the folder cannot be written, or holds something else.
    """
    if part_size < 1:
        raise UsageError(f"must be at least 1, not {part_size}", subject="--part-size")
    place = _opened(folder)
    found = read_plan(place)
    _check_unsigned(videos)
    while found is None:
        files = _PlanFiles(_cut(videos, part_size, max_part_bytes))
        planned = _described(place, place.place_plan(files), identity, with_clips=with_clips, mixed=mixed)
        # Unless another process has done so: what parts were begun with never changes.
        place.create("run.json", json.dumps(planned.to_json(), indent=1).encode())
        found = read_plan(place)
    found.check_same(identity, with_clips=with_clips)
    if mixed and not found.mixed:
        reason = "was planned for devices of one model"
        raise StoreError(reason, subject=place.address("run.json"), hint="take another folder for --mixed")
    return found


def _check_unsigned(videos: Sequence[Source]) -> None:
    """Raise UsageError where an address holds a credential: plans are shared."""
    for video in videos:
        if video.address is not None and is_signed(video.address):
            reason = "a signed address is a credential, which no plan may hold"
            raise UsageError(reason, subject=video.name, hint="name the object, and set credentials instead")


def read_plan(folder: str | os.PathLike[str] | RunFolder) -> Plan | None:
    """Return the plan of a run, None where there is none yet; StoreError where it is damaged."""
    place = _opened(folder)
    content = place.read("run.json")
    if content is None:
        return None
    try:
        values = parse_json(content)
        found = Plan(
            place,
            str(values.get("plan", "plan")),
            RunIdentity(**values["identity"]),
            bool(values["with_clips"]),
            bool(values.get("mixed", False)),
            tuple(PlannedPart(**part) for part in values["parts"]),
            str(values["plan_sha256"]),
        )
    except (ValueError, LookupError, TypeError) as error:
        raise StoreError(f"is not the plan of a run ({error})", subject=place.address("run.json")) from error
    if (values.get("format"), values.get("version")) != (FORMAT, VERSION):
        raise StoreError("is the plan of another version", subject=place.address("run.json"))
    return found


def existing_plan(folder: str | os.PathLike[str]) -> Plan:
    """Return the plan of a run; StoreError where there is none, or it is damaged."""
    plan = read_plan(folder)
    if plan is None:
        hint = "c3d-extract … -o RUN/ --shard i/n makes one"
        raise StoreError("holds no planned run", subject=folder, hint=hint)
    return plan


def _opened(folder: str | os.PathLike[str] | RunFolder) -> RunFolder:
    return open_run_folder(folder) if isinstance(folder, str | os.PathLike) else folder


def _cut(videos: Sequence[Source], part_size: int, max_part_bytes: int) -> list[list[Source]]:
    """Cut videos, sorted by name, into parts, the largest first.

    Parts follow one another by name, so that they are merged a few at a time; only a video that is too large
    for any part falls within the range of another.
    """
    parts: list[list[Source]] = []
    current: list[Source] = []
    n_bytes = 0
    for video in videos:
        if video.size_bytes > max_part_bytes:
            parts.append([video])
            continue
        if len(current) == part_size or n_bytes + video.size_bytes > max_part_bytes:
            parts.append(current)
            current, n_bytes = [], 0
        current.append(video)
        n_bytes += video.size_bytes
    parts += [current] if current else []
    # By name where sizes are equal: every process that plans the same videos plans the same parts.
    return sorted(filter(None, parts), key=lambda part: (-sum(v.size_bytes for v in part), part[0].name))


class _PlanFiles(Sequence[bytes]):
    """The content of the plan's files, made when it is asked for: a million videos take 200 MB."""

    def __init__(self, parts: list[list[Source]]) -> None:
        self._parts = parts

    def __len__(self) -> int:
        return len(self._parts)

    def __getitem__(self, number: Any) -> Any:
        return b"".join(map(_line, self._parts[number]))


def _described(folder: RunFolder, plan: str, identity: RunIdentity, *, with_clips: bool, mixed: bool) -> Plan:
    """Return the plan whose files are in ``plan``: another process may have written them."""
    digest, parts = hashlib.sha256(), []
    for name in sorted(folder.times(plan)):
        text = folder.read(f"{plan}/{name}") or b""
        digest.update(text)
        lines = [json.loads(line) for line in text.splitlines()]
        parts.append(PlannedPart(len(lines), sum(line["size_bytes"] for line in lines), lines[0]["name"]))
    return Plan(folder, plan, identity, with_clips, mixed, tuple(parts), digest.hexdigest())


_OPTIONAL = ("address", "etag", "offset", "error")  # written where they are not None


def _line(video: Source) -> bytes:
    values: dict[str, Any] = {"name": video.name}
    if video.address is None:
        values["path"] = video.file
    values |= {"size_bytes": video.size_bytes, "mtime_ns": video.mtime_ns}
    values |= {key: getattr(video, key) for key in _OPTIONAL if getattr(video, key) is not None}
    # Bytes of a path that are no UTF-8 become escapes, which JSON reads back.
    return json.dumps(values).encode() + b"\n"


def _source(line: dict[str, Any]) -> Source:
    optional = {key: line.get(key) for key in _OPTIONAL}
    path = Path(line["path"] if optional["address"] is None else optional["address"])
    return Source(line["name"], path, line["size_bytes"], line["mtime_ns"], **optional)
