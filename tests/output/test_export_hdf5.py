"""Exports of one HDF5 file, and ActivityNet's basis."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import pytest
from export_samples import LENGTHS, STEMS, D, export, features, write_clips, write_videos

from c3d_extract.errors import MismatchError, PcaError, StoreError, UsageError
from c3d_extract.output import FeatureFile, apply_basis, load_basis
from c3d_extract.output.feature_file import read_attributes

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray


def write_published_basis(path: Path, size: int = D, **changed: Any) -> dict[str, NDArray[np.float64]]:
    """Write a file of the layout of PCA_activitynet_v1-3.hdf5, with a random basis."""
    rng = np.random.default_rng(5)
    U, _ = np.linalg.qr(rng.standard_normal((size, size)))
    arrays = {"U": U, "S": np.linspace(1e6, 1, size), "x_mean": rng.random((1, size)) * 3} | changed
    with h5py.File(path, "w") as file:
        for name, values in arrays.items():
            file[f"data/{name}"] = values
    return arrays


@pytest.fixture
def fc7(tmp_path: Path) -> Path:
    return write_clips(tmp_path / "clips.h5", layers=("fc7",), stride=8)


def test_activitynet_reads_as_its_consumers_read_it(tmp_path: Path, fc7: Path) -> None:
    basis = write_published_basis(tmp_path / "PCA.hdf5")
    out = tmp_path / "sub.hdf5"
    assert export("activitynet", fc7, out, basis=tmp_path / "PCA.hdf5") == [
        f"rows have {D} values, and what loads activitynet expects 500"
    ]
    with h5py.File(out) as file:
        assert sorted(file) == sorted(f"v_{stem.split('/')[-1]}" for stem in STEMS.values())
        for video, n in LENGTHS.items():
            X = file[f"v_{STEMS[video].split('/')[-1]}"]["c3d_features"][:]
            assert X.dtype == np.float32
            exact = (features(video, n, "fc7").astype(np.float64) - basis["x_mean"]) @ basis["U"][:500].T
            np.testing.assert_allclose(X, exact, rtol=1e-6, atol=1e-5)


def test_a_name_of_activitynet_keeps_its_v(tmp_path: Path) -> None:
    write_published_basis(tmp_path / "PCA.hdf5")
    clips = write_clips(tmp_path / "clips.h5", {"val/v_QOlSCBRmfWY.mp4": 3}, layers=("fc7",), stride=8)
    export("activitynet", clips, tmp_path / "sub.hdf5", basis=tmp_path / "PCA.hdf5")
    with h5py.File(tmp_path / "sub.hdf5") as file:
        assert list(file) == ["v_QOlSCBRmfWY"]


def test_clips_projected_by_pca_apply_export_to_the_same(tmp_path: Path, fc7: Path) -> None:
    write_published_basis(tmp_path / "PCA.hdf5")
    apply_basis(fc7, tmp_path / "PCA.hdf5", tmp_path / "projected.h5")
    export("activitynet", fc7, tmp_path / "a.hdf5", basis=tmp_path / "PCA.hdf5")
    export("activitynet", tmp_path / "projected.h5", tmp_path / "b.hdf5")
    with h5py.File(tmp_path / "a.hdf5") as a, h5py.File(tmp_path / "b.hdf5") as b:
        for name in a:
            np.testing.assert_array_equal(a[name]["c3d_features"], b[name]["c3d_features"])
    with pytest.raises(PcaError, match="projected already"):
        export("activitynet", tmp_path / "projected.h5", tmp_path / "c.hdf5", basis=tmp_path / "PCA.hdf5")


def test_activitynet_without_the_basis_is_refused_with_its_name(tmp_path: Path, fc7: Path) -> None:
    with pytest.raises(UsageError, match=r"--pca-from PCA_activitynet_v1-3\.hdf5"):
        export("activitynet", fc7, tmp_path / "sub.hdf5")


def test_flat_h5_has_a_compressed_dataset_a_video(tmp_path: Path) -> None:
    clips = write_clips(tmp_path / "clips.h5", stride=4)
    export("flat-h5", clips, tmp_path / "flat.hdf5")
    export("flat-h5", clips, tmp_path / "tacos.hdf5", keep_suffix=True)
    for name, keys in (("flat.hdf5", STEMS), ("tacos.hdf5", {video: video for video in LENGTHS})):
        with h5py.File(tmp_path / name) as file:
            assert len(file) == len(LENGTHS)
            for video, n in LENGTHS.items():
                dataset = file[keys[video].split("/")[-1]]
                assert dataset.compression == "gzip"
                np.testing.assert_array_equal(dataset[:], features(video, n))


def test_two_videos_of_one_name_are_refused_and_leave_nothing(tmp_path: Path) -> None:
    clips = write_clips(tmp_path / "clips.h5", {"a/one.mp4": 2, "b/one.mp4": 2})
    with pytest.raises(StoreError, match=r"a/one\.mp4 and b/one\.mp4 would both be one"):
        export("flat-h5", clips, tmp_path / "flat.hdf5")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clips.h5"]


def test_the_published_basis_has_500_components(tmp_path: Path) -> None:
    arrays = write_published_basis(tmp_path / "PCA.hdf5", 510)
    basis = load_basis(tmp_path / "PCA.hdf5")
    assert (basis.n_components, list(basis.layers)) == (500, ["fc7"])
    np.testing.assert_array_equal(basis.layers["fc7"].components, arrays["U"][:500])


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"x_mean": np.zeros(D + 1)}, "shapes that do not match"),
        ({"S": np.ones(3)}, "shapes that do not match"),
        ({"U": np.eye(D) * 2}, "not a mean and unit vectors"),
        ({"U": np.full((D, D), np.nan)}, "not finite"),
        ({"U": np.zeros(D)}, "U has 1 axes, not 2"),
    ],
)
def test_a_damaged_published_basis_is_refused(tmp_path: Path, changed: dict[str, Any], says: str) -> None:
    write_published_basis(tmp_path / "PCA.hdf5", **changed)
    with pytest.raises(PcaError, match=says):
        load_basis(tmp_path / "PCA.hdf5")


def test_the_published_basis_is_of_fc7_without_l2(tmp_path: Path) -> None:
    write_published_basis(tmp_path / "PCA.hdf5")
    fc6 = write_clips(tmp_path / "fc6.h5")
    with pytest.raises(PcaError, match="no basis for layer fc6, only for fc7"):
        apply_basis(fc6, tmp_path / "PCA.hdf5", tmp_path / "out.h5")
    normalised = write_videos(tmp_path / "l2.h5", layer="fc7", l2=True)
    with pytest.raises(MismatchError, match="l2: false → true"):
        apply_basis(normalised, tmp_path / "PCA.hdf5", tmp_path / "out.h5")


def test_the_published_basis_is_never_taken_for_an_output_of_ours(tmp_path: Path) -> None:
    write_published_basis(tmp_path / "feats.pca.h5")
    with pytest.raises(StoreError, match="not a file of c3d-extract"):
        read_attributes(tmp_path / "feats.pca.h5", "pca")


def test_an_interrupted_run_is_said(tmp_path: Path) -> None:
    clips = write_clips(tmp_path / "clips.h5")
    with h5py.File(clips, "r+") as file:
        file.attrs["complete"] = False
    (warning,) = export("flat-h5", clips, tmp_path / "flat.hdf5")
    assert "interrupted run" in warning
    with FeatureFile(clips) as file:
        assert file.attributes["complete"] is False
