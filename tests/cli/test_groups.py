"""Mistyped commands and options, versions, and the groups of options in the help."""

from __future__ import annotations

import re

import click
import pytest
from click.testing import CliRunner

from c3d_extract.cli import extract, pca, tools, train, weights
from c3d_extract.cli.groups import GroupedCommand
from c3d_extract.train.recipes import RECIPES


def run_main(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str
) -> tuple[object, str]:
    monkeypatch.setattr("sys.argv", ["c3d-tools", *words])
    monkeypatch.setattr("c3d_extract.cli.common.keep_streams", lambda: None)
    with pytest.raises(SystemExit) as end:
        tools.main()
    out, err = capsys.readouterr()
    return end.value.code, out + err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["clasify"], "No such command 'clasify'. Did you mean classify?"),
        (["weight"], "No such command 'weight'. Did you mean weights?"),
        (["extract", "videos/"], "'extract'. Extraction is a program of its own: c3d-extract videos/"),
        (["qqqq"], "No such command 'qqqq'.\n"),
        (["weights", "lst"], "No such command 'lst'. Did you mean list?"),
        (["pca", "aply"], "No such command 'aply'. Did you mean apply?"),
    ],
)
def test_a_mistyped_command_names_the_one_that_was_meant(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str], says: str
) -> None:
    code, text = run_main(monkeypatch, capsys, *words)
    assert code == 2
    assert says in text


def test_a_mistyped_option_names_the_one_that_was_meant() -> None:
    result = CliRunner().invoke(extract.command, ["--weight", "x"])
    assert result.exit_code == 2
    assert "--weights" in result.stderr


def test_the_tools_have_a_version(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, text = run_main(monkeypatch, capsys, "--version")
    assert code == 0
    assert re.fullmatch(r"c3d-tools, version \d+\.\d+.*\n", text)


def test_every_option_is_in_the_help_once_and_in_a_group() -> None:
    command = extract.command
    assert isinstance(command, GroupedCommand)
    text = CliRunner().invoke(command, ["--help"], env={"COLUMNS": "80"}).stdout
    options = [param for param in command.params if isinstance(param, click.Option)]
    listed = re.findall(r"^  (?:-\w, )?(--[a-z0-9-]+)", text, flags=re.MULTILINE)
    names = [next(o for o in option.opts if o.startswith("--")) for option in options]
    assert sorted(listed) == sorted([*names, "--help"])
    grouped = [name for names in command.groups.values() for name in names]
    assert len(grouped) == len(set(grouped))
    assert {option.name for option in options} == {*grouped, "version"}
    titles = re.findall(r"^([A-Z][\w ,]+):$", text, flags=re.MULTILINE)
    assert titles[: len(command.groups)] == list(command.groups)
    assert max(map(len, text.partition("Examples:")[0].splitlines())) <= 80


def test_the_help_of_train_has_every_recipe_with_its_numbers() -> None:
    text = CliRunner().invoke(train.command, ["--help"], env={"COLUMNS": "80"}).stdout
    table = text.partition("Recipes, and their defaults")[2].splitlines()[1:]
    assert table[0].split() == list(RECIPES)
    rows = {line.split()[0]: line.split()[1:] for line in table[1:]}
    assert rows["rate"] == [str(recipe.rate) for recipe in RECIPES.values()]
    assert rows["iterations"] == [f"{recipe.iterations:,}" for recipe in RECIPES.values()]
    assert rows["epochs"] == [str(recipe.epochs or "-") for recipe in RECIPES.values()]
    options = {option for param in train.command.params for option in param.opts}
    assert {f"--{name}" for name in rows} <= options
    assert max(map(len, table)) <= 80


def test_groups_of_commands_list_theirs() -> None:
    for group, name in ((weights.command, "verify"), (pca.command, "apply")):
        assert name in CliRunner().invoke(group, ["--help"]).stdout
