"""``c3d-tools`` and ``python -m c3d_extract``: a tiny group; each command is imported when it is called."""

from __future__ import annotations

from importlib import import_module

import click

from c3d_extract.cli.common import run_program

COMMANDS = {
    "weights": ("c3d_extract.cli.weights", "List, show, fetch, convert and verify checkpoints."),
    "info": ("c3d_extract.cli.info", "Say what is in a feature, clip or basis file."),
    "pca": ("c3d_extract.cli.pca", "Fit a PCA basis on a feature file, or apply one."),
    "merge": ("c3d_extract.cli.merge", "Merge the parts of a run into one feature file."),
    "export": ("c3d_extract.cli.export", "Write features in the layouts that other people's code loads."),
    "classify": ("c3d_extract.cli.classify", "Evaluate features with a linear classifier."),
    "predict": ("c3d_extract.cli.predict", "Name each video's class with a saved classifier."),
    "aslan": ("c3d_extract.cli.aslan", "Tell pairs of the same action from others."),
    "explain": ("c3d_extract.cli.explain", "Draw what in a clip a network's units respond to."),
    "train": ("c3d_extract.cli.train", "Train a network of the family."),
    "archs": ("c3d_extract.cli.archs", "Show the architectures: shapes, parameters, cost."),
    "demo": ("c3d_extract.cli.demo", "Render a few short sample videos."),
    "bench": ("c3d_extract.cli.bench", "Measure this machine: network, decoders, what a run will wait for."),
    "doctor": ("c3d_extract.cli.doctor", "Show versions, devices, codecs, caches and what would be used."),
}
"""Name → module that holds a click command ``command``, and its one-line help: listing imports nothing."""


class LazyGroup(click.Group):
    """A group that imports a command's module when it is called."""

    def __init__(self, commands: dict[str, tuple[str, str]], help_text: str) -> None:
        super().__init__(help=help_text, context_settings={"help_option_names": ["-h", "--help"]})
        self._lazy = commands

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order they are listed above."""
        del ctx
        return list(self._lazy)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command of that name."""
        del ctx
        if cmd_name not in self._lazy:
            return None
        command = import_module(self._lazy[cmd_name][0]).command
        if not isinstance(command, click.Command):
            raise TypeError(cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing them."""
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in self._lazy.items()])


def main() -> None:
    """Run ``c3d-tools``."""
    run_program(LazyGroup(COMMANDS, "Tools around c3d-extract."), "c3d-tools")


def module_main() -> None:
    """Run ``python -m c3d_extract``: the tools, and ``extract``."""
    extract = {
        "extract": ("c3d_extract.cli.extract", "Turn videos into C3D descriptors (the same as c3d-extract).")
    }
    run_program(LazyGroup(extract | COMMANDS, "C3D video descriptors."), "python -m c3d_extract")
