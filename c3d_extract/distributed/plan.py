"""The plan of a run in parts: which videos each part has, and how they are extracted; written once.

A run is a folder::

    run.json                what every part shares, and the SHA-256 of the plan; written last
    plan/000000.jsonl       the videos of one part, sorted by name, one per line
    parts/000000.h5         a finished part, in the format of a feature file

Any number of processes may start a run at the same time. Each writes the plan under a name of its own and
renames the whole folder to ``plan``, which succeeds once; ``run.json`` follows from that folder and the
settings, so that whoever writes it writes the same.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from c3d_extract.compute.batch_size import rounding_factors
from c3d_extract.errors import MismatchError, StoreError, UsageError
from c3d_extract.files import writing_output
from c3d_extract.output import RunIdentity
from c3d_extract.sources.find import Source
from c3d_extract.strict_json import parse_json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from c3d_extract.strict_json import JSON

__all__ = ["MAX_PART_BYTES", "PART_SIZE", "Plan", "PlannedPart", "plan_run", "read_plan"]

FORMAT, VERSION = "c3d-extract run", 1
PART_SIZE = 4096
"""Videos of a part at most; their fc6 of C3D takes 67 MB."""
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
    identity
        Settings, weights, layers and versions, which all parts share.
    with_clips
        Whether parts have clip files.
    parts
        In the order of their numbers: the largest first, so that none is left to the end.
    sha256
        Of the plan's files.
    """

    folder: Path
    identity: RunIdentity
    with_clips: bool
    parts: tuple[PlannedPart, ...]
    sha256: str

    def output(self, number: int) -> Path:
        """Return the feature file of a part; the part is done when it exists."""
        return self.folder / "parts" / f"{number:06d}.h5"

    def clips(self, number: int) -> Path | None:
        """Return a part's clip file, None where there are none."""
        return self.output(number).with_suffix(".clips.h5") if self.with_clips else None

    def report(self, number: int) -> Path:
        """Return a part's report."""
        return self.output(number).with_suffix(".report.jsonl")

    def scratch_name(self, number: int) -> str:
        """Return the name of a part's folder on scratch: no other run has it, of the same videos neither."""
        own = json.dumps([os.path.abspath(self.folder), self.to_json()], sort_keys=True)  # noqa: PTH100 - no links
        return f"c3d-extract-{hashlib.sha256(own.encode()).hexdigest()[:16]}-{number:06d}"

    def videos(self, number: int) -> list[Source]:
        """Read the videos of a part, sorted by name."""
        path = _part_file(self.folder / "plan", number)
        try:
            lines = [parse_json(line) for line in path.read_bytes().split(b"\n") if line]
            return [
                Source(line["name"], Path(line["path"]), line["size_bytes"], line["mtime_ns"])
                for line in lines
            ]
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise StoreError(f"the plan cannot be read ({error})", subject=path) from error

    def check_same(self, identity: RunIdentity, *, with_clips: bool) -> None:
        """Raise MismatchError where a process would extract otherwise than the plan says."""
        differences = self.identity.differences(identity)
        was, now = self.identity.versions, identity.versions
        if rounding_factors(was) != rounding_factors(now):
            devices = (f"{each.get('device')} in batches of {each.get('batch_size')}" for each in (was, now))
            differences.append(" → ".join(devices))
        if with_clips != self.with_clips:
            differences.append(f"clips: {self.with_clips} → {with_clips}")
        if differences:
            raise MismatchError(
                "was planned with other settings",
                differences=differences,
                subject=self.folder / "run.json",
                hint="take another folder",
            )

    def to_json(self) -> dict[str, JSON]:
        """Return the content of ``run.json``."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "identity": asdict(self.identity),
            "with_clips": self.with_clips,
            "plan_sha256": self.sha256,
            "parts": [asdict(part) for part in self.parts],
        }


def plan_run(
    folder: Path,
    videos: Sequence[Source],
    identity: RunIdentity,
    *,
    with_clips: bool = False,
    part_size: int = PART_SIZE,
    max_part_bytes: int = MAX_PART_BYTES,
) -> Plan:
    """Write the plan of a run, or read the one that is there already, and return it.

    Parameters
    ----------
    folder
        The run's folder; made where it is missing.
    videos
        Sorted by name. Not used where the run is planned already: a plan never changes.
    identity
        What `Extractor.identity` returns.
    with_clips
        Whether parts have clip files.
    part_size, max_part_bytes
        What a part has at most; a single larger video has a part to itself.

    Raises
    ------
    MismatchError
        Where the folder holds a run that was planned with other settings.
    StoreError
        Where the folder cannot be written, or holds something else.
    """
    if part_size < 1:
        raise UsageError(f"must be at least 1, not {part_size}", subject="--part-size")
    found = read_plan(folder)
    while found is None:
        _write_parts(folder, _cut(videos, part_size, max_part_bytes))
        _write_run(_described(folder, identity, with_clips=with_clips))
        found = read_plan(folder)  # as any other process reads it
    found.check_same(identity, with_clips=with_clips)
    return found


def read_plan(folder: Path) -> Plan | None:
    """Return the plan of a run, None where there is none yet; StoreError where it is damaged."""
    path = folder / "run.json"
    try:
        values = parse_json(path.read_bytes())
        found = Plan(
            folder,
            RunIdentity(**values["identity"]),
            bool(values["with_clips"]),
            tuple(PlannedPart(**part) for part in values["parts"]),
            str(values["plan_sha256"]),
        )
    except FileNotFoundError:
        return None
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise StoreError(f"is not the plan of a run ({error})", subject=path) from error
    if (values.get("format"), values.get("version")) != (FORMAT, VERSION):
        raise StoreError("is the plan of another version", subject=path)
    return found


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


def _write_parts(folder: Path, parts: list[list[Source]]) -> None:
    """Write the plan's files and put their folder in place, unless another process has done so."""
    own = folder / f".plan-{secrets.token_hex(8)}"
    try:
        own.mkdir(parents=True)
        for number, part in enumerate(parts):
            with writing_output(_part_file(own, number)) as file:
                file.writelines(map(_line, part))
        with contextlib.suppress(OSError):  # another process was first: its plan counts
            own.rename(folder / "plan")
        if not (folder / "plan").is_dir():
            raise StoreError("the plan cannot be put in place", subject=folder / "plan")
    except OSError as error:
        raise StoreError(f"cannot be written ({error.strerror})", subject=folder) from error
    finally:
        shutil.rmtree(own, ignore_errors=True)


def _write_run(plan: Plan) -> None:
    """Write ``run.json``, unless another process has done so: what parts were begun with never changes."""
    path = plan.folder / "run.json"
    own = plan.folder / f".run-{secrets.token_hex(8)}.json"
    with writing_output(own) as file:
        file.write(json.dumps(plan.to_json(), indent=1).encode())
    try:
        os.link(own, path)  # fails where the name is taken, which a rename would not
    except FileExistsError:
        pass
    except OSError:  # a file system without hard links
        own.replace(path)
        return
    own.unlink()


def _described(folder: Path, identity: RunIdentity, *, with_clips: bool) -> Plan:
    """Return the plan whose files are in the folder."""
    digest, parts = hashlib.sha256(), []
    for path in sorted((folder / "plan").glob("*.jsonl")):
        text = path.read_bytes()
        digest.update(text)
        lines = [json.loads(line) for line in text.splitlines()]
        parts.append(PlannedPart(len(lines), sum(line["size_bytes"] for line in lines), lines[0]["name"]))
    return Plan(folder, identity, with_clips, tuple(parts), digest.hexdigest())


def _line(video: Source) -> bytes:
    values: dict[str, Any] = {
        "name": video.name,
        "path": os.fspath(video.path),
        "size_bytes": video.size_bytes,
        "mtime_ns": video.mtime_ns,
    }
    # Bytes of a path that are no UTF-8 become escapes, which JSON reads back.
    return json.dumps(values).encode() + b"\n"


def _part_file(plan: Path, number: int) -> Path:
    return plan / f"{number:06d}.jsonl"
