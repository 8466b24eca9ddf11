"""``c3d-tools`` and ``python -m c3d_extract``: a tiny group; each command is imported when it is called."""

from __future__ import annotations

import click

from c3d_extract.cli.common import run_program
from c3d_extract.cli.groups import LazyGroup

__all__ = ["COMMANDS", "LazyGroup", "main", "module_main"]

COMMANDS = {
    "weights": ("c3d_extract.cli.weights", "List, show, fetch, convert and verify checkpoints."),
    "info": ("c3d_extract.cli.info", "Say what is in a feature, clip or basis file."),
    "pca": ("c3d_extract.cli.pca", "Fit a PCA basis on a feature file, or apply one."),
    "merge": ("c3d_extract.cli.merge", "Merge the parts of a run into one feature file."),
    "export": ("c3d_extract.cli.export", "Write features in the layouts that other people's code loads."),
    "classify": ("c3d_extract.cli.classify", "Evaluate features with a linear classifier."),
    "predict": ("c3d_extract.cli.predict", "Name each video's class with a saved classifier."),
    "map": ("c3d_extract.cli.map", "Write a page with a map of videos: like ones lie close together."),
    "report": ("c3d_extract.cli.report", "Write a page on what a run did: failures, lengths, rates, times."),
    "search": ("c3d_extract.cli.search", "Find the nearest videos of one, or near-duplicates."),
    "aslan": ("c3d_extract.cli.aslan", "Tell pairs of the same action from others."),
    "explain": ("c3d_extract.cli.explain", "Draw what in a clip a network's units respond to."),
    "train": ("c3d_extract.cli.train", "Train a network of the family."),
    "archs": ("c3d_extract.cli.archs", "Show the architectures: shapes, parameters, cost."),
    "demo": ("c3d_extract.cli.demo", "Render a few short sample videos."),
    "bench": ("c3d_extract.cli.bench", "Measure this machine: network, decoders, what a run will wait for."),
    "doctor": ("c3d_extract.cli.doctor", "Show versions, devices, codecs, caches and what would be used."),
}
"""Name → module that holds a click command ``command``, and its one-line help: listing imports nothing."""


_ELSEWHERE = {"extract": "Extraction is a program of its own: c3d-extract videos/ -o feats.h5"}


def main() -> None:
    """Run ``c3d-tools``."""
    _run(LazyGroup(COMMANDS, "Tools around c3d-extract.", _ELSEWHERE), "c3d-tools")


def module_main() -> None:
    """Run ``python -m c3d_extract``: the tools, and ``extract``."""
    extract = {
        "extract": ("c3d_extract.cli.extract", "Turn videos into C3D descriptors (the same as c3d-extract).")
    }
    _run(LazyGroup(extract | COMMANDS, "C3D video descriptors."), "python -m c3d_extract")


def _run(group: LazyGroup, name: str) -> None:
    run_program(click.version_option(package_name="c3d-extract", prog_name=name)(group), name)
