"""Reading feature and clip files."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from store_samples import NAMES, video_row, write

from c3d_extract.errors import StoreError
from c3d_extract.output import FeatureFile

if TYPE_CHECKING:
    from pathlib import Path


def test_reader_gives_arrays_names_and_attributes(output: Path) -> None:
    write(output, [video_row(name) for name in NAMES])
    with FeatureFile(output) as file:
        assert (len(file), file.videos, file.layers, file.kind) == (
            6,
            sorted(NAMES),
            ["fc6", "fc7"],
            "features",
        )
        assert file["fc7"].shape == (6, 5)
        assert file["fc7"].dtype == np.float32
        assert file.column("n_frames").tolist() == [100] * 6
        assert file.attributes["weights"]["weights_sha256"] == "00ff"
        np.testing.assert_array_equal(np.concatenate(list(file.blocks("fc6"))), file["fc6"])
        with pytest.raises(StoreError, match="has no fc8, only"):
            file["fc8"]


@pytest.mark.parametrize("content", [None, b"text", b"\x89HDF\r\n\x1a\n"])
def test_reading_what_is_no_feature_file_is_one_clear_line(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "x.h5"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(StoreError, match="cannot be read as a feature file") as caught:
        FeatureFile(path)
    assert "\n" not in str(caught.value)
