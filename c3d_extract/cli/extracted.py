"""Videos given where features are wanted: extracted as the features that they are compared with."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import click

from c3d_extract.cli.completion import complete_weights
from c3d_extract.cli.options import device_option, mean_option, offline_option, precision_option

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from c3d_extract.pipeline import Outcome

__all__ = ["extracted_like", "extraction_options", "loading"]


def extraction_options(source: str, features: str) -> Callable[[Any], Any]:
    """Return the options of how videos are extracted; ``source`` names the network, by its ``features``."""
    options = (
        click.option(
            "--weights",
            metavar="NAME|FILE",
            shell_complete=complete_weights,
            help=f"The network.  [default: the one that {source} names]",
        ),
        mean_option,
        click.option(
            "--pca-from",
            type=click.Path(exists=True, dir_okay=False, path_type=Path),
            help=f"The basis that {features} were projected with.",
        ),
        device_option(several=True),
        precision_option("Of the network."),
        offline_option,
    )

    def add(function: Any) -> Any:
        for option in reversed(options):
            function = option(function)
        return function

    return add


def loading(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of `extraction_options` that `Extractor.from_weights` takes."""
    return {name: options[name] for name in ("mean", "device", "precision", "offline")}


@contextmanager
def extracted_like(
    provenance: Mapping[str, Any], videos: Sequence[str], options: Mapping[str, Any]
) -> Iterator[tuple[Path, list[Outcome]]]:
    """Extract videos as features of this provenance were; yield a feature file, which is temporary."""
    from c3d_extract.analysis import extractor_for, write_features
    from c3d_extract.output import load_basis

    basis = None if options["pca_from"] is None else load_basis(options["pca_from"])
    with (
        extractor_for(provenance, basis, options["weights"], **loading(options)) as extractor,
        TemporaryDirectory(prefix="c3d-") as folder,
    ):
        features = Path(folder) / "feats.h5"
        yield features, write_features(extractor, videos, features, basis)
