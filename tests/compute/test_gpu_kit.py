"""``benchmarks/gpu.py`` runs on a CPU, finds nothing wrong, and survives whatever a section does."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import subprocess
import sys
import textwrap
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

pytestmark = pytest.mark.slow

PROGRAM = Path(__file__).parents[2] / "benchmarks" / "gpu.py"

TABLES = {
    "machine": 1,
    "precisions": 1,
    "batches": 1,
    "memory": 1,
    "resume": 1,
    "network": 2,
    "videos": 2,
    "gaps": 2,
    "training": 1,
    "layouts": 1,
}
"""Section → tables with numbers, on a CPU. Not every torch has fp16 or the compiler there."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the program writes."""
    folder = tmp_path_factory.mktemp("gpu")
    words = [sys.executable, str(PROGRAM), "--device", "cpu", "--small", "--output", str(folder)]
    # One thread: other tests have the other cores, and threads that share them wait for each other.
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    result = subprocess.run(words, capture_output=True, text=True, check=False, env=env)
    assert result.returncode == 0, result.stdout + result.stderr
    (folder / "printed").write_text(result.stdout)
    return folder


@pytest.fixture(scope="module")
def found(folder: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((folder / "gpu.json").read_text())
    return values


def numbers(value: Any) -> Iterator[float]:
    if isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from numbers(part)
    elif isinstance(value, float):
        yield value


def test_no_check_fails_and_every_number_is_there(found: dict[str, Any]) -> None:
    sections = {section["name"]: section for section in found["sections"]}
    assert set(TABLES) <= set(sections)
    for name, n_tables in TABLES.items():
        assert sections[name]["status"] == "ok", name
        assert len(sections[name]["tables"]) >= n_tables, name
        assert all(rows for rows in sections[name]["tables"].values())
    checks = [check for section in found["sections"] for check in section["checks"]]
    assert len(checks) > 25
    assert {check["status"] for check in checks} <= {"ok", "skipped"}
    assert all(check["why"] for check in checks if check["status"] == "skipped")
    assert all(map(math.isfinite, numbers(found["sections"])))
    assert found["machine"]["torch"]
    assert found["device"] == "cpu"


def test_the_summary_fits_eighty_columns_and_the_table_is_markdown(folder: Path) -> None:
    assert max(map(len, (folder / "printed").read_text().splitlines()[:-1])) <= 80
    lines = (folder / "gpu.md").read_text().splitlines()
    rulers = [place for place, line in enumerate(lines) if line.startswith("| ---")]
    assert len(rulers) >= sum(TABLES.values())
    for place in rulers:
        assert lines[place - 1].count("|") == lines[place].count("|") == lines[place + 1].count("|")


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(PROGRAM.parent))
    spec = importlib.util.spec_from_file_location("gpu_program", PROGRAM)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


FAULTS = """
    import json, os, signal, sys, time
    from pathlib import Path
    from gpu_kit.report import Section, save_in

    folder = Path(sys.argv[1])
    for name in json.loads((folder / "todo.json").read_text())["sections"]:
        section = Section(name, name, began=time.monotonic(), save=save_in(folder))
        section.row("so far", number=1.5)
        if name == "overflow":
            os.kill(os.getpid(), signal.SIGKILL)
        if name == "batches":
            time.sleep(60)
        if name == "memory":
            section.end("failed", "the device is lost")
            sys.exit(3)
        section.end()
"""


def test_a_section_that_dies_hangs_or_loses_the_device_stops_no_other(
    program: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["machine", "overflow", "batches", "memory", "resume"]
    monkeypatch.setattr(program, "GRACE_SECONDS", 0.5)
    limits = {name: entry._replace(limit=1.0) for name, entry in program.SECTIONS.items()}
    monkeypatch.setattr(program, "SECTIONS", limits)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(PROGRAM.parent), *sys.path]))
    faults = [sys.executable, "-c", textwrap.dedent(FAULTS)]
    monkeypatch.setattr(program.Run, "command", lambda run: [*faults, str(run._folder)])
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--output", str(tmp_path), "--sections", *names])
    with (tmp_path / "printed").open("w") as printed:
        monkeypatch.setattr(sys, "stderr", printed)
        assert program.main() == 1
    found = {
        section["name"]: section for section in json.loads((tmp_path / "gpu.json").read_text())["sections"]
    }
    assert [section["status"] for section in found.values()] == ["ok", "failed", "failed", "failed", "ok"]
    assert list(found) == names
    assert found["overflow"]["why"] == "its process ended with exit code -9"
    assert found["batches"]["why"].startswith("still running after")
    assert found["memory"]["why"] == "the device is lost"
    assert all(section["tables"] == {"so far": [{"number": 1.5}]} for section in found.values())


def test_a_check_that_fails_makes_its_section_fail(program: ModuleType) -> None:
    section = program.Section("machine", "The machine")
    section.check("two and two are four", True)
    section.check("two and two are five", False, "4")
    section.end()
    assert section.status == "failed"
    assert "failed  two and two are five (4)" in program.as_text(section)


def test_when_the_time_is_up_the_rest_is_skipped_by_name(
    program: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        program.Run, "command", lambda _: [sys.executable, "-c", "import time; time.sleep(60)"]
    )
    words = Namespace(
        sections=["network", "videos"], device="cpu", small=True, videos=None, minutes=(5.3 / 60)
    )
    with (tmp_path / "printed").open("w") as printed:
        monkeypatch.setattr(sys, "stderr", printed)
        found = list(program.Run(words, tmp_path))
    assert [(section.name, section.status, section.why) for section in found] == [
        ("network", "skipped", "no time left"),
        ("videos", "skipped", "no time left"),
    ]


def test_the_share_in_which_a_device_is_busy(program: ModuleType) -> None:
    from gpu_kit.videos import merged, total  # type: ignore[import-not-found,unused-ignore]

    del program  # it has put the folder of its parts on the path
    spans = [(5.0, 6.0), (0.0, 2.0), (1.0, 3.0), (1.5, 1.6)]
    assert merged(spans) == [(0.0, 3.0), (5.0, 6.0)]
    assert total(merged(spans)) == 4.0


def test_the_random_network_is_homogeneous(program: ModuleType) -> None:
    """The overflow check needs it: sixty times the contrast gives sixty times the features."""
    from dataclasses import replace

    from gpu_kit.checks import fp32_on_cpu  # type: ignore[import-not-found,unused-ignore]
    from gpu_kit.kit import MEAN, random_checkpoint  # type: ignore[import-not-found,unused-ignore]

    from c3d_extract.models.c3d import ARCHITECTURES

    del program
    checkpoint = random_checkpoint(replace(ARCHITECTURES["c3d"].scaled(1 / 16), clip=(16, 32, 32)))
    noise = np.random.default_rng(0).integers(-1, 2, (1, 16, 32, 32, 3))
    faint, loud = (fp32_on_cpu(checkpoint, (MEAN + k * noise).astype(np.uint8)) for k in (1, 60))
    np.testing.assert_allclose(loud, 60 * faint, rtol=1e-4, atol=1e-4 * np.abs(loud).max())
