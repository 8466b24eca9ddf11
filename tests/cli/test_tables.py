"""Tables for people on a terminal, lines with tabs for programs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner
from store_samples import identity, open_store, record, sample_rows

from c3d_extract.cli import archs, export, info, tables, weights
from c3d_extract.output.export import PRESETS
from c3d_extract.weights.registry import listed_entries

if TYPE_CHECKING:
    from pathlib import Path

    import click

LONG = " ".join(["word"] * 30)
"""Wider than a terminal."""


def run(command: click.Command, *words: object) -> str:
    result = CliRunner().invoke(command, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_piped_tables_have_a_line_a_row_whatever_is_in_it(capsys: pytest.CaptureFixture[str]) -> None:
    tables.show_table(("name", "what"), [("a\tb\nc", LONG), ("d", "")], right=("name",))
    assert capsys.readouterr().out == f"name\twhat\na\\tb\\nc\t{LONG}\nd\t\n"
    tables.show_table(("layer",), [("fc6",)], title="c3d")
    assert capsys.readouterr().out == "name\tlayer\nc3d\tfc6\n"
    tables.show_facts({"": {"file": LONG}, "settings": {"a\x1b[1m": "1"}})
    assert capsys.readouterr().out == f"file\t{LONG}\nsettings.a\\x1b[1m\t1\n"


@pytest.mark.usefixtures("terminal")
def test_on_a_terminal_columns_are_aligned_and_wrapped(capsys: pytest.CaptureFixture[str]) -> None:
    tables.show_table(("n", "what"), [("1", LONG), ("100", "x")], right=("n",), wrapped=("what",), title="t")
    title, heading, first, *more = capsys.readouterr().out.splitlines()
    assert title.strip() == "t"
    assert heading.split() == ["n", "what"]
    assert first.startswith("  1  word")
    assert more[-1].startswith("100  x")
    assert all(len(line) <= 80 for line in more)
    tables.show_facts({"": {"file": LONG}, "settings": {"[bold]": "1"}})
    *lines, section, setting = capsys.readouterr().out.splitlines()
    assert section.strip() == "settings"
    assert setting.split() == ["[bold]", "1"]
    assert all(len(line) <= 80 for line in lines)


def test_lists_have_a_line_for_each_thing_when_piped() -> None:
    listed = [line.split("\t") for line in run(weights.command, "list").splitlines()]
    assert [row[0] for row in listed] == ["name", *listed_entries()]
    assert {len(row) for row in listed} == {5}
    presets = [line.split("\t") for line in run(export.command, "--list").splitlines()]
    assert [row[0] for row in presets] == ["name", *PRESETS]
    layers = [line.split("\t") for line in run(archs.command, "c3d", "depth-3").splitlines()]
    assert layers[0] == ["name", "layer", "kernel", "output", "parameters", "multiply-adds"]
    assert ["depth-3", "fc6", "", "2048", "8,390,656", "8.4 M"] in layers


def test_info_has_every_fact_and_failure_on_a_line_when_piped(tmp_path: Path) -> None:
    with open_store(tmp_path / "feats.h5", identity()) as store:
        for row in sample_rows(120):
            record(store, row)
        store.finish(complete=True)
    facts = dict(line.split("\t", 1) for line in run(info.command, tmp_path / "feats.h5").splitlines())
    assert facts["file"] == str(tmp_path / "feats.h5")
    assert facts["settings.stride"] == "16"
    assert len([name for name in facts if name.startswith("failed.")]) == 24


@pytest.mark.usefixtures("terminal")
def test_lists_fit_a_terminal() -> None:
    for command, words in ((weights.command, ["list"]), (export.command, ["--list"]), (archs.command, [])):
        text = run(command, *words)
        assert max(map(len, text.splitlines())) <= 80
        assert "\t" not in text
        assert "…" not in text
