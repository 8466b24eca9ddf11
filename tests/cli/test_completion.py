"""What a shell completes, asked as bash asks."""

from __future__ import annotations

import pytest
from click.shell_completion import BashComplete

from c3d_extract.cli import extract, tools
from c3d_extract.models.c3d import ARCHITECTURES
from c3d_extract.models.torchvision import NETWORKS
from c3d_extract.output.export import PRESETS
from c3d_extract.weights.registry import listed_entries


def completed(line: str, kind: str = "plain") -> list[str]:
    """Return what bash is offered for the last word of a line."""
    program, *words = line.split(" ")
    command = extract.command if program == "c3d-extract" else tools.LazyGroup(tools.COMMANDS, "")
    complete = BashComplete(command, {}, program, "_COMPLETE")
    return [item.value for item in complete.get_completions(words[:-1], words[-1]) if item.type == kind]


def test_weights_are_completed_by_name_and_as_files() -> None:
    assert completed("c3d-extract --weights ") == list(listed_entries())
    assert completed("c3d-extract --weights swin3d_b") == ["swin3d_b", "swin3d_b_22k"]
    assert completed("c3d-tools predict motion") == ["motion-mini"]
    assert completed("c3d-extract --weights a/b", kind="file") == ["a/b"]


def test_files_come_first_since_clicks_bash_script_forgets_what_is_before_them() -> None:
    complete = BashComplete(extract.command, {}, "c3d-extract", "_COMPLETE")
    kinds = [item.type for item in complete.get_completions(["--weights"], "mot")]
    assert kinds == ["file", "plain"]


def test_layers_are_those_of_the_weights() -> None:
    assert completed("c3d-extract --layer ") == list(ARCHITECTURES["c3d"].layers)
    assert completed("c3d-extract --weights s3d --layer ") == list(NETWORKS["s3d"].layers)
    assert completed("c3d-extract --weights swin3d_b_22k --layer l") == ["logits"]
    assert completed("c3d-extract --weights own.pt --layer f") == ["fc6", "fc7", "fc8"]


def test_presets_and_commands_are_completed() -> None:
    assert completed("c3d-extract --preset ") == list(PRESETS)
    assert completed("c3d-tools export act") == [name for name in PRESETS if name.startswith("act")]
    assert completed("c3d-tools ex") == ["export", "explain"]


@pytest.mark.parametrize("program", ["c3d-extract", "c3d-tools"])
def test_the_script_for_bash_is_made_as_the_readme_says(
    program: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    variable = f"_{program.upper().replace('-', '_')}_COMPLETE"
    monkeypatch.setenv(variable, "bash_source")
    monkeypatch.setattr("click.shell_completion.BashComplete._check_version", lambda *_: None)
    monkeypatch.setattr("c3d_extract.cli.common.keep_streams", lambda: None)
    monkeypatch.setattr("sys.argv", [program])
    with pytest.raises(SystemExit):
        (extract if program == "c3d-extract" else tools).main()
    assert f"{variable}=bash_complete" in capsys.readouterr().out
