"""Features of videos as a transformer of scikit-learn: paths in, one row a video out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin

from c3d_extract.pipeline import Extractor

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable
    from pathlib import Path

    from numpy.typing import NDArray

    from c3d_extract.settings import Precision

__all__ = ["VideoFeatures"]


class VideoFeatures(TransformerMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """Turns paths of videos into rows of a matrix, as the first step of a pipeline of scikit-learn.

    Nothing is fitted. Every call extracts its videos anew, so a search over parameters wants
    ``make_pipeline(VideoFeatures(…), …, memory=FOLDER)``, which keeps the rows.

    Parameters
    ----------
    weights
        A registered name or a file.
    layer
        Which features; None for the network's own descriptor (C3D: fc6).
    stride
        Frames between clip starts; None for the network's own (C3D: 16).
    fps
        Frames per second to resample to; None for the network's own (C3D: as decoded).
    mean
        A mean instead of the checkpoint's, as `Extractor.from_weights` takes it.
    device
        Where to compute, as `Extractor` takes it.
    precision
        As `Extractor` takes it.
    workers
        Decoder processes, as `Extractor` takes them.
    """

    def __init__(
        self,
        weights: str | Path = "sports1m",
        *,
        layer: str | None = None,
        stride: int | None = None,
        fps: float | None = None,
        mean: str | Path | None = None,
        device: str = "auto",
        precision: Precision | Literal["auto"] = "auto",
        workers: int | None = None,
    ) -> None:
        self.weights = weights
        self.layer = layer
        self.stride = stride
        self.fps = fps
        self.mean = mean
        self.device = device
        self.precision = precision
        self.workers = workers

    def fit(self, X: Iterable[str | os.PathLike[str]], y: object = None) -> Self:
        """Do nothing."""
        del X, y
        return self

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.requires_fit = False
        tags.input_tags.two_d_array = False
        tags.input_tags.string = True
        return tags

    def transform(self, X: Iterable[str | os.PathLike[str]]) -> NDArray[np.float32]:
        """Return the average over the clips of each video, float32 (N, D), in the order of the paths.

        Raises
        ------
        VideoError
            Where one cannot be read.
        """
        with Extractor.from_weights(
            self.weights,
            layers=self.layer,
            stride=self.stride,
            fps=self.fps,
            mean=self.mean,
            device=self.device,
            precision=self.precision,
            workers=self.workers,
        ) as extractor:
            found = extractor.extract_batch(list(X))
            size = extractor.identity().layer_sizes[extractor.settings.layers[0]]
        rows = [features.mean() for features in found]
        return np.stack(rows) if rows else np.empty((0, size), np.float32)
