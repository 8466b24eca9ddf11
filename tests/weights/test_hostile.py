"""Checkpoints are data: nothing in one runs, and damage ends in a result or in one WeightsError."""

from __future__ import annotations

import json
import os
import pickle
import struct
import subprocess
import sys
import time
import warnings
import zipfile
from argparse import Namespace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from checkpoint_writers import DAVIDEA, caffe_bytes, random_state, write_keras, write_npy, write_torch
from click.testing import CliRunner
from safetensors import safe_open
from safetensors.torch import save_file

from c3d_extract.cli import weights as weights_cli
from c3d_extract.errors import WeightsError, printable
from c3d_extract.models.c3d import ARCHITECTURES
from c3d_extract.preprocess.spec import Preprocessing
from c3d_extract.weights import goldens, load_checkpoint, read_mean, save_checkpoint

HERE = Path(__file__).resolve().parents[1]
NARROW = ARCHITECTURES["c3d"].scaled(1 / 64)
STATE = random_state(NARROW.state_shapes())

CONTAINERS = [
    "native",
    "jfzhang95",
    "DavideA, before zip",
    "mmaction2, fine-tuned",
    "mmaction v0, wrapped",
    "Caffe C3D v1.0",
    "Caffe BVLC",
    "TensorFlow npy C, H, W",
    "TensorFlow npy H, W, C, Python 2",
    "Keras TensorFlow H, W, C",
    "Keras Theano",
    "VMZ",
    "Res3D-18",
]


N_DAMAGED = int(os.environ.get("C3D_FUZZED_FILES", "60"))
"""Of each kind. Releases are tested with 1,000: ``C3D_FUZZED_FILES=1000 pytest tests/weights``."""


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> Any:
    script = [sys.executable, str(HERE / "checkpoint_fuzz.py"), str(tmp_path_factory.mktemp("fuzz"))]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(HERE.parent), str(HERE)])}
    done = subprocess.run(
        [*script, str(N_DAMAGED), *CONTAINERS], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="limits the address space by Linux's means")
@pytest.mark.parametrize("container", CONTAINERS)
def test_damaged_files_load_or_are_refused_with_one_line(container: str, fuzzed: Any) -> None:
    result = fuzzed[container]
    assert result["others"] == []
    assert result["loaded"] + result["refused"] == result["n"]
    assert result["refused"] > result["n"] / 2  # the damage is real
    # Tiny files of 20 kB; caches of parsers take a few MiB, a trusted length would take hundreds. Copies of
    # the one large file are 130 MB each.
    assert result["grew_mib"] < (300 if container == "Res3D-18" else 32)


class RunsCode:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickle_that_would_run_code_does_not(legacy: bool, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    torch.save({"conv1.weight": RunsCode(mark)}, tmp_path / "x", _use_new_zipfile_serialization=not legacy)
    with pytest.raises(WeightsError, match="could run code"):
        load_checkpoint(tmp_path / "x")
    assert not mark.exists()


@pytest.mark.parametrize("legacy", [False, True])
def test_options_beside_the_tensors_are_read_as_attributes_alone(legacy: bool, tmp_path: Path) -> None:
    tensors = {f"{DAVIDEA.get(n[:6], n[:6])}{n[6:]}": torch.from_numpy(a) for n, a in STATE.items()}
    plain = {"state_dict": tensors, "args": Namespace(lr=0.1, names=["a"])}
    torch.save(plain, tmp_path / "x", _use_new_zipfile_serialization=not legacy)
    assert load_checkpoint(tmp_path / "x", mean="1,2,3").layout == "pytorch-davidea"
    mark = tmp_path / "ran"
    hostile = {"state_dict": tensors, "args": Namespace(lr=RunsCode(mark))}
    torch.save(hostile, tmp_path / "x", _use_new_zipfile_serialization=not legacy)
    with pytest.raises(WeightsError, match="could run code"):
        load_checkpoint(tmp_path / "x", mean="1,2,3")
    assert not mark.exists()


def test_an_npy_dictionary_that_would_run_code_does_not(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    np.save(tmp_path / "x.npy", {"var_name/wc1": RunsCode(mark)}, allow_pickle=True)  # type: ignore[arg-type]
    with pytest.raises(WeightsError, match="only arrays are read"):
        load_checkpoint(tmp_path / "x.npy")
    assert not mark.exists()
    assert np.load(tmp_path / "x.npy", allow_pickle=True) is not None
    assert mark.exists()  # it would have run


def test_an_npy_dictionary_cannot_reach_what_surrounds_the_reader(tmp_path: Path) -> None:
    """numpy's own scalar and object arrays, and attributes of the stand-ins, lead nowhere."""
    for content in (
        {"a": np.float64(1)},
        {"var_name/wc1": np.array([None])},
        {"var_name/wc1": np.array(["x"])},
    ):
        np.save(tmp_path / "x.npy", content, allow_pickle=True)  # type: ignore[arg-type]
        with pytest.raises(WeightsError):
            load_checkpoint(tmp_path / "x.npy", fc6_order="chw")


def test_a_legacy_file_cannot_make_torch_allocate_what_it_does_not_hold(tmp_path: Path) -> None:
    write_torch(tmp_path / "x", STATE, DAVIDEA, legacy=True)
    content = (tmp_path / "x").read_bytes()
    size = NARROW.state_shapes()["fc6.weight"]
    n = size[0] * size[1]
    # The elements of fc6.weight, as BININT, or as BININT2 where that holds them.
    as_int, as_short = b"J" + struct.pack("<i", n), b"M" + struct.pack("<H", n)
    stored = as_int if as_int in content else as_short
    assert stored in content
    (tmp_path / "x").write_bytes(content.replace(stored, b"J" + struct.pack("<i", 2**31 - 1), 1))
    with pytest.raises(WeightsError, match="claim more than the file holds"):
        load_checkpoint(tmp_path / "x")


def test_a_tensor_of_few_stored_numbers_cannot_stand_for_many(tmp_path: Path) -> None:
    tensors = {
        f"{DAVIDEA.get(n.split('.')[0], n.split('.')[0])}.{n.split('.')[1]}": torch.from_numpy(a)
        for n, a in STATE.items()
    }
    tensors["fc6.weight"] = torch.zeros(1).expand(1 << 16, 1 << 16)
    torch.save(tensors, tmp_path / "x")
    with pytest.raises(WeightsError, match="more numbers than the file holds"):
        load_checkpoint(tmp_path / "x")


def test_a_zip_bomb_is_no_checkpoint(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/data.pkl", b"\0" * (64 << 20))
    with pytest.raises(WeightsError, match="compressed"):
        load_checkpoint(tmp_path / "x")


def test_a_pickle_with_a_huge_memo_or_string_is_refused_before_it_is_unpickled(tmp_path: Path) -> None:
    header = (
        b"\x93NUMPY\x01\x00"
        + struct.pack("<H", 118)
        + b"{'descr': '|O', 'fortran_order': False, 'shape': (), }".ljust(117)
        + b"\n"
    )
    memo = b"\x80\x02" + b"K\x01" + b"r" + struct.pack("<I", 1 << 31) + b"."
    string = b"\x80\x04" + b"\x8e" + struct.pack("<Q", 1 << 40) + b"abc" + b"."
    for body in (memo, string):
        (tmp_path / "x").write_bytes(header + body)
        with pytest.raises(WeightsError):
            load_checkpoint(tmp_path / "x")


def test_a_false_safetensors_header_is_refused(tmp_path: Path) -> None:
    header = json.dumps(
        {"conv1a.weight": {"dtype": "F32", "shape": [1 << 20, 1 << 20], "data_offsets": [0, 4]}}
    ).encode()
    (tmp_path / "x").write_bytes(struct.pack("<Q", len(header)) + header + b"\0" * 4)
    with pytest.raises(WeightsError, match="safetensors"):
        load_checkpoint(tmp_path / "x")


def test_a_safetensors_file_is_known_whatever_byte_its_length_begins_with(tmp_path: Path) -> None:
    """A header of 128 bytes more or less begins as a pickle does; of 10, as a Caffe model does."""
    seen = set()
    for padding in range(0, 2048, 8):
        save_file({"nothing": torch.zeros(1)}, tmp_path / "x", metadata={"pad": "x" * padding})
        seen.add((tmp_path / "x").read_bytes()[0])
        with pytest.raises(WeightsError, match="known C3D layout"):
            load_checkpoint(tmp_path / "x")
    assert 0x80 in seen


def test_a_caffe_blob_with_a_false_shape_is_refused(tmp_path: Path) -> None:
    content = caffe_bytes(STATE, "fork")
    honest = b"\x08\x04\x10\x03\x18\x03\x20\x03\x28\x03"  # conv1a: num 4, channels 3, 3x3x3
    assert content.count(honest) == 1
    (tmp_path / "x").write_bytes(content.replace(honest, b"\x08\x7f\x10\x7f\x18\x7f\x20\x7f\x28\x7f"))
    with pytest.raises(WeightsError, match="a blob of shape"):
        load_checkpoint(tmp_path / "x")


def test_h5_links_to_other_files_are_not_followed(tmp_path: Path) -> None:
    write_keras(tmp_path / "outside.h5", STATE)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        for layer in ("conv1", "conv2", "conv3a", "fc6"):
            file[layer] = h5py.ExternalLink("outside.h5", layer)
            file[f"soft_{layer}"] = h5py.SoftLink(f"/{layer}")
    with pytest.raises(WeightsError, match=r"conv1 is a link to another file, outside.h5"):
        load_checkpoint(tmp_path / "x.h5", fc6_order="hwc")


def test_h5_arrays_that_lie_elsewhere_or_are_not_there_are_refused(tmp_path: Path) -> None:
    for kind in ("external", "empty"):
        write_keras(tmp_path / "x.h5", STATE)
        with h5py.File(tmp_path / "x.h5", "a") as file:
            shape = file["fc6/fc6/kernel:0"].shape
            del file["fc6/fc6/kernel:0"]
            if kind == "external":
                (tmp_path / "secret.bin").write_bytes(b"\0" * (4 * shape[0] * shape[1]))
                external = [("secret.bin", 0, 4 * shape[0] * shape[1])]
                file["fc6/fc6"].create_dataset("kernel:0", shape, "f4", external=external)
            else:  # a dataset of any shape that was never written takes no room in the file
                file["fc6/fc6"].create_dataset("kernel:0", (1 << 20, 1 << 20), "f4", chunks=(1024, 1024))
        with pytest.raises(WeightsError):
            load_checkpoint(tmp_path / "x.h5", mean="1,2,3", fc6_order="hwc")


def test_a_pickle_of_python_objects_under_an_npy_name_is_refused(tmp_path: Path) -> None:
    write_npy(tmp_path / "x", STATE)
    (tmp_path / "x").write_bytes(pickle.dumps({"var_name/wc1": 1}))
    with pytest.raises(WeightsError):
        load_checkpoint(tmp_path / "x")


def write_native(path: Path, **changes: Any) -> None:
    """Write a native checkpoint, then change its description."""
    state = {name: torch.from_numpy(array) for name, array in STATE.items()}
    save_checkpoint(path, state, NARROW, Preprocessing(), np.array([1.0, 2.0, 3.0]), name="x", mean_name="m")
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a mapping
        header = json.loads(file.metadata()["c3d_extract"]) | changes
    save_file(tensors, path, metadata={"c3d_extract": json.dumps(header)})


def test_groups_of_a_keras_file_that_hold_each_other_are_read_once(tmp_path: Path) -> None:
    write_keras(tmp_path / "x.h5", STATE)
    with h5py.File(tmp_path / "x.h5", "a") as file:
        for i in range(40):  # 40 ^ 4 ways to walk
            file[f"conv1/again{i}"] = file["conv1"]
            file[f"conv1/up{i}"] = file["/"]
    started = time.monotonic()
    assert load_checkpoint(tmp_path / "x.h5", mean="1,2,3", fc6_order="hwc").state
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("write", ["torch", "npy"])
def test_dictionaries_that_hold_each_other_are_read_once(write: str, tmp_path: Path) -> None:
    cyclic: dict[str, Any] = {}
    cyclic |= {f"again{i}": cyclic for i in range(300)}  # 300 ^ 3 ways to walk
    if write == "torch":
        torch.save(cyclic, tmp_path / "x")
    else:
        np.save(tmp_path / "x.npy", cyclic, allow_pickle=True)  # type: ignore[arg-type]
        (tmp_path / "x.npy").rename(tmp_path / "x")
    started = time.monotonic()
    with pytest.raises(WeightsError, match="known C3D layout"):
        load_checkpoint(tmp_path / "x", fc6_order="chw")
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("kind", ["external link", "link", "fifo", "virtual", "external"])
def test_names_of_other_files_in_a_keras_file_are_refused_by_name(kind: str, tmp_path: Path) -> None:
    write_keras(tmp_path / "x.h5", STATE)
    os.mkfifo(tmp_path / "fifo")
    with h5py.File(tmp_path / "x.h5", "a") as file:
        group, shape = file["fc6/fc6"], file["fc6/fc6/kernel:0"].shape
        del group["kernel:0"]
        if kind in {"external link", "fifo"}:
            group["kernel:0"] = h5py.ExternalLink("fifo" if kind == "fifo" else "/etc/passwd", "/x")
        elif kind == "link":
            group["kernel:0"] = h5py.SoftLink("/fc7")
        elif kind == "external":
            group.create_dataset(
                "kernel:0", shape, "f4", external=[("/etc/passwd", 0, 4 * shape[0] * shape[1])]
            )
        else:
            layout = h5py.VirtualLayout(shape, "f4")
            layout[...] = h5py.VirtualSource("fifo", "x", shape)
            group.create_virtual_dataset("kernel:0", layout)
    with pytest.raises(WeightsError, match=r"kernel:0 (is a link to|is a virtual|has its values in)"):
        load_checkpoint(tmp_path / "x.h5", mean="1,2,3", fc6_order="hwc")


def test_numbers_that_float32_cannot_hold_are_refused_without_a_warning(tmp_path: Path) -> None:
    write_keras(tmp_path / "x.h5", STATE)
    with h5py.File(tmp_path / "x.h5", "a") as file:
        kernel = file["fc6/fc6/kernel:0"][()].astype("f8")
        kernel[0, 0] = 1e300
        del file["fc6/fc6/kernel:0"]
        file["fc6/fc6/kernel:0"] = kernel
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(WeightsError, match=r"fc6.weight has values that are not finite"):
            load_checkpoint(tmp_path / "x.h5", mean="1,2,3", fc6_order="hwc")
        np.save(tmp_path / "mean.npy", np.full(3, 1e300))
        with pytest.raises(WeightsError, match="not finite"):
            load_checkpoint(tmp_path / "x.h5", mean=tmp_path / "mean.npy", fc6_order="hwc", layers=["conv5b"])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"extra": "deep"}, "nested too deeply"),
        ({"preprocessing": Preprocessing((4096, 4096), (4096, 4096)).to_json()}, "its crop is 4096 x 4096"),
        ({"preprocessing": Preprocessing().to_json() | {"colour": ["bgr"]}}, "colour bgr or rgb"),
        ({"preprocessing": Preprocessing().to_json() | {"crop": [112, 1e400]}}, "not JSON"),
        ({"architecture": NARROW.to_json() | {"pool5": {}}}, "pool5 is"),
    ],
)
def test_a_description_that_no_network_can_follow_is_refused(
    changes: dict[str, Any], said: str, tmp_path: Path
) -> None:
    if changes == {"extra": "deep"}:
        header = {"format": 1, "name": "x", "extra": "deep"}
        text = json.dumps(header).replace('"deep"', "[" * 100_000 + "]" * 100_000)
        save_file({"a": torch.zeros(1)}, tmp_path / "x", metadata={"c3d_extract": text})
    else:
        write_native(tmp_path / "x", **changes)
    with pytest.raises(WeightsError, match=said) as caught:
        load_checkpoint(tmp_path / "x")
    assert "\n" not in str(caught.value)


NASTY = "evil\n\x1b[31mred\x1b[0m\r\u202egnp.exe\x9b2J[bold]"


def test_names_out_of_checkpoints_cannot_fool_a_terminal(tmp_path: Path) -> None:
    write_native(tmp_path / "x", name=NASTY, mean_name=NASTY)
    result = CliRunner().invoke(
        weights_cli.command, ["convert", str(tmp_path / "x"), str(tmp_path / "y.safetensors")]
    )
    assert result.exit_code == 0, result.output
    assert all(line.isprintable() for line in result.output.split("\n"))
    assert printable(NASTY) in result.output
    assert result.output.count("\n") == 2


def test_an_error_is_one_short_line_whatever_a_file_puts_into_it(tmp_path: Path) -> None:
    text = str(WeightsError(NASTY * 10_000, subject=tmp_path / NASTY, hint="what to do"))
    assert text.isprintable()
    assert len(text) < 5000
    assert text.endswith("; what to do")
    names = {f"{NASTY}{i}.weight": torch.zeros(1) for i in range(4)}
    torch.save(names | {"conv1.weight": torch.zeros(1)}, tmp_path / "x")
    with pytest.raises(WeightsError) as caught:
        load_checkpoint(tmp_path / "x")
    assert str(caught.value).isprintable()


def test_a_mean_and_known_outputs_that_never_end_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(WeightsError, match="no regular file"):
        read_mean(tmp_path / "fifo")
    with pytest.raises(WeightsError, match="not a file"):
        goldens.read_goldens(tmp_path / "fifo")
    with zipfile.ZipFile(tmp_path / "x.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("fc6.npy", b"\0" * (2 << 20))
    monkeypatch.setattr(goldens, "_MAX_GOLDENS", 1 << 20)
    with pytest.raises(WeightsError, match="decompresses to"):
        goldens.read_goldens(tmp_path / "x.npz")
    minus = b"{'descr': " + b"-" * 9000 + b"1, 'fortran_order': False, 'shape': (3,), }"
    (tmp_path / "x.npy").write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(minus)) + minus)
    with pytest.raises(WeightsError, match="not a readable npy file"):
        read_mean(tmp_path / "x.npy")
