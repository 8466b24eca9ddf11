"""Pass the suite with the lowest version of everything that pyproject.toml allows.

    python3.11 .ci/lowest.py        # the oldest Python that it allows, too

Linters are left out: which of them runs says nothing of what a user installs.
"""

from __future__ import annotations

import argparse
import itertools
import re
import subprocess
import sys
import tempfile
import tomllib
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LINTERS = {"mypy", "ruff"}
# The tests' independent oracle. Its wheels ask for NumPy 2, though they run with 1.26 as well.
WITHOUT_ITS_NEEDS = {"opencv-python-headless"}


def lowest(requirements: list[str]) -> dict[str, str]:
    """Return name → the lowest version allowed."""
    pattern = re.compile(r"([A-Za-z0-9._-]+(?:\[\w+\])?)>=([0-9.]+)")
    bounds = map(pattern.match, requirements)
    return {bound[1]: bound[2] for bound in bounds if bound}


def install(folder: Path) -> None:
    """Make an environment with the lowest versions, and this package in it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    of_extras = itertools.chain(*(extras[name] for name in extras if name != "docs"))  # no test builds a site
    wanted = [*project["dependencies"], *of_extras]
    pins = {name: f"{name}=={version}" for name, version in lowest(wanted).items() if name not in LINTERS}
    alone = [pins.pop(name) for name in WITHOUT_ITS_NEEDS]
    venv.create(folder, with_pip=True)
    pip = [str(folder / "bin/pip"), "install", "--quiet"]
    print("lowest versions:", *pins.values(), *alone, flush=True)
    subprocess.run([*pip, ".", *pins.values()], cwd=ROOT, check=True)
    subprocess.run([*pip, "--no-deps", *alone], check=True)


def test(folder: Path) -> int:
    """Run the suite in such an environment; return pytest's exit code."""
    # Not "python -m pytest", which would test this folder instead of what was installed.
    pytest = str(folder / "bin/pytest")
    return subprocess.run([pytest, "-n", "2", "--dist", "worksteal"], cwd=ROOT, check=False).returncode


def main() -> int:
    """Do both, or one of them in the folder that is named; return the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--install", type=Path, metavar="FOLDER", help="only make the environment, there")
    parser.add_argument("--test", type=Path, metavar="FOLDER", help="only test, in the environment there")
    words = parser.parse_args()
    if words.install:
        install(words.install)
        return 0
    if words.test:
        return test(words.test)
    with tempfile.TemporaryDirectory() as folder:
        install(Path(folder))
        return test(Path(folder))


if __name__ == "__main__":
    sys.exit(main())
