"""PCA in a run: fitted, kept, and compared."""

from __future__ import annotations

import shutil
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import pytest
import store_samples as samples
from sklearn.decomposition import PCA
from store_samples import (
    SIZES,
    datasets,
    identity,
    is_done,
    open_store,
    record,
    sample_basis,
    video_row,
    write,
)

from c3d_extract.errors import MismatchError, PcaError, StoreError
from c3d_extract.output import FeatureFile, RunIdentity, load_basis, read_report, save_basis
from c3d_extract.output.pca_basis import fit

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from c3d_extract.output import VideoRow


def plain_matrix(rows: list[VideoRow], layer: str) -> np.ndarray[Any, Any]:
    X = np.stack([row.features[layer] for row in sorted(rows, key=lambda row: row.video) if row.features])
    return X.astype(np.float64)


def test_projection_in_the_file_is_that_of_scikit_learn_on_normalised_averages(output: Path) -> None:
    rows = samples.sample_rows(20)
    write(output, rows, pca=4, l2=True)
    for layer in SIZES:
        X = plain_matrix(rows, layer)
        X /= np.linalg.norm(X, axis=1, keepdims=True)
        expected = PCA(4, svd_solver="full").fit_transform(X)
        with FeatureFile(output) as file:
            signs = np.sign((file[layer] * expected).sum(axis=0))
            np.testing.assert_allclose(file[layer] * signs, expected, atol=1e-4)  # the project's bar; float32


def test_ten_videos_give_ten_components(output: Path) -> None:
    summary = write(output, [video_row(f"{i}") for i in range(10)], identity=wide(), pca=10)
    assert summary.n_rows == 10
    with FeatureFile(output) as file:
        assert file["fc6"].shape == (10, 10)
        assert file.attributes["pca_basis"] == "feats.pca.h5"
        assert file.attributes["pca_sha256"] == load_basis(output.with_name("feats.pca.h5")).sha256


def wide() -> RunIdentity:
    return replace(identity(), layer_sizes={"fc6": 12})


def test_a_file_that_is_extended_keeps_its_basis_and_its_rows(output: Path) -> None:
    rows = [video_row(f"{i:02d}") for i in range(14)]
    write(output, rows[::2], pca=3)
    basis = output.with_name("feats.pca.h5")
    with FeatureFile(output) as file:
        before, old_basis = dict(zip(file.videos, file["fc6"], strict=True)), basis.read_bytes()
    write(output, rows[1::4], pca=3, complete=False)
    write(output, rows[3::4], pca=3)
    assert basis.read_bytes() == old_basis
    with FeatureFile(output) as file:
        after = dict(zip(file.videos, file["fc6"], strict=True))
    assert len(after) == 14
    loaded = load_basis(basis)
    for row in rows:
        expected = before.get(row.video, loaded.layers["fc6"].apply(row.features["fc6"][None])[0])
        np.testing.assert_array_equal(after[row.video], expected)


def test_extending_needs_the_very_basis(output: Path, tmp_path: Path) -> None:
    write(output, [video_row(f"{i}") for i in range(5)], pca=3)
    other = tmp_path / "other.h5"
    write(other, [video_row(f"x{i}") for i in range(5)], pca=3)
    basis = output.with_name("feats.pca.h5")
    shutil.copy(tmp_path / "other.pca.h5", basis)
    with pytest.raises(StoreError, match=r"feats\.pca\.h5: is not the basis"):
        open_store(output, identity(), pca=3)
    basis.unlink()
    with pytest.raises(StoreError, match=r"feats\.pca\.h5: feats\.h5 can only be extended with its basis"):
        open_store(output, identity(), pca=3)


def test_too_few_videos_for_the_components(output: Path) -> None:
    summary = write(output, [video_row("a"), video_row("b", "failed")], pca=3, complete=False)
    assert summary.message is not None
    assert "1 succeeded so far" in summary.message
    assert not output.exists()
    with open_store(output, identity(), pca=3) as store:
        record(store, video_row("c"))
        with pytest.raises(PcaError, match="3 components need as many videos, 2 succeeded"):
            store.finish(complete=True)
    assert output.with_name("feats.h5.partial").exists()
    assert len(read_report(output.with_name("feats.report.jsonl"))) == 3
    assert write(output, [video_row("d")], pca=3).n_rows == 3


def test_more_components_than_dimensions_are_refused_before_any_work(output: Path) -> None:
    with pytest.raises(PcaError, match="--pca 6: fc7 has only 5 dimensions; ask for 1 to 5"):
        open_store(output, identity(), pca=6)
    assert not list(output.parent.iterdir())


def test_a_given_basis_projects_the_same_rows_in_any_number_of_runs(output: Path, tmp_path: Path) -> None:
    rows = samples.sample_rows(20)
    write(output, rows, pca=4, l2=True)
    basis = load_basis(output.with_name("feats.pca.h5"))
    again = tmp_path / "again.h5"
    for part in (rows[:3], rows[3:15], rows[15:]):
        write(again, part, basis=basis, l2=True)
    assert datasets(again) == datasets(output)
    with FeatureFile(again) as file:
        assert file.attributes["pca_basis"] == "feats.pca.h5"
    assert not (tmp_path / "again.pca.h5").exists()


def test_a_given_basis_must_fit_and_stay_the_same(output: Path) -> None:
    rows = [video_row(f"{i}") for i in range(8)]

    def averages(layer: str) -> Iterator[Any]:
        yield np.stack([row.features[layer] for row in rows])

    factories = {layer: lambda layer=layer: averages(layer) for layer in SIZES}
    provenance = {"weights": identity().weights, "settings": identity(l2=False).settings}
    three, two = (fit(factories, k, name="b.pca.h5", provenance=provenance) for k in (3, 2))
    write(output, rows, basis=three)
    with pytest.raises(MismatchError, match="pca_from_sha256"):
        open_store(output, identity(), basis=two)
    with pytest.raises(MismatchError, match="l2: false → true"):
        open_store(output, identity(), basis=three, l2=True)
    other = replace(identity(), weights=identity().weights | {"weights_sha256": "11"})
    with pytest.raises(MismatchError, match=r"weights: random \(sha256 00ff\) → random \(sha256 11\)"):
        open_store(output, other, basis=three)
    same = dict.fromkeys(SIZES, "aa")  # the same tensors in another file
    tensors = {"tensors_sha256": same, "record": identity().weights.get("record")}
    fitted = replace(three, provenance=provenance | {"weights": identity().weights | tensors})
    other = replace(other, weights=other.weights | tensors)
    write(output.with_name("other.h5"), rows, basis=fitted, identity=other)
    with pytest.raises(PcaError, match="no basis for layer fc8"):
        open_store(output, replace(identity(), layer_sizes={"fc8": 4}), basis=three)


def test_a_lost_journal_of_a_projected_run_means_all_is_done_again(output: Path) -> None:
    rows = [video_row(f"{i}") for i in range(6)]
    write(output, rows[:4], pca=3, complete=False)
    output.with_name("feats.h5.partial").unlink()
    with open_store(output, identity(), pca=3) as store:
        assert is_done(store, rows[0]) is None
        for row in rows:
            record(store, row)
        store.finish(complete=True)
    write(output.with_name("plain.h5"), rows, pca=3)
    assert datasets(output) == datasets(output.with_name("plain.h5"))


def test_a_saved_basis_comes_back_to_the_bit(tmp_path: Path) -> None:
    basis = sample_basis()
    save_basis(tmp_path / "b.pca.h5", basis)
    loaded = load_basis(tmp_path / "b.pca.h5")
    assert loaded.sha256 == basis.sha256
    assert loaded.name == "b.pca.h5"
    assert loaded.n_components == 3
    X = samples.pca_features(20, 12)
    np.testing.assert_array_equal(loaded.layers["fc6"].apply(X), basis.layers["fc6"].apply(X))


def test_a_damaged_basis_is_refused(tmp_path: Path) -> None:

    path = tmp_path / "b.pca.h5"
    save_basis(path, sample_basis())
    with h5py.File(path, "r+") as file:
        file["fc6/components"][0, 0] += 1e-9
    with pytest.raises(PcaError, match="checksum"):
        load_basis(path)
    with pytest.raises(PcaError, match="cannot be read"):
        load_basis(tmp_path / "none.h5")
