"""A run survives kill -9 and Ctrl-C at any moment; the next one ends with the uninterrupted run's file."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import MEAN, moving_square

from c3d_extract.decode import write_video

pytestmark = pytest.mark.slow

N_COPIES = 3  # of the six small videos: enough that no run ends before its signal


@pytest.fixture(scope="module")
def many(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("many")
    for copy in range(N_COPIES):
        shutil.copytree(videos, root / f"copy{copy}")
    return root


def start(many: Path, weights: Path, output: Path) -> subprocess.Popen[str]:
    words = [
        str(many),
        "--weights",
        str(weights),
        "--mean",
        MEAN,
        "-o",
        str(output),
        "--clips",
        str(output.with_name("clips.h5")),
    ]
    words += ["--pca", "5", "--l2", "--device", "cpu", "-v"]
    command = [sys.executable, "-m", "c3d_extract", "extract", *words]
    return subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"}
    )


def finished(line: str) -> str | None:
    """The video that a line of ``-v`` says was finished in this run."""
    return line.removeprefix("ok: ").split(": ")[0] if line.startswith("ok: ") else None


def run_until(process: subprocess.Popen[str], n_finished: int, signum: int) -> set[str]:
    """Send a signal once so many videos were finished; return those that were."""
    assert process.stderr is not None
    done: set[str] = set()
    for line in process.stderr:
        if (video := finished(line)) is not None:
            done.add(video)
            if len(done) == n_finished:
                time.sleep(random.random() * 0.1)  # somewhere in the next one
                process.send_signal(signum)
    process.wait(timeout=60)
    return done


def assert_equal_files(one: Path, other: Path) -> None:
    for name in ("feats.h5", "clips.h5", "feats.pca.h5"):
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


def test_killed_again_and_again_a_run_ends_with_the_uninterrupted_file(
    many: Path, narrow_weights: Path, tmp_path: Path
) -> None:
    (tmp_path / "whole").mkdir()
    whole = start(many, narrow_weights, tmp_path / "whole" / "feats.h5")
    assert len(run_until(whole, -1, 0)) == 6 * N_COPIES
    assert whole.returncode == 0

    (tmp_path / "killed").mkdir()
    random.seed(7)
    so_far: set[str] = set()
    for signum in (signal.SIGKILL, signal.SIGINT, signal.SIGTERM):
        process = start(many, narrow_weights, tmp_path / "killed" / "feats.h5")
        now = run_until(process, random.randint(1, 4), signum)
        assert process.returncode == (-9 if signum == signal.SIGKILL else 130)
        assert not so_far & now, "a video was done twice after it was committed"
        so_far |= now
    last = start(many, narrow_weights, tmp_path / "killed" / "feats.h5")
    so_far_last = run_until(last, -1, 0)
    assert last.returncode == 0
    assert not so_far & so_far_last
    assert_equal_files(tmp_path / "whole", tmp_path / "killed")
    assert not (tmp_path / "killed" / "feats.h5.partial").exists()


def test_decoders_end_with_a_killed_run(many: Path, narrow_weights: Path, tmp_path: Path) -> None:
    process = start(many, narrow_weights, tmp_path / "feats.h5")
    assert process.stderr is not None
    for line in process.stderr:
        if finished(line):
            break
    family = descendants(process.pid)
    assert family, "no decoder was seen"
    process.kill()
    process.wait()
    process.stderr.close()
    deadline = time.monotonic() + 10
    while any(alive(pid) for pid in family) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not [pid for pid in family if alive(pid)]


def descendants(pid: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*"):
        for child in map(int, (task / "children").read_text().split()):
            found += [child, *descendants(child)]
    return found


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_memory_does_not_grow_with_the_length_of_a_video(narrow_weights: Path, tmp_path: Path) -> None:
    """The bar is 1.1 for an hour against a minute (``benchmarks/memory.py``); here three against one."""
    frames = moving_square(40)
    peaks = []
    for copies in (20, 60):
        path = tmp_path / f"{copies}.mp4"
        write_video(path, (frame for _ in range(copies) for frame in frames), fps=25)
        peaks.append(peak_memory([str(path)], narrow_weights, tmp_path / f"{copies}.h5"))
    assert peaks[1] <= 1.1 * peaks[0], peaks


def peak_memory(videos: list[str], weights: Path, output: Path) -> int:
    """The largest resident size of the main process in KiB (VmHWM)."""
    script = """
import sys
from c3d_extract.cli.extract import command
try:
    command(sys.argv[1:])
except SystemExit as end:
    assert end.code == 0, end.code
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))"""
    words = [*videos, "--weights", str(weights), "--mean", MEAN, "-o", str(output), "--device", "cpu", "-q"]
    done = subprocess.run([sys.executable, "-c", script, *words], capture_output=True, text=True, check=True)
    return int(done.stdout)


def test_a_heap_of_damaged_and_hostile_files_ends_with_one_line_each(
    shared_data: Path, narrow_weights: Path, tmp_path: Path
) -> None:
    nasty = shared_data / "nasty"
    words = [
        "--weights",
        str(narrow_weights),
        "--mean",
        MEAN,
        "-o",
        str(tmp_path / "feats.h5"),
        "--device",
        "cpu",
    ]
    words += ["--workers", "2", "--timeout", "30"]
    done = subprocess.run(
        [sys.executable, "-m", "c3d_extract", "extract", str(nasty), *words],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 3, done.stderr
    assert "Traceback" not in done.stderr
    report = [json.loads(line) for line in (tmp_path / "feats.report.jsonl").read_text().splitlines()]
    assert len(report) == sum(path.is_file() for path in nasty.rglob("*"))
    assert {line["status"] for line in report} == {"ok", "partial", "failed", "skipped"}
    for line in report:
        assert (line["status"] == "ok") == (line["error"] is None), line
