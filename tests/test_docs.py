"""README and docs/ say what is there: their options, commands, names and figures are those of the program."""

from __future__ import annotations

import ast
import json
import logging
import re
import runpy
import shlex
import shutil
from itertools import islice
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

import c3d_extract
from c3d_extract import FeatureFile
from c3d_extract.cli.extract import command
from c3d_extract.cli.tools import COMMANDS, LazyGroup
from c3d_extract.decode import open_video
from c3d_extract.weights import find_entry, local_path

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCS = ROOT / "docs"
REFERENCE = runpy.run_path(str(DOCS / "mkdocs" / "reference.py"))


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


PAGES = [ROOT / "README.md", ROOT / "weights/README.md", ROOT / ".github/CONTRIBUTING.md", *DOCS.glob("*.md")]


def without_code(page: str) -> str:
    return re.sub(r"^```.*?^```", "", page, flags=re.MULTILINE | re.DOTALL)


def anchors(page: str) -> set[str]:
    """Return the names that a site gives to the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", without_code(page), flags=re.MULTILINE)
    return {re.sub(r"[^\w\s-]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_and_headings_that_are_there(page: Path) -> None:
    text = without_code(page.read_text("utf-8"))
    links = re.findall(r"\]\((?![a-z]+:)([^)#]*)(?:#([^)]*))?\)", text)
    for target, anchor in links:
        path = page.parent / target if target else page
        assert path.exists(), target
        assert not anchor or anchor in anchors(path.read_text("utf-8")), f"{target}#{anchor}"


def test_every_page_is_on_the_site_and_every_public_name_on_its_page() -> None:
    config = (DOCS / "mkdocs" / "mkdocs.yml").read_text("utf-8")
    assert {path.name for path in DOCS.glob("*.md")} <= set(
        re.findall(r": ([\w-]+\.md)$", config, re.MULTILINE)
    )
    named = re.findall(r"^::: c3d_extract\.(\w+)$", (DOCS / "api.md").read_text("utf-8"), re.MULTILINE)
    assert sorted(named) == sorted(set(c3d_extract.__all__) - {"__version__"})


def test_the_reference_has_every_command_and_option() -> None:
    sections = dict(
        re.findall(r"^## (.*?)\n\n```text\n(.*?)\n```$", REFERENCE["page"](), re.MULTILINE | re.DOTALL)
    )
    tools = LazyGroup(COMMANDS, "")
    expected: list[tuple[str, click.Command]] = [("c3d-extract", command), ("c3d-tools", tools)]
    for name, child in expected:  # which grows by the commands of each group
        section = sections.pop(name)
        assert section.startswith(f"Usage: {name}")
        options = {word for p in child.params for word in p.opts + p.secondary_opts if word.startswith("-")}
        assert options <= set(re.findall(r"(?<![\w-])--?[a-z][a-z0-9-]*", section)), name
        if isinstance(child, click.Group):
            context = click.Context(child)
            found = [(word, child.get_command(context, word)) for word in child.list_commands(context)]
            expected += [(f"{name} {word}", below) for word, below in found if below is not None]
    assert set(COMMANDS) <= {name.split()[1] for name, _ in expected if " " in name}
    assert sections == {}


def test_the_figure_of_clips_is_what_the_program_cuts() -> None:
    figure = runpy.run_path(str(DOCS / "figures" / "clips.py"))
    assert figure["drawing"]() == figure["OUTPUT"].read_text("utf-8"), "run docs/figures/clips.py"


@pytest.mark.slow
def test_the_readmes_first_run_works_without_a_download(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if local_path(find_entry("motion-mini")) is None:
        pytest.fail("weights/motion-mini.safetensors is not in this installation")
    block = README.split("<!-- ci: first -->")[1].split("```")[1].removeprefix("sh\n").strip()
    assert block.startswith("python3 -m venv .venv && . .venv/bin/activate && pip install . && ")
    steps = [step.split() for step in block.split("&&")[3:]]  # the tests run in an environment that is made
    assert [step[0] for step in steps] == ["c3d-tools", "c3d-extract", "c3d-tools"]
    monkeypatch.chdir(tmp_path)
    for program, *words in steps:  # as written: nothing is put in the place of the weights
        group = command if program == "c3d-extract" else LazyGroup(COMMANDS, "")
        done = CliRunner().invoke(group, words)
        assert done.exit_code == 0, done.output
    assert "motion-mini" in done.stdout


def commands(*pages: str) -> list[list[str]]:
    """Return the words of every command line that the pages show, but those that ``.ci/run`` runs."""
    blocks = re.findall(r"(?<!-->\n)```sh\n(.*?)```", "\n".join(pages), flags=re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines() if line.startswith("c3d-")]
    lines += re.findall(r"^    (c3d-.*)$", "\n".join(pages), flags=re.MULTILINE)
    return [list(words) for words in dict.fromkeys(tuple(shlex.split(line, comments=True)) for line in lines)]


NARROW = ["--width", "0.02", "--size", "36", "44", "32", "32"]
ONE_STEP = ["--iterations", "1", "--batch-size", "2", "--n-test", "2", "--workers", "0"]
# The authors' weights would have to be fetched; a training of hours is cut to one step of a narrow network.
INSTEAD = {
    "c3d-extract": ["--weights", "motion-mini"],
    "bench": ["--weights", "motion-mini"],
    "train": [*ONE_STEP, *NARROW],
}


def run(program: str, *words: str) -> Result:
    group = command if program == "c3d-extract" else LazyGroup(COMMANDS, "")
    more = INSTEAD.get(program if program == "c3d-extract" else words[0], [])
    here = ["motion-mini" if word == "sports1m" else word for word in words]
    return CliRunner().invoke(group, [*here, *more])


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "videos"
    assert run("c3d-tools", "demo", str(folder)).exit_code == 0
    return folder


@pytest.fixture
def place(rendered: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory of README.md's lines, filled from the samples that ``c3d-tools demo`` renders."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(rendered, "videos")
    shutil.copytree("videos", "train")
    samples = sorted(Path("videos").glob("*/*_g01_*"))
    for sample in samples:
        (Path("test") / sample.parent.name).mkdir(parents=True)
        shutil.copy(sample, Path("test") / sample.parent.name)
    shutil.copy(samples[0], "clip.mp4")
    Path("list.txt").write_text("".join(f"{sample}\n" for sample in samples))
    with open_video("clip.mp4") as reader:
        for number, frame in enumerate(islice(reader.frames(), 20), start=1):
            Path("frames/one").mkdir(parents=True, exist_ok=True)
            Image.fromarray(frame.bgr[:, :, ::-1]).save(f"frames/one/{number:06d}.jpg")
    return tmp_path


@pytest.mark.slow
def test_every_other_command_of_the_readme_runs_on_the_rendered_samples(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("c3d_extract.cli.bench._MODEL_SECONDS", 0.01)
    monkeypatch.setattr("c3d_extract.cli.bench._DECODE_SECONDS", 0.01)
    monkeypatch.setattr("c3d_extract.cli.bench._SAMPLES", (("320x240", (16, 240, 320)),))
    lines = commands(README, *((DOCS / name).read_text("utf-8") for name in ("checkpoints.md", "exports.md")))
    programs = [program for program, *_ in lines]
    assert {"c3d-extract", "c3d-tools"} == set(programs)
    assert programs.count("c3d-extract") >= 7
    first = next(words for words in lines if words[0] == "c3d-extract")
    assert run(*first).exit_code == 0
    kept = shutil.copy("feats.h5", place.with_name("kept.h5"))
    for words in sorted(lines, key=lambda words: words[0] == "c3d-tools"):
        for old in place.glob("feats.*"):  # of a line with other settings
            old.unlink()
        if words[0] != "c3d-extract" and "feats.h5" in words:
            shutil.copy(kept, "feats.h5")
        done = run(*words)
        assert done.exit_code == 0, f"{words}: {done.output}"
    with FeatureFile("test.h5") as file:
        assert file["fc6"].shape == (4, 10)


def test_the_python_of_the_readme_runs_on_the_rendered_samples(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("c3d-extract", "videos/").exit_code == 0
    pages = [
        README,
        *((DOCS / name).read_text("utf-8") for name in ("getting-started.md", "feature-file.md")),
    ]
    for block in re.findall(r"```python\n(.*?)```", "\n".join(pages), flags=re.DOTALL):
        names: dict[str, Any] = {}
        exec(compile(block.replace("sports1m", "motion-mini"), "README.md", "exec"), names)  # noqa: S102
        assert names["X"][:].shape == (12, names["X"].shape[1])
        assert len(names["names"]) == 12
    assert capsys.readouterr().out.count(" skipped ") == 12


@pytest.mark.slow
@pytest.mark.parametrize("name", ["getting-started.md", "classifier.md"])
def test_the_commands_of_a_first_page_run_in_their_order(
    name: str, rendered: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("sklearn")
    monkeypatch.chdir(tmp_path)
    shutil.copytree(rendered, "videos")
    page = (DOCS / name).read_text("utf-8")
    for words in commands(page.replace("--per-class 10", "--per-class 5")):
        done = run(*words)
        assert done.exit_code == 0, f"{words}: {done.output}"
    for block in re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL):
        exec(compile(block, name, "exec"), {})  # noqa: S102


@pytest.mark.slow
def test_the_python_of_the_pipelines_page_runs_and_its_commands_too(
    place: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "c3d_extract")  # and as it was afterwards
    for library in ("sklearn", "datasets", "pandas", "pyarrow"):
        pytest.importorskip(library)
    monkeypatch.setenv("HF_HOME", str(place / "hf"))
    assert run("c3d-extract", "videos/").exit_code == 0
    page = (ROOT / "docs" / "pipelines.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    assert sum("import ray" in block for block in blocks) == 1, "run by tests/distributed/ray_cases.py"
    found: dict[str, Any] = {}
    for block in blocks:
        if "import ray" not in block:
            names: dict[str, Any] = {"__name__": "__main__"}
            exec(compile(block.replace("sports1m", "motion-mini"), "pipelines.md", "exec"), names)  # noqa: S102
            found |= names
    np.testing.assert_array_equal(found["of_bytes"].clips, found["features"].clips)
    np.testing.assert_array_equal(found["of_generator"].clips, found["of_array"].clips)
    assert found["X"].shape == (12, 512)
    found["extractor"].close()
    for line in re.findall(r"^(c3d-tools .*)$", page, flags=re.MULTILINE):
        words = shlex.split(line, comments=True)
        done = run(*words)
        assert done.exit_code == 0, f"{words}: {done.output}"


def test_weights_show_says_what_motion_mini_really_takes() -> None:
    shown = json.loads(
        CliRunner().invoke(LazyGroup(COMMANDS, ""), ["weights", "show", "motion-mini", "--json"]).stdout
    )
    assert (shown["resize"], shown["crop"]) == ([64, 86], [56, 56])
