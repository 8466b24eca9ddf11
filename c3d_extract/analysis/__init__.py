"""Evaluation of features: a linear SVM on a feature file, the paper's protocols, similarity of pairs.

::

    labels.py           the class and the group of each video; official lists
    features.py         one layer of a feature file; whether two files can be compared
    splits.py           which videos train and which test
    experiment.py       from files and options to labelled samples and splits
    pca.py              the package's PCA as a scikit-learn transformer
    classify.py         the classifier, its cross-validation, accuracy against PCA dimensions
    classifier_file.py  a fitted classifier and its file
    aslan.py            same action or not: twelve similarities of a pair
    transformer.py      features of videos as a scikit-learn transformer
    layout.py           features in two dimensions, and in clusters
    predict.py          from videos to classes
    search.py           nearest neighbours and near-duplicates
    charts.py           confusion matrix and PCA curve as a picture
    explain.py          what in a clip the units of a network respond to
    explain_figure.py   the same as a picture
    figures.py          files of figures

Names are imported on first use, because scikit-learn and matplotlib are extras and slow to import.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from c3d_extract._lazy import lazy_names
from c3d_extract.errors import C3DError

if TYPE_CHECKING:
    from c3d_extract.analysis.aslan import PairsEvaluation, evaluate_pairs, read_pairs
    from c3d_extract.analysis.charts import draw_evaluation
    from c3d_extract.analysis.classifier_file import (
        LinearClassifier,
        is_classifier,
        load_classifier,
        save_classifier,
    )
    from c3d_extract.analysis.classify import (
        Baselines,
        ClassifierSettings,
        Evaluation,
        baselines,
        cross_validate,
        fit_classifier,
        pca_curve,
    )
    from c3d_extract.analysis.experiment import Experiment, ExperimentOptions, prepare_experiment
    from c3d_extract.analysis.explain import Explainer
    from c3d_extract.analysis.explain_figure import ExplainedClip, draw_explanations
    from c3d_extract.analysis.features import read_layer, require_same_features
    from c3d_extract.analysis.figures import check_figure_path
    from c3d_extract.analysis.layout import choose_method, find_clusters, lay_out, reduce_features
    from c3d_extract.analysis.predict import (
        Predictions,
        classify_features,
        extractor_for,
        probabilities,
        write_features,
    )
    from c3d_extract.analysis.search import Duplicate, find_duplicates, nearest
    from c3d_extract.analysis.splits import (
        Samples,
        Split,
        grouped_splits,
        leave_one_out_splits,
        stratified_splits,
    )
    from c3d_extract.analysis.transformer import VideoFeatures

_NAMES_OF = {
    "aslan": "PairsEvaluation evaluate_pairs read_pairs",
    "charts": "draw_evaluation",
    "classifier_file": "LinearClassifier is_classifier load_classifier save_classifier",
    "classify": "Baselines ClassifierSettings Evaluation baselines cross_validate fit_classifier pca_curve",
    "experiment": "Experiment ExperimentOptions prepare_experiment",
    "explain": "Explainer",
    "explain_figure": "ExplainedClip draw_explanations",
    "features": "read_layer require_same_features",
    "figures": "check_figure_path",
    "layout": "choose_method find_clusters lay_out reduce_features",
    "predict": "Predictions classify_features extractor_for probabilities write_features",
    "search": "Duplicate find_duplicates nearest",
    "splits": "Samples Split grouped_splits leave_one_out_splits stratified_splits",
    "transformer": "VideoFeatures",
}
_PACKAGES = {"sklearn": "scikit-learn", "scipy": "scikit-learn", "matplotlib": "matplotlib"}
"""Library → the package to install."""

__all__ = [
    "Baselines",
    "ClassifierSettings",
    "Duplicate",
    "Evaluation",
    "Experiment",
    "ExperimentOptions",
    "ExplainedClip",
    "Explainer",
    "LinearClassifier",
    "PairsEvaluation",
    "Predictions",
    "Samples",
    "Split",
    "VideoFeatures",
    "baselines",
    "check_figure_path",
    "choose_method",
    "classify_features",
    "cross_validate",
    "draw_evaluation",
    "draw_explanations",
    "evaluate_pairs",
    "extractor_for",
    "find_clusters",
    "find_duplicates",
    "fit_classifier",
    "grouped_splits",
    "is_classifier",
    "lay_out",
    "leave_one_out_splits",
    "load_classifier",
    "nearest",
    "pca_curve",
    "prepare_experiment",
    "probabilities",
    "read_layer",
    "read_pairs",
    "reduce_features",
    "require_same_features",
    "save_classifier",
    "stratified_splits",
    "write_features",
]

_import_name, __dir__ = lazy_names(
    __name__, {name: module for module, names in _NAMES_OF.items() for name in names.split()}
)


def __getattr__(name: str) -> Any:
    """Import a name; raise C3DError, with the command that installs it, if an extra is missing."""
    try:
        return _import_name(name)
    except ModuleNotFoundError as error:
        if (missing := (error.name or "").partition(".")[0]) not in _PACKAGES:
            raise
        package = _PACKAGES[missing]
        raise C3DError(f"{package} is not installed", hint=f"pip install {package}") from error
