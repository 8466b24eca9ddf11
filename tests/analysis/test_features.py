"""Features of two files are comparable when their weights are of the same tensors, whatever the file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from labelled_features import feature_file

from c3d_extract.analysis import read_layer, require_same_features
from c3d_extract.errors import MismatchError

if TYPE_CHECKING:
    from pathlib import Path

FROM_CAFFE = {
    "weights": "sports1m",
    "weights_file": "conv3d",
    "weights_sha256": "00",
    "tensors_sha256": {"fc6": "aa", "fc7": "ab"},
    "record": {"preprocessing": {"std": [1, 1, 1]}, "notes": ["fetched"]},
}
FROM_PICKLE = FROM_CAFFE | {"weights_file": "c3d.pickle", "weights_sha256": "11"}


def provenance(path: Path, weights: dict[str, Any]) -> dict[str, Any]:
    feature_file(path, {"fc6": np.ones((1, 4))}, ["a.avi"], weights=weights)
    return read_layer(path, "fc6").provenance


@pytest.mark.parametrize(
    ("weights", "difference"),
    [
        (FROM_CAFFE, None),
        (FROM_PICKLE | {"record": {"preprocessing": {"std": [1, 1, 1]}, "notes": []}}, None),
        (FROM_PICKLE | {"tensors_sha256": {"fc6": "aa"}}, None),
        (FROM_PICKLE | {"tensors_sha256": {"fc6": "aa", "fc7": "other, of which fc6 knows nothing"}}, None),
        (
            FROM_PICKLE | {"tensors_sha256": {"fc6": "bb"}},
            r"\(other weights: sports1m \(00\) → sports1m \(11\)\)",
        ),
        (FROM_PICKLE | {"tensors_sha256": {}}, r"\(other weights: sports1m \(00\) → sports1m \(11\)\)"),
        (FROM_PICKLE | {"record": {"preprocessing": {"std": [2, 1, 1]}}}, r"std: \[1, 1, 1\] → \[2, 1, 1\]"),
        (FROM_CAFFE | {"tensors_sha256": ["nonsense"]}, None),
    ],
)
def test_the_tensors_decide_where_both_say_their_hash(
    weights: dict[str, Any], difference: str | None, tmp_path: Path
) -> None:
    wanted, found = provenance(tmp_path / "a.h5", FROM_CAFFE), provenance(tmp_path / "b.h5", weights)
    if difference is None:
        require_same_features(wanted, found, subject="b.h5")
        return
    with pytest.raises(MismatchError, match=difference):
        require_same_features(wanted, found, subject="b.h5")
