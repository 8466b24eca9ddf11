"""From videos to classes: with a saved classifier, or with the classes that a network was trained on."""

from __future__ import annotations

import dataclasses
import json
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple

from c3d_extract.analysis.features import read_layer, require_same_features, weights_provenance
from c3d_extract.analysis.labels import folder_of
from c3d_extract.errors import MismatchError, PcaError, StoreError, UsageError
from c3d_extract.pipeline import Extractor
from c3d_extract.settings import ExtractSettings

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from c3d_extract.analysis.classifier_file import LinearClassifier
    from c3d_extract.output.pca_basis import PcaBasis
    from c3d_extract.pipeline import Outcome

__all__ = ["Predictions", "classify_features", "extractor_for", "probabilities", "write_features"]


class Predictions(NamedTuple):
    """The classes of some videos.

    Attributes
    ----------
    videos
        Names.
    sizes
        Bytes of each.
    classes
        Names.
    scores
        Floating (N, n_classes): signed distances to a classifier's hyperplanes, or probabilities.
    """

    videos: list[str]
    sizes: list[int]
    classes: tuple[str, ...]
    scores: NDArray[np.floating]

    @property
    def labels(self) -> list[str]:
        """The class of each video with the highest score."""
        return [self.classes[i] for i in self.scores.argmax(axis=1)]

    def in_class_folders(self, outcomes: Sequence[Outcome] = ()) -> tuple[int, int]:
        """Return how many videos lie in a folder named as a class, and how many of these are in theirs.

        Where ``outcomes`` are given, a video that was named without its folder has the one of its path.
        """
        paths = {outcome.video: str(outcome.path) for outcome in outcomes}
        folders = [folder_of(video) or folder_of(paths.get(video, "")) for video in self.videos]
        named = [(f, label) for f, label in zip(folders, self.labels, strict=True) if f in self.classes]
        return len(named), sum(folder == label for folder, label in named)

    def n_trained_on(self, classifier: LinearClassifier) -> int:
        """Return how many of the videos the classifier was fitted on, by file name and size."""
        fitted = {(PurePosixPath(name).name, size) for name, size in classifier.trained_on}
        found = zip(self.videos, self.sizes, strict=True)
        return sum((PurePosixPath(name).name, size) in fitted for name, size in found)


def classify_features(classifier: LinearClassifier, features: Path) -> Predictions:
    """Apply a classifier to a feature file.

    Raises
    ------
    StoreError, MismatchError
        Where the file cannot be read, or holds features of another kind.
    """
    table = read_layer(features, str(classifier.provenance.get("layer")))
    require_same_features(classifier.provenance, table.provenance, subject=features)
    return Predictions(table.videos, table.sizes, classifier.classes, classifier.scores(table.X))


def probabilities(extractor: Extractor, features: Path) -> Predictions:
    """Return the averages over the clips of what the network says itself, from a file of layer ``prob``."""
    table = read_layer(features, "prob")
    numbers = range(table.X.shape[1])
    classes = extractor.checkpoint.labels or [f"class {number}" for number in numbers]
    return Predictions(table.videos, table.sizes, tuple(classes), table.X)


def extractor_for(
    provenance: Mapping[str, Any], basis: PcaBasis | None, network: str | None, **load: Any
) -> Extractor:
    """Return an Extractor of the features that a classifier was trained on.

    Parameters
    ----------
    provenance
        The classifier's.
    basis
        That its features were projected with, or None.
    network
        Its file or registered name; None for the name that ``provenance`` has.
    load
        As `Extractor.from_weights` takes it.

    Raises
    ------
    UsageError
        Where the classifier does not say how its features were extracted.
    PcaError, MismatchError
        Where ``basis`` is not the one that they were projected with, or the network is another one.
    """
    settings = provenance.get("settings")
    if not settings:
        hint = "save it again with `classify --save`"
        raise UsageError("does not say how its features were extracted", subject="model", hint=hint)
    _check_basis(provenance["pca"], basis)
    taken = {field.name for field in dataclasses.fields(ExtractSettings)} - {"layers", "pca"}
    known = {name: value for name, value in settings.items() if name in taken}
    if known.get("fps") is None and "frame_step" not in settings:
        known["fps"] = "source"  # every frame as it was decoded, whatever the network's own rate
    extractor = Extractor.from_weights(
        network or str(provenance["weights"]),
        ExtractSettings(layers=(provenance["layer"],), **known),
        pool5=provenance.get("pool5"),
        colour=provenance.get("colour"),
        **load,
    )
    own = {name: provenance.get(name) for name in ("layer", "dimension", "pca")}
    try:
        weights = json.loads(json.dumps(extractor.identity().weights))  # as it is read from a file
        of_weights = weights_provenance(weights, provenance["layer"])
        require_same_features(provenance, of_weights | own, subject=extractor.checkpoint.name)
    except MismatchError as error:
        error.hint = "--weights names the network, a registered name or a file, and --mean its mean"
        extractor.close()
        raise
    return extractor


def _check_basis(wanted: str, basis: PcaBasis | None) -> None:
    found = "none" if basis is None else basis.sha256
    if wanted != found:
        shown = f"{wanted[:6]} → {found[:6]}"
        hint = "--pca-from names the basis of the training features, train.pca.h5 for example"
        raise PcaError(f"not the basis that the model's features were projected with ({shown})", hint=hint)


def write_features(
    extractor: Extractor, videos: Sequence[str], output: Path, basis: PcaBasis | None = None
) -> list[Outcome]:
    """Extract videos into a feature file; return the outcomes.

    Raises
    ------
    StoreError
        Where none could be read.
    """
    outcomes = list(extractor.extract_files(videos, output, basis=basis))
    failed = [outcome for outcome in outcomes if outcome.status == "failed"]
    if len(failed) == len(outcomes):
        first = failed[0]
        others = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
        raise StoreError(f"{first.error}{others}", subject=first.video)
    return outcomes
