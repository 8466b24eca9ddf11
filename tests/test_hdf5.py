"""Feature, clip and basis files of a stranger: each is taken or refused in one line, by every command."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from typing import TYPE_CHECKING

import h5py
import hostile_files
import numpy as np
import pytest
from hostile_files import BASES, TABLES, make, outcome
from store_samples import identity, open_store, record, video_row

from c3d_extract.errors import StoreError
from c3d_extract.output import FeatureFile

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TAKEN = {"weights that are nested", "compressed video"}
"""Odd, but nothing is wrong with what they hold."""
OF_ROWS = ("duplicate video", "unsorted video", "video that is not UTF-8")
"""What is seen when rows are read; all else, when a file is opened."""
KINDS_OF_DAMAGE = ("external link to a fifo", "virtual dataset of a fifo", "external storage", "deep layers")
READING_FEATURES = ("info", "info --json", "classify", "pca fit", "pca apply", "FeatureFile", "resume")
READING_BASES = ("info", "info --json", "pca apply --basis", "--pca-from")


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hostile")
    hostile_files.write_originals(folder)
    os.mkfifo(folder / "fifo")
    return folder


@pytest.fixture(autouse=True)
def _no_waiting() -> Iterator[None]:
    """A file that makes HDF5 wait for a FIFO would wait for ever."""
    signal.alarm(60)
    yield
    signal.alarm(0)


def refusals(folder: Path, kind: str, name: str, readers: tuple[str, ...]) -> dict[str, str | None]:
    path = make(folder, kind, {"basis": BASES}.get(kind, TABLES)[name])
    content, said = path.read_bytes(), {}
    for reader in readers:
        path.write_bytes(content)
        said[reader] = outcome(reader, path)
    return said


@pytest.mark.parametrize("name", TABLES)
def test_nobody_takes_a_feature_file_with(name: str, originals: Path) -> None:
    said = refusals(originals, "feats", name, ("info --json", "FeatureFile", "resume"))
    if name not in TAKEN:
        assert None not in said.values(), said


@pytest.mark.parametrize("name", [*KINDS_OF_DAMAGE, *OF_ROWS])
def test_no_command_takes_a_feature_file_with(name: str, originals: Path) -> None:
    said = refusals(originals, "feats", name, READING_FEATURES)
    assert None not in said.values(), said


@pytest.mark.parametrize("name", [*KINDS_OF_DAMAGE, "duplicate video", "no layer", "one video less"])
def test_no_run_goes_on_with_a_clip_file_with(name: str, originals: Path) -> None:
    said = refusals(originals, "clips", name, ("info", "FeatureFile", "resume --clips"))
    assert None not in said.values(), said


@pytest.mark.parametrize("name", BASES)
def test_no_command_takes_a_basis_with(name: str, originals: Path) -> None:
    said = refusals(originals, "basis", name, READING_BASES)
    assert None not in said.values(), said


@pytest.mark.parametrize("reader", [*READING_FEATURES, *READING_BASES])
def test_healthy_files_are_taken(reader: str, originals: Path) -> None:
    kind = "feats" if reader in READING_FEATURES and not reader.endswith("--basis") else "basis"
    path = originals / "hostile.h5"
    path.write_bytes((originals / f"{kind}.h5").read_bytes())
    assert outcome(reader, path) is None


@pytest.mark.parametrize("reader", [*READING_FEATURES, "resume --clips", *READING_BASES])
def test_a_fifo_is_refused_and_not_waited_for(reader: str, originals: Path) -> None:
    said = outcome(reader, originals / "fifo")
    assert said is not None
    assert "regular file" in said or "is a fifo" in said.lower(), said


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("external link to a fifo", "fc6 is a link to another file, fifo"),
        ("external link beside", "more is a link to another file, /etc/passwd"),
        ("soft link", "fc6 is a link to another name, /fc7"),
        ("external storage", "fc6 has its values in another file, /etc/passwd"),
        ("virtual dataset of a fifo", "fc6 is a virtual dataset"),
        ("plug-in filter", "fc6 needs filter 32013"),
        ("duplicate video", "hug/v1.avi is there twice"),
        ("unsorted video", "its rows are not sorted: hug/v1.avi follows zzz"),
        ("a million million rows", "video states 1000000000000 values, and the file holds"),
        ("video of megabytes", "video has a row of 1,048,576 bytes"),
    ],
)
def test_what_is_refused_is_named(name: str, said: str, originals: Path) -> None:
    path = make(originals, "feats", TABLES[name])
    with pytest.raises(StoreError) as caught, FeatureFile(path) as file:
        file["fc7"]
    assert said in str(caught.value)


def test_a_user_may_rewrite_a_file_with_compression(originals: Path) -> None:
    """As ``h5repack -f GZIP`` does."""
    path = originals / "packed.h5"
    with h5py.File(originals / "feats.h5") as ours, h5py.File(path, "w") as theirs:
        theirs.attrs.update(ours.attrs)
        for name, dataset in ours.items():
            theirs.create_dataset(name, data=dataset[()], dtype=dataset.dtype, compression="gzip")
    with FeatureFile(path) as file, FeatureFile(originals / "feats.h5") as plain:
        assert file.videos == plain.videos
        np.testing.assert_array_equal(file["fc6"], plain["fc6"])


def test_a_run_goes_on_whatever_the_order_of_layers_in_the_file(originals: Path) -> None:
    """Two layers of one size, told in another order, must not change places."""
    sizes = {"a": 4, "b": 4}
    output = originals / "order.h5"
    for names, change in ((["x"], True), (["x", "y"], False)):
        with open_store(output, replace(identity(), layer_sizes=sizes)) as store:
            for name in names:
                if store.is_done(name, 1000, video_row(name).mtime_ns) is None:
                    record(store, video_row(name, sizes=sizes))
            store.finish(complete=True)
        if change:
            with h5py.File(output, "r+") as file:
                file.attrs["layers"] = '{"b": 4, "a": 4}'
    with FeatureFile(output) as file:
        np.testing.assert_array_equal(file["a"][0], video_row("x", sizes=sizes).features["a"])
        np.testing.assert_array_equal(file["a"][1], video_row("y", sizes=sizes).features["a"])


def test_a_run_does_not_go_on_where_earlier_rows_have_another_size(originals: Path) -> None:
    output = originals / "sizes.h5"
    output.write_bytes((originals / "feats.h5").read_bytes())
    with h5py.File(output, "r+") as file:  # all that is compared is left as it was
        narrow = file["fc6"][:, :11]
        del file["fc6"]
        file["fc6"] = narrow
        file.attrs["layers"] = '{"fc6": 11, "fc7": 5}'
    before = output.read_bytes()
    with open_store(output, identity()) as store:
        record(store, video_row("m/new.avi"))
        with pytest.raises(StoreError, match=r'holds rows of {"fc6": 11, "fc7": 5} values'):
            store.finish(complete=True)
    assert output.read_bytes() == before
