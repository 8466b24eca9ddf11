"""Check and measure on a GPU all that a machine without one cannot: one command of at most nine minutes.

    python benchmarks/gpu.py [--device cuda] [--output DIRECTORY] [--videos DIRECTORY] [--minutes 9]

It needs no network. Printed is a summary; ``gpu.json`` in the output folder holds every number and every
check with its reason, ``gpu.md`` the same as tables for RESULTS.md. Exit code 1 if a check failed. Sections
run in the order of their importance, those for which no time is left are skipped and named. A section that
fails, hangs or ends its process does not stop the others. ``--device cpu --small`` tries the kit itself on any
machine, with narrow networks and figures that mean nothing.

On a bare machine with torch, torchvision, h5py, click, rich, safetensors, setuptools and a C compiler, from a
checkout and a wheel of PyAV (``pip download --no-deps --only-binary=:all: --python-version 3.12 --platform
manylinux_2_28_x86_64 -d wheels 'av>=17,<20'``, elsewhere)::

    python3 -m pip install --no-index --no-deps --no-build-isolation --target /tmp/site . wheels/av-*.whl
    PYTHONPATH=/tmp/site python3 benchmarks/gpu.py --output results

Without PyAV the sections that need videos are skipped.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).parent))  # also where this file is not the program that was started
from gpu_kit.report import Section, as_markdown, as_text, load_from, save_in, write_whole
from gpu_kit.sections import CANNOT_BEGIN, SECTIONS, work_through

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ROOT = Path(__file__).resolve().parents[1]
GRACE_SECONDS = 20.0  # of a section beyond its limit, until its process is ended
LAST_SECONDS = 5.0  # for ending the process and writing the files
POLL_SECONDS = 0.1


def main() -> int:
    """Run every section in other processes; print, write, and return the exit code."""
    words = _arguments()
    if words.work_through is not None:
        return work_through(words.work_through)
    began, sections = time.time(), []
    with tempfile.TemporaryDirectory(prefix="c3d-gpu-") as folder:
        run = Run(words, Path(folder))
        try:
            for section in run:
                sections.append(section)
                print(as_text(section), flush=True)
                _write(words.output, began, sections)
        except KeyboardInterrupt:
            return 130
    if not sections:
        return 1
    failed = [section.name for section in sections if section.status == "failed"]
    skipped = [section.name for section in sections if section.status == "skipped"]
    print(f"{time.time() - began:.0f} s. Failed: {', '.join(failed) or 'none'}.", end=" ")
    print(f"Skipped: {', '.join(skipped) or 'none'}. {words.output / 'gpu.json'}")
    return 1 if failed else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true", help="narrow networks, short measurements")
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--output", type=Path, default=Path())
    parser.add_argument("--videos", type=Path, default=_shared_videos(), help="real videos, searched for")
    parser.add_argument(
        "--sections",
        nargs="+",
        choices=SECTIONS,
        default=list(SECTIONS),
        metavar="NAME",
        help=", ".join(SECTIONS),
    )
    parser.add_argument(
        "--work-through", type=Path, help=argparse.SUPPRESS
    )  # for the processes of this program
    words = parser.parse_args()
    words.output.mkdir(parents=True, exist_ok=True)
    return words


def _shared_videos() -> Path | None:
    places = (ROOT.parent / "shared/data/actions", ROOT / "shared/data/actions")
    return next((place for place in places if place.is_dir()), None)


class Run:
    """Works through the sections in another process, and in a new one where that has ended.

    Iterating yields each section when it is finished.
    """

    def __init__(self, words: argparse.Namespace, folder: Path) -> None:
        self._words = words
        self._folder = folder
        self._todo = [name for name in SECTIONS if name in words.sections]
        self._ends = time.monotonic() + 60 * words.minutes - LAST_SECONDS

    def __iter__(self) -> Iterator[Section]:
        while self._todo:
            n_before = len(self._todo)
            with self._process() as process:
                yield from self._finished_in(process)
            if process.returncode == CANNOT_BEGIN:
                return
            stuck = len(self._todo) == n_before
            if self._todo and (stuck or load_from(self._folder, self._todo[0])):
                yield self._cut_short(process.returncode)
            while self._todo and time.monotonic() >= self._ends:
                yield self._cut_short(0)

    def command(self) -> list[str]:
        """Return what does the sections of ``todo.json`` in the folder, and saves each there."""
        return [sys.executable, str(Path(__file__).resolve()), "--work-through", str(self._folder)]

    @contextlib.contextmanager
    def _process(self) -> Iterator[subprocess.Popen[bytes]]:
        """Start a process for the sections that are left; end it, and all that it started."""
        words = self._words
        todo = {
            "device": words.device,
            "small": words.small,
            "videos": str(words.videos.resolve()) if words.videos else None,
            "sections": self._todo,
            "ends": self._ends,
        }
        write_whole(self._folder / "todo.json", json.dumps(todo))
        process = subprocess.Popen(self.command(), start_new_session=True, stdout=sys.stderr)
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):  # it and its decoders have ended
                os.killpg(process.pid, signal.SIGKILL)
            with contextlib.suppress(subprocess.TimeoutExpired):  # a driver that hangs holds its processes
                process.wait(timeout=LAST_SECONDS)

    def _finished_in(self, process: subprocess.Popen[bytes]) -> Iterator[Section]:
        """Yield sections as they are finished, until the process ends or a section takes too long."""
        while self._todo:
            has_ended = process.poll() is not None
            section = load_from(self._folder, self._todo[0])
            if section is not None and section.status != "running":
                del self._todo[0]
                yield section
            elif has_ended or time.monotonic() > self._latest(section):
                return
            else:
                time.sleep(POLL_SECONDS)

    def _latest(self, section: Section | None) -> float:
        if section is None:
            return self._ends
        return min(self._ends, section.began + SECTIONS[section.name].limit + GRACE_SECONDS)

    def _cut_short(self, code: int | None) -> Section:
        """Take the first section off the list: its process was ended, or ended by itself."""
        name = self._todo.pop(0)
        begun = load_from(self._folder, name)
        section = begun or Section(name, SECTIONS[name].title)
        section.save = save_in(self._folder)
        now = time.monotonic()
        if now >= self._ends:
            failed = any(check.status == "failed" for check in section.checks)
            section.end("failed" if failed else "skipped", "no time left")
        elif begun and now > section.began + SECTIONS[name].limit:
            section.end("failed", f"still running after {now - section.began:.0f} s")
        else:
            section.end("failed", f"its process ended with exit code {code}")
        return section


def _write(folder: Path, began: float, sections: Sequence[Section]) -> None:
    facts = {row["what"]: row["value"] for row in _machine(sections)}
    header = {
        "command": shlex.join(["python", *sys.argv]),
        "began": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(began)),
        "seconds": round(time.time() - began, 1),
        "device": facts.get("device", "unknown device"),
        "machine": facts,
    }
    found = header | {"sections": [section.to_json() for section in sections]}
    write_whole(folder / "gpu.json", json.dumps(found, indent=1))
    write_whole(folder / "gpu.md", as_markdown(header, sections))


def _machine(sections: Sequence[Section]) -> list[dict[str, Any]]:
    return next((section.tables.get("machine", []) for section in sections if section.name == "machine"), [])


if __name__ == "__main__":
    sys.exit(main())
