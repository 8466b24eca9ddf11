"""Judge features: a linear SVM on a feature file, the paper's protocols, similarity of pairs.

::

    labels.py      which video is of which class, of which group, in which official list
    linear.py      the classifier: L2, PCA, linear SVM; saved without pickle
    task.py        from feature files and a user's words to labelled samples and splits
    protocols.py   which videos train and which test; accuracies and confusions
    aslan.py       same action or not: twelve similarities of a pair
    charts.py      confusion matrix and PCA curve as a picture

Works on arrays and names; scikit-learn and matplotlib are extras and imported when they are needed.
"""

from __future__ import annotations

from c3d_extract.analysis.aslan import SIMILARITIES, Pairs, PairsReport, judge_pairs, read_pairs, similarities
from c3d_extract.analysis.charts import draw_report
from c3d_extract.analysis.labels import (
    Ucf101Split,
    folder_labels,
    match_labels,
    pattern_values,
    read_label_csv,
    read_ucf101_split,
)
from c3d_extract.analysis.linear import LinearModel, fit_linear, l2_normalised, load_model, save_model
from c3d_extract.analysis.protocols import (
    FoldResult,
    Recipe,
    Report,
    Samples,
    Split,
    cross_validate,
    fit_recipe,
    grouped_splits,
    leave_one_out_splits,
    pca_curve,
    stratified_splits,
)
from c3d_extract.analysis.task import Choices, Task, gather, read_layer, require_same

__all__ = [
    "SIMILARITIES",
    "Choices",
    "FoldResult",
    "LinearModel",
    "Pairs",
    "PairsReport",
    "Recipe",
    "Report",
    "Samples",
    "Split",
    "Task",
    "Ucf101Split",
    "cross_validate",
    "draw_report",
    "fit_linear",
    "fit_recipe",
    "folder_labels",
    "gather",
    "grouped_splits",
    "judge_pairs",
    "l2_normalised",
    "leave_one_out_splits",
    "load_model",
    "match_labels",
    "pattern_values",
    "pca_curve",
    "read_label_csv",
    "read_layer",
    "read_pairs",
    "read_ucf101_split",
    "require_same",
    "save_model",
    "similarities",
    "stratified_splits",
]
