"""The README says what is there: its options, commands, names and exit codes are those of the program."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import c3d_extract
from c3d_extract.cli.extract import command
from c3d_extract.cli.tools import COMMANDS
from c3d_extract.weights import find_record, local_path

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_every_option_of_c3d_extract_is_in_the_readme_and_the_other_way_round() -> None:
    real = {word for p in command.params for word in p.opts if word.startswith("--")} - {
        "--version",
        "--help",
    }
    short = {"--quiet", "--verbose"}  # named as -q and -v
    table = README.split("| option |")[1].split("Exit codes")[0]
    assert real - short == set(re.findall(r"--[a-z][a-z0-9-]+", table))


def test_every_command_that_the_readme_shows_exists() -> None:
    shown = set(re.findall(r"c3d-tools ([a-z]+)", README))
    assert shown <= set(COMMANDS)
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert all(f"`{name}`" in changelog for name in COMMANDS)


def test_the_python_that_the_readme_shows_parses_and_its_names_are_public() -> None:
    blocks = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert blocks
    for block in blocks:
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and node.module == "c3d_extract":
                assert {alias.name for alias in node.names} <= set(c3d_extract.__all__)


def test_links_and_files_that_the_readme_names_are_there() -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


def test_the_readmes_first_run_works_without_a_download(tmp_path: Path) -> None:
    if local_path(find_record("motion-mini")) is None:
        pytest.fail("weights/motion-mini.safetensors is not in this installation")
    block = README.split("<!-- ci: first -->")[1].split("```")[1].removeprefix("sh\n").strip()
    assert block.startswith("python3 -m venv .venv && . .venv/bin/activate && pip install . && ")
    steps = [step.split() for step in block.split("&&")[3:]]  # the tests run in an environment that is made
    assert [step[0] for step in steps] == ["c3d-tools", "c3d-extract", "c3d-tools"]
    for program, *words in steps:
        module = [] if program == "c3d-tools" else ["extract"]
        done = subprocess.run(
            [sys.executable, "-m", "c3d_extract", *module, *words],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    assert "motion-mini" in done.stdout


def test_weights_show_says_what_motion_mini_really_takes() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "c3d_extract", "weights", "show", "motion-mini", "--json"],
        capture_output=True,
        text=True,
        check=True,
    )
    shown = json.loads(done.stdout)
    assert (shown["resize"], shown["crop"]) == ([64, 86], [56, 56])
