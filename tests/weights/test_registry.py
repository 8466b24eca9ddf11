"""The registry: every record is whole, means are what they claim, names lead to checked files."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from checkpoint_writers import DAVIDEA, fork_blob, random_state, write_torch

from c3d_extract.errors import FetchError, WeightsError
from c3d_extract.models.c3d import ARCHITECTURES
from c3d_extract.preprocess.spec import Preprocessing
from c3d_extract.weights import fetch, find_entry, load_checkpoint, load_registry, means, save_checkpoint
from c3d_extract.weights import load as load_module
from c3d_extract.weights import locate as locate_module
from c3d_extract.weights import registry as registry_module
from c3d_extract.weights.conventions import assumed_conventions
from c3d_extract.weights.fetch import git_blob_sha1, sha256_of
from c3d_extract.weights.layouts.pytorch import MODULE_NAMES
from c3d_extract.weights.means import find_mean, read_mean
from c3d_extract.weights.registry import RegistryEntry, RemoteFile

if TYPE_CHECKING:
    from pathlib import Path

NARROW = ARCHITECTURES["c3d"].scaled(1 / 32)
STATE = random_state(NARROW.state_shapes())
KNOWN_LAYOUTS = {
    *MODULE_NAMES,
    *("caffe", "caffe2-vmz", "caffe-res3d", "torchvision"),
    *("keras-tensorflow", "keras-theano", "tensorflow-npy", "safetensors"),
}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and nothing fetched."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("C3D_OFFLINE", "1")
    folder = tmp_path / "torch/hub/checkpoints"
    folder.mkdir(parents=True)
    return folder


# Records ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(load_registry().checkpoints))
def test_each_record_is_whole(name: str) -> None:
    record = find_entry(name)
    assert re.fullmatch(r"[a-z0-9-]+", name)
    assert record.title and record.trained_on and record.licence and record.sources  # noqa: PT018
    assert record.layout in KNOWN_LAYOUTS
    assert all(mirror.startswith(("https://", "http://")) for mirror in record.file.mirrors)
    for digits, length in ((record.file.sha256, 64), (record.file.md5, 32), (record.file.git_blob_sha1, 40)):
        assert digits is None or (len(digits) <= length and re.fullmatch("[0-9a-f]+", digits))
    if not record.embedded and record.network is None:
        assert record.pool5 in {"ceil", "symmetric", "floor"}
        assert record.colour in {"bgr", "rgb"}
        assert record.mean in load_registry().means or len(str(record.mean).split(",")) == 3
    assert record.embedded or record.file.hash_known or any("hash" in fact for fact in record.unknown)
    assert record.labels is None or record.labels in load_registry().labels


def test_the_default_is_registered_and_two_files_never_share_a_name() -> None:
    assert load_registry().default == "sports1m"
    assert load_registry().default in load_registry().checkpoints
    files = [record.file.name for record in load_registry().checkpoints.values()]
    assert len(set(files)) == len(files)


def test_a_prefix_in_a_file_name_is_its_sha256() -> None:
    for record in load_registry().checkpoints.values():
        found = re.search(r"-([0-9a-f]{8})\.pth$", record.file.name)
        if found is not None:
            assert str(record.file.sha256).startswith(found[1])


def test_the_default_file_has_room_for_its_weights_and_little_else() -> None:
    file = find_entry("sports1m").file
    floats = 4 * ARCHITECTURES["c3d"].n_parameters()
    assert 0 < int(file.size or 0) - floats < 10_000


def test_an_unknown_name_leads_to_close_ones() -> None:
    with pytest.raises(WeightsError, match="close names: sports1m"):
        load_checkpoint("sport1m")
    with pytest.raises(WeightsError, match="weights list"):
        load_checkpoint("xyzzy")
    with pytest.raises(WeightsError, match="no such checkpoint file"):
        load_checkpoint("missing.pth")


def test_weights_that_are_not_here_say_what_to_fetch_and_where_to_put_it(cache: Path) -> None:
    with pytest.raises(FetchError, match="offline") as caught:
        load_checkpoint("sports1m")
    assert "conv3d_deepnetA_sport1m_iter_1900000" in str(caught.value)
    assert str(cache) in str(caught.value)


def test_reading_the_registry_imports_no_torch() -> None:
    code = "import sys, c3d_extract.weights as w; w.load_registry(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_torchvisions_records_are_listed_as_they_are_without_importing_it() -> None:
    code = (
        "import sys; from c3d_extract.weights.registry import listed_entries as listed; listed(); "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    listed, published = registry_module.listed_entries(), registry_module.published_entries()
    assert list(listed) == [*load_registry().checkpoints, *published]
    for name, entry in published.items():
        here, there = (json.loads(json.dumps(one.to_json())) for one in (listed[name], entry))
        for one in (here, there):
            one["facts"].pop("about", None)  # prose, which may change with the version
        assert here == there, "run tests/golden/make_torchvision_records.py"


def test_listing_and_showing_import_nothing_that_takes_seconds() -> None:
    for words in (["list"], ["show", "r3d_18"], ["show", "sports1m"]):
        code = "import sys; from c3d_extract.cli.weights import command; "
        code += f"command({words}, standalone_mode=False); "
        code += "sys.exit(any(name in sys.modules for name in ('torch', 'numpy', 'torchvision')))"
        done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True)
        assert (done.returncode, done.stderr) == (0, b"")


@pytest.fixture
def registered(cache: Path, monkeypatch: pytest.MonkeyPatch) -> RegistryEntry:
    """A narrow checkpoint in the cache, registered under the name ``narrow``."""
    write_torch(cache / "narrow.pth", STATE, DAVIDEA)
    record = RegistryEntry(
        name="narrow",
        title="narrow",
        file=RemoteFile(
            "narrow.pth", sha256=sha256_of(cache / "narrow.pth"), size=(cache / "narrow.pth").stat().st_size
        ),
        layout="pytorch-davidea",
        trained_on="noise",
        licence="CC0",
        n_classes=487,
        pool5="symmetric",
        colour="rgb",
        mean="1,2,3",
    )
    use(monkeypatch, record)
    return record


def use(monkeypatch: pytest.MonkeyPatch, record: RegistryEntry) -> None:
    changed = replace(load_registry(), checkpoints=load_registry().checkpoints | {record.name: record})
    for module in (registry_module, locate_module, load_module):
        monkeypatch.setattr(module, "load_registry", lambda: changed)


def test_a_registered_name_gives_its_dialect(registered: RegistryEntry) -> None:
    checkpoint = load_checkpoint("narrow")
    assert (checkpoint.name, checkpoint.licence, checkpoint.notes) == ("narrow", "CC0", [])
    assert (checkpoint.architecture.pool5, checkpoint.preprocessing.colour) == ("symmetric", "rgb")
    assert checkpoint.record_json()["record"]["title"] == "narrow"
    assert checkpoint.sha256 == registered.file.sha256


def test_the_same_bytes_under_another_name_are_recognised(
    registered: RegistryEntry, cache: Path, tmp_path: Path
) -> None:
    shutil.copy(cache / "narrow.pth", tmp_path / "whatever.bin")
    checkpoint = load_checkpoint(tmp_path / "whatever.bin")
    assert checkpoint.name == "narrow"
    assert checkpoint.identity() == load_checkpoint("narrow").identity() | {"weights_file": "whatever.bin"}


def test_a_cached_file_that_changed_is_refused(registered: RegistryEntry, cache: Path) -> None:
    content = bytearray((cache / "narrow.pth").read_bytes())
    content[-1000] ^= 1
    (cache / "narrow.pth").write_bytes(content)
    with pytest.raises(WeightsError, match=r"not the file it should be.*fetch narrow"):
        load_checkpoint("narrow")


def test_a_file_of_no_known_hash_says_so_and_shows_its_own(
    registered: RegistryEntry, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, replace(registered, file=replace(registered.file, sha256=None)))
    [remark] = load_checkpoint("narrow").notes
    assert str(registered.file.sha256) in remark
    use(monkeypatch, replace(registered, n_classes=101, file=replace(registered.file, sha256=None)))
    with pytest.raises(WeightsError, match="has 487 classes, but narrow has 101"):
        load_checkpoint("narrow")
    use(monkeypatch, replace(registered, layout="caffe", file=replace(registered.file, sha256=None)))
    with pytest.raises(WeightsError, match="is of layout pytorch-davidea, but narrow of caffe"):
        load_checkpoint("narrow")


# Our own files ---------------------------------------------------------------------------------------


def tensors() -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(array) for name, array in STATE.items()}


def test_our_files_come_back_to_the_bit_with_everything_in_them(tmp_path: Path) -> None:
    architecture = replace(ARCHITECTURES["increasing"].scaled(1 / 32), n_classes=3, pool5="symmetric")
    state = {name: torch.from_numpy(a) for name, a in random_state(architecture.state_shapes()).items()}
    preprocessing = Preprocessing(colour="rgb", std=(50.0, 51.0, 52.0))
    mean = np.random.default_rng(0).uniform(0, 255, (3, 16, 128, 171))
    save_checkpoint(
        tmp_path / "x.safetensors",
        state,
        architecture,
        preprocessing,
        mean,
        name="mine",
        mean_name="my videos",
        labels=["a", "b", "ä"],
        licence="MIT",
        extra={"epochs": 3},
    )
    checkpoint = load_checkpoint(tmp_path / "x.safetensors")
    assert (checkpoint.architecture, checkpoint.preprocessing) == (architecture, preprocessing)
    assert all(torch.equal(checkpoint.state[name], state[name]) for name in architecture.state_shapes())
    assert np.array_equal(checkpoint.mean, mean[:, :, 8:120, 29:141].astype(np.float32))
    assert (checkpoint.name, checkpoint.labels, checkpoint.licence) == ("mine", ["a", "b", "ä"], "MIT")
    assert checkpoint.mean_name == "my videos"
    assert checkpoint.record_json()["record"] == {"epochs": 3}
    assert checkpoint.notes == []
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["x.safetensors"]


def test_half_precision_rounds_each_weight_and_nothing_else(tmp_path: Path) -> None:
    mean = np.array([100.61, 108.05, 107.81])
    save_checkpoint(tmp_path / "x", tensors(), NARROW, Preprocessing(), mean, name="half", dtype="fp16")
    checkpoint = load_checkpoint(tmp_path / "x")
    assert all(torch.equal(checkpoint.state[name], tensors()[name].half().float()) for name in STATE)
    assert np.array_equal(checkpoint.mean.ravel(), mean.astype(np.float32))
    huge = tensors() | {"fc6.bias": torch.full_like(tensors()["fc6.bias"], 1e5)}
    with pytest.raises(WeightsError, match=r"fc6\.bias has values that fp16 cannot hold"):
        save_checkpoint(tmp_path / "y", huge, NARROW, Preprocessing(), mean, name="half", dtype="fp16")
    assert not (tmp_path / "y").exists()


def test_our_files_take_overrides_and_other_means(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "x", tensors(), NARROW, Preprocessing(), np.array([1.0, 2, 3]), name="mine")
    checkpoint = load_checkpoint(
        tmp_path / "x", mean="4,5,6", pool5="symmetric", colour="rgb", layers=["fc6"]
    )
    assert (checkpoint.architecture.pool5, checkpoint.preprocessing.colour) == ("symmetric", "rgb")
    assert checkpoint.mean.ravel().tolist() == [4, 5, 6]
    assert checkpoint.state.keys() == NARROW.state_shapes(["fc6"]).keys()


def test_a_state_that_does_not_fit_is_not_written(tmp_path: Path) -> None:
    short = {name: tensor for name, tensor in tensors().items() if name != "fc7.bias"}
    with pytest.raises(WeightsError, match=r"lacks fc7\.bias"):
        save_checkpoint(tmp_path / "x", short, NARROW, Preprocessing(), np.array([1.0, 2, 3]), name="mine")
    assert not (tmp_path / "x").exists()
    with pytest.raises(WeightsError, match=r"nowhere/x: cannot be written: No such file or directory$"):
        save_checkpoint(
            tmp_path / "nowhere/x", tensors(), NARROW, Preprocessing(), np.array([1.0, 2, 3]), name="x"
        )


def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def save(name: str) -> None:
        save_checkpoint(tmp_path / "x", tensors(), NARROW, Preprocessing(), np.array([1.0, 2, 3]), name=name)

    def disk_full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    save("first")
    monkeypatch.setattr(os, "fsync", disk_full)
    with pytest.raises(WeightsError, match=r"x: cannot be written: No space left on device$"):
        save("second")
    assert load_checkpoint(tmp_path / "x").name == "first"
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["x"]


def test_an_embedded_checkpoint_describes_itself_and_is_named_when_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (fetch, locate_module):
        monkeypatch.setattr(module, "data_folder", lambda: tmp_path)
    with pytest.raises(WeightsError, match="missing from this installation"):
        load_checkpoint("motion-mini")
    narrow = replace(NARROW, n_classes=4)
    state = {name: torch.from_numpy(a) for name, a in random_state(narrow.state_shapes()).items()}
    mean = np.array([90.0, 91, 92])
    path = tmp_path / "motion-mini.safetensors"
    save_checkpoint(path, state, narrow, Preprocessing(), mean, name="x", labels=["a", "b", "c", "d"])
    checkpoint = load_checkpoint("motion-mini")
    assert (checkpoint.name, checkpoint.architecture, checkpoint.labels) == (
        "motion-mini",
        narrow,
        ["a", "b", "c", "d"],
    )
    assert checkpoint.licence == "MIT"
    assert checkpoint.notes == []


# Means -----------------------------------------------------------------------------------------------


def test_the_real_means_load_and_agree_with_an_independent_reading(shared_data: Path) -> None:
    folder = shared_data / "mean"
    path = folder / "train01_16_128_171_mean.binaryproto"
    cube = read_mean(path)
    # 17 bytes of sizes and lengths, then 3·16·128·171 little-endian floats.
    expected = np.frombuffer(path.read_bytes()[17:], "<f4").reshape(1, 3, 16, 128, 171)
    assert cube.name == "ucf101"
    assert np.array_equal(cube.array, expected)
    np.testing.assert_allclose(expected.mean(axis=(0, 2, 3, 4)), [90.25, 97.66, 101.41], atol=0.005)
    image = read_mean(folder / "framemean_112_sports1m_bgr_f64.npy")
    assert np.array_equal(image.array, np.load(folder / "framemean_112_sports1m_bgr_f64.npy"))
    np.testing.assert_allclose(image.array.mean(axis=(1, 2)), [100.61, 108.05, 107.81], atol=0.005)
    with pytest.raises(WeightsError, match="I380K"):
        read_mean(folder / "fb_train16_128_mean.binaryproto")


def test_the_ucf101_mean_with_sports1m_weights_is_warned_of(shared_data: Path, tmp_path: Path) -> None:
    write_torch(tmp_path / "x.pth", STATE, DAVIDEA)
    path = shared_data / "mean/train01_16_128_171_mean.binaryproto"
    cube = read_mean(path).array
    np.save(tmp_path / "called sports1m.npy", cube[0])
    np.save(tmp_path / "cropped.npy", cube[0][:, :, 8:120, 29:141])
    for mean in (path, tmp_path / "called sports1m.npy", tmp_path / "cropped.npy", "90.25,97.66,101.41"):
        assert any("UCF101" in remark for remark in load_checkpoint(tmp_path / "x.pth", mean=mean).notes)
    right = load_checkpoint(tmp_path / "x.pth", mean=shared_data / "mean/framemean_112_sports1m_bgr_f64.npy")
    assert not any("UCF101" in remark for remark in right.notes)


def small_mean(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    remote = RemoteFile(
        "cube.binaryproto", ("http://localhost:9/cube",), len(content), git_blob_sha1=git_blob_sha1(content)
    )
    changed = replace(load_registry(), means={"sports1m": remote})
    monkeypatch.setattr(means, "load_registry", lambda: changed)


def test_a_registered_mean_is_found_next_to_the_checkpoint_or_in_the_cache_and_checked(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cube = np.full((1, 3, 16, 128, 171), 7, np.float32)
    small_mean(monkeypatch, fork_blob(cube))
    write_torch(tmp_path / "x.pth", STATE, DAVIDEA)
    with pytest.raises(WeightsError, match=r"--mean 100\.61,108\.05,107\.81") as caught:
        load_checkpoint(tmp_path / "x.pth")
    assert str(cache) in str(caught.value)
    for folder in (tmp_path, cache):
        (folder / "cube.binaryproto").write_bytes(fork_blob(cube))
        checkpoint = load_checkpoint(tmp_path / "x.pth")
        assert checkpoint.mean_name == "sports1m"
        assert checkpoint.mean.shape == (3, 16, 112, 112)
        (folder / "cube.binaryproto").write_bytes(fork_blob(cube + 1))
        with pytest.raises(WeightsError, match="git blob sha1"):
            load_checkpoint(tmp_path / "x.pth")
        (folder / "cube.binaryproto").unlink()


@pytest.mark.parametrize(
    ("array", "shape"),
    [
        (np.zeros((3, 128, 171)), (3, 1, 112, 112)),
        (np.zeros((16, 112, 112, 3), np.float32), (3, 16, 112, 112)),
        (np.zeros((128, 171, 3), np.uint8), (3, 1, 112, 112)),
        (np.zeros(3), (3, 1, 1, 1)),
    ],
)
def test_npy_means_of_every_useful_shape_are_taken(
    array: Any, shape: tuple[int, ...], tmp_path: Path
) -> None:
    write_torch(tmp_path / "x.pth", STATE, DAVIDEA)
    np.save(tmp_path / "m.npy", array)
    assert load_checkpoint(tmp_path / "x.pth", mean=tmp_path / "m.npy").mean.shape == shape


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "0 bytes"),
        (b"\x93NUMPY garbage", "npy"),
        (b"\x0a\xff\xff", "damaged"),
        (fork_blob(np.zeros((1, 3, 8, 128, 171), np.float32)), "does not fit"),
        (fork_blob(np.full((1, 3, 1, 112, 112), np.nan, np.float32)), "not finite"),
        (fork_blob(np.zeros((1, 3, 16, 128, 128), np.float32)), "I380K"),
    ],
)
def test_what_is_no_mean_is_refused_with_a_reason(content: bytes, said: str, tmp_path: Path) -> None:
    write_torch(tmp_path / "x.pth", STATE, DAVIDEA)
    (tmp_path / "mean").write_bytes(content)
    with pytest.raises(WeightsError, match=said):
        load_checkpoint(tmp_path / "x.pth", mean=tmp_path / "mean")


def test_an_npy_of_objects_is_never_unpickled(tmp_path: Path) -> None:
    np.save(tmp_path / "m.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(WeightsError, match="npy"):
        read_mean(tmp_path / "m.npy")


@pytest.mark.parametrize("text", ["1,2", "1,2,3,4", "1,2,nan", "inf,1,2", "nosuch.npy", "a,b,c"])
def test_a_mean_that_is_neither_numbers_nor_a_file_is_refused(text: str) -> None:
    with pytest.raises(WeightsError):
        find_mean(text)


@pytest.mark.parametrize("layout", ["caffe", "pytorch-mmaction", "keras-tensorflow", "tensorflow-npy"])
def test_101_classes_outside_fine_tuned_ports_mean_the_ucf101_cube(layout: str) -> None:
    conventions = assumed_conventions(layout, 101)
    assert (conventions.pool5, conventions.preprocessing.colour, conventions.mean) == (
        "ceil",
        "bgr",
        "ucf101",
    )


def test_means_written_in_another_projects_order_are_turned_round() -> None:
    # mmaction2: mean=[104, 117, 128] for frames in the order R,G,B.
    assert (
        assumed_conventions("pytorch-mmaction2", 101).mean
        == "128,117,104"
        == find_entry("ucf101-mmaction2").mean
    )
