"""``sports1m`` is its tensors: the first public file that arrives and is right stands in for the authors'."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from checkpoint_writers import MMACTION2, WRITERS, caffe_bytes, random_state, write_keras, write_torch
from click.testing import CliRunner
from known_outputs import CLIPS, plain_outputs, write_frames
from web_server import web_server

from c3d_extract.cli import weights as cli
from c3d_extract.errors import FetchError, WeightsError
from c3d_extract.models.c3d import ARCHITECTURES
from c3d_extract.weights import decide, load_checkpoint, load_registry
from c3d_extract.weights import load as load_module
from c3d_extract.weights import locate as locate_module
from c3d_extract.weights import registry as registry_module
from c3d_extract.weights.goldens import KnownClip, measures
from c3d_extract.weights.registry import RegistryEntry, RemoteFile

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from checkpoint_writers import State
    from web_server import Web

NARROW = ARCHITECTURES["c3d"].scaled(1 / 64)
STATE = random_state(NARROW.state_shapes(), seed=1)
OTHER = random_state(NARROW.state_shapes(), seed=2)
WITHOUT_FC8 = {name: array for name, array in STATE.items() if not name.startswith("fc8")}
MEAN = (100.0, 108.0, 107.0)
CAFFE = caffe_bytes(STATE, "fork")


def reversed_channels(state: State) -> State:
    return state | {"conv1a.weight": np.ascontiguousarray(state["conv1a.weight"][:, ::-1])}


@pytest.fixture
def web() -> Iterator[Web]:
    with web_server() as found:
        yield found


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and the servers of this machine."""
    for name in ("C3D_OFFLINE", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(locate_module, "NETWORK", NARROW)
    return tmp_path / "torch/hub/checkpoints"


class Files:
    """Records of ``sports1m`` and of files of equal tensors, each on a server under its own name."""

    def __init__(self, web: Web, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.web, self.folder, self.monkeypatch = web, folder, monkeypatch
        self.entries: dict[str, RegistryEntry] = {}
        self.add("sports1m", "conv3d", "caffe", sha256=hashlib.sha256(CAFFE).hexdigest())

    def add(self, name: str, file: str, layout: str, **given: Any) -> None:
        known = {key: given.pop(key) for key in ("sha256", "size") if key in given}
        facts: dict[str, Any] = {
            "n_classes": 487,
            "pool5": "ceil",
            "colour": "bgr",
            "mean": "100,108,107",
        } | given
        remote = RemoteFile(file, (f"{self.web.address}/{file}",), **known)
        facts |= {"title": name, "trained_on": "noise", "licence": f"licence of {name}"}
        self.entries[name] = RegistryEntry(name, file=remote, layout=layout, **facts)
        first = self.entries["sports1m"]
        others = tuple(other for other in self.entries if other != "sports1m")
        changed = replace(
            load_registry(), checkpoints=self.entries | {"sports1m": replace(first, same_tensors=others)}
        )
        for module in (registry_module, locate_module, load_module, cli):
            self.monkeypatch.setattr(module, "load_registry", lambda: changed)

    def serve(self, file: str, writer: str, state: State = STATE) -> bytes:
        """Put a file of this layout on the server, and return its bytes."""
        WRITERS[writer][2](self.folder / "written", state)
        return self.put(file)

    def put(self, file: str) -> bytes:
        content = (self.folder / "written").read_bytes()
        self.web.put(f"/{file}", content)
        return content


@pytest.fixture
def files(web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Files:
    return Files(web, tmp_path, monkeypatch)


def tensors_of_caffe(files: Files) -> dict[str, str]:
    """The hashes that the authors' file has."""
    (files.folder / "authors").write_bytes(CAFFE)
    return load_checkpoint(files.folder / "authors", mean="1,2,3").tensors_sha256


def test_the_first_dead_the_second_wrong_the_third_is_used_named_and_fetched_once(
    files: Files, web: Web, cache: Path
) -> None:
    files.add("second", "c3d.pickle", "pytorch-davidea")
    web.put("/c3d.pickle", b"<html>")
    content = files.serve("third.pth", "mmaction v0")
    files.add("third", "third.pth", "pytorch-mmaction", sha256=hashlib.sha256(content).hexdigest()[:8])
    for _ in range(2):
        checkpoint = load_checkpoint("sports1m")
        assert checkpoint.name == "sports1m"
        assert checkpoint.identity()["weights_file"] == "third.pth"
        assert checkpoint.identity()["weights_sha256"] == hashlib.sha256(content).hexdigest()
        assert checkpoint.record["name"] == "third"
        assert any("sports1m is read from third.pth (licence of third)" in note for note in checkpoint.notes)
    assert web.requests == {"/conv3d": 1, "/c3d.pickle": 1, "/third.pth": 1}
    assert [path.name for path in cache.iterdir()] == ["third.pth"]
    assert all(np.array_equal(checkpoint.state[name], STATE[name]) for name in STATE)
    assert checkpoint.tensors_sha256 == tensors_of_caffe(files)


def test_the_authors_file_is_asked_for_first(files: Files, web: Web) -> None:
    files.add("second", "c3d.pickle", "pytorch-davidea")
    files.serve("c3d.pickle", "DavideA")
    web.put("/conv3d", CAFFE)
    checkpoint = load_checkpoint("sports1m")
    assert checkpoint.identity()["weights_file"] == "conv3d"
    assert checkpoint.record["name"] == "sports1m"
    assert web.requests == {"/conv3d": 1}


@pytest.mark.parametrize("asked", [None, ("fc6",), ("fc6", "prob")])
def test_a_file_without_the_classes_stands_in_only_where_none_are_asked_for(
    asked: tuple[str, ...] | None, files: Files
) -> None:
    files.serve("second.pth", "mmaction v0", WITHOUT_FC8)
    files.add("second", "second.pth", "pytorch-mmaction", n_classes=None)
    files.serve("third.pickle", "DavideA")
    files.add("third", "third.pickle", "pytorch-davidea")
    used = "third.pickle" if asked and "prob" in asked else "second.pth"
    checkpoint = load_checkpoint("sports1m", layers=asked)
    assert checkpoint.identity()["weights_file"] == used
    assert checkpoint.tensors_sha256["fc6"] == tensors_of_caffe(files)["fc6"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"state": random_state(ARCHITECTURES["c3d"].scaled(1 / 32).state_shapes())}, "of other widths"),
        ({"writer": "jfzhang95"}, "is of layout pytorch-jfzhang95"),
        ({"state": WITHOUT_FC8}, "has no classes"),
    ],
)
@pytest.mark.parametrize("where", ["served", "cached"])
def test_a_file_of_no_known_hash_must_be_what_its_record_says(
    change: dict[str, Any], said: str, where: str, files: Files, web: Web, cache: Path
) -> None:
    content = files.serve("c3d.pickle", **({"writer": "DavideA"} | change))
    files.add("second", "c3d.pickle", "pytorch-davidea")
    if where == "cached":  # a file of another program, under the same name
        web.files.clear()
        cache.mkdir(parents=True)
        (cache / "c3d.pickle").write_bytes(content)
    with pytest.raises(FetchError, match=f"c3d.pickle( on this machine)?: .*{said}"):
        load_checkpoint("sports1m")


# Channel orders that nobody states -------------------------------------------------------------------


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_frames(tmp_path_factory.mktemp("frames"))


@pytest.fixture
def known(frames: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make what is known of the original tool the outputs of STATE, B,G,R and pool5 by ceil."""
    fc6, prob = plain_outputs(STATE, frames, "bgr", "ceil", MEAN)
    clips = [
        KnownClip(video, start, *measures(row), top_class=int(top))
        for (video, start), row, top in zip(CLIPS, fc6, prob.argmax(axis=1), strict=True)
    ]
    monkeypatch.setattr(decide, "known_clips", lambda: clips)
    monkeypatch.setattr(decide, "sample_frames", lambda **_: frames)


def mmaction2(files: Files, state: State, *, name: str = "second.pth") -> None:
    """MMAction2's file: no fc8, its hash known, the order of its channels not."""
    without = {key: array for key, array in state.items() if not key.startswith("fc8")}
    write_torch(files.folder / "written", without, MMACTION2)
    digest = hashlib.sha256(files.put(name)).hexdigest()
    files.add(name, name, "pytorch-mmaction2", n_classes=None, undecided=("colour",), sha256=digest)


@pytest.mark.usefixtures("known")
@pytest.mark.parametrize("turn", [dict, reversed_channels])
def test_the_order_of_channels_is_measured_once_and_the_tensors_come_as_caffes(
    turn: Any, files: Files, web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    mmaction2(files, turn(STATE))
    for _ in range(2):
        checkpoint = load_checkpoint("sports1m", layers=["fc6", "fc7"])
        assert checkpoint.preprocessing.colour == "bgr"
        assert np.array_equal(checkpoint.state["conv1a.weight"], STATE["conv1a.weight"])
        expected = tensors_of_caffe(files)
        assert checkpoint.tensors_sha256 == {layer: expected[layer] for layer in ("fc6", "fc7")}
        monkeypatch.setattr(decide, "measure", None)  # a second measurement would fail
    assert web.requests["/second.pth"] == 1


@pytest.mark.usefixtures("known")
@pytest.mark.parametrize("order", ["chw", "hwc"])
def test_the_order_of_fc6_is_measured(order: str, files: Files) -> None:
    write_keras(files.folder / "written", STATE, order=order)
    digest = hashlib.sha256(files.put("x.h5")).hexdigest()
    files.add("keras", "x.h5", "keras-tensorflow", undecided=("fc6_order",), sha256=digest)
    checkpoint = load_checkpoint("sports1m")
    assert np.array_equal(checkpoint.state["fc6.weight"], STATE["fc6.weight"])
    assert checkpoint.tensors_sha256 == tensors_of_caffe(files)
    assert checkpoint.record["fc6_order"] == order


@pytest.mark.usefixtures("known")
def test_a_file_that_gives_other_outputs_is_not_used(files: Files) -> None:
    mmaction2(files, OTHER)
    with pytest.raises(FetchError, match=r"second.pth: does not give the original tool's output"):
        load_checkpoint("sports1m")
    files.serve("third.pickle", "DavideA")
    files.add("third", "third.pickle", "pytorch-davidea")
    assert load_checkpoint("sports1m").identity()["weights_file"] == "third.pickle"


def test_without_the_frames_it_is_not_used(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_frames(**_: object) -> Path:
        raise FetchError("could not be fetched", answers=["github.com: 404"], subject="the frames")

    monkeypatch.setattr(decide, "sample_frames", no_frames)
    mmaction2(files, STATE)
    said = r"second.pth: its colour could not be measured: the frames could not be fetched: github.com: 404"
    with pytest.raises(FetchError, match=said):
        load_checkpoint("sports1m")


@pytest.mark.usefixtures("known")
@pytest.mark.parametrize(
    "content", [b"", b"[]", b'{"colour": "rgb"}', b'{"colour": "xyz", "fc6_order": null, "sha256": "SHA"}']
)
def test_a_result_that_is_damaged_or_of_another_file_is_measured_again(
    content: bytes, files: Files, cache: Path
) -> None:
    mmaction2(files, STATE)
    load_checkpoint("sports1m", layers=["fc6"])
    result = cache / "second.pth.measured.json"
    right = result.read_bytes()
    digest = hashlib.sha256((cache / "second.pth").read_bytes()).hexdigest()
    result.write_bytes(content.replace(b"SHA", digest.encode()))
    load_checkpoint("sports1m", layers=["fc6"])
    assert result.read_bytes() == right


# All dead --------------------------------------------------------------------------------------------


def test_all_dead_says_what_each_answered_and_what_to_do_in_one_screen(
    web: Web, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real records, each address on a server that has nothing."""
    entries = {}
    for name, entry in load_registry().checkpoints.items():
        mirrors = tuple(f"{web.address}/{i}/{entry.file.name}" for i, _ in enumerate(entry.file.mirrors))
        entries[name] = replace(entry, file=replace(entry.file, mirrors=mirrors))
    changed = replace(load_registry(), checkpoints=entries)
    monkeypatch.setattr(registry_module, "load_registry", lambda: changed)
    monkeypatch.setattr(cli, "find_entry", entries.__getitem__)
    with pytest.raises(FetchError) as caught:
        locate_module.locate_entry(entries["sports1m"])
    text = str(caught.value)
    assert "\n" not in text
    result = CliRunner().invoke(cli.command, ["fetch", "sports1m", "--quiet"])
    assert result.exit_code == 1
    lines = result.stderr.splitlines()
    assert sum(-(-len(line) // 80) for line in lines) <= 23
    of_chain = [entries["sports1m"], *(entries[name] for name in entries["sports1m"].same_tensors)]
    for entry in of_chain:
        for shown in (text, result.stderr):
            assert entry.file.name in shown
        assert sum(line.startswith(f"  {entry.file.name}: 127") for line in lines) == len(entry.file.mirrors)
        assert all(web.requests[f"/{i}/{entry.file.name}"] for i, _ in enumerate(entry.file.mirrors))
    for way in (str(cache), str(entries["sports1m"].file.mirrors[0]), "r3d_18", "motion-mini"):
        assert way in text
        assert way in result.stderr


def test_long_answers_are_cut_to_the_screen() -> None:
    from c3d_extract.cli.common import _as_list

    error = FetchError(
        "nothing", answers=[f"{i}: {'x' * 300}" for i in range(16)], subject="x", hint="get; do"
    )
    lines = _as_list(error).split("\n")
    # One row for each of the last twelve: with the prompt's the screen has no more than 24.
    assert [len(line) for line in lines] == [len("Error: x: nothing:"), *[160] * 4, *[80] * 12, 3, 2]


def test_offline_it_names_the_authors_file(files: Files, web: Web) -> None:
    files.add("second", "c3d.pickle", "pytorch-davidea")
    with pytest.raises(FetchError, match=r"conv3d: not on this machine.*offline"):
        load_checkpoint("sports1m", offline=True)
    assert not web.requests


def test_a_local_copy_of_equal_tensors_is_here(files: Files, cache: Path) -> None:
    content = files.serve("c3d.pickle", "DavideA")
    files.add("second", "c3d.pickle", "pytorch-davidea")
    cache.mkdir(parents=True)
    (cache / "c3d.pickle").write_bytes(content)
    checkpoint = load_checkpoint("sports1m", offline=True)
    assert checkpoint.identity()["weights_file"] == "c3d.pickle"
    shown = CliRunner().invoke(cli.command, ["show", "sports1m"])
    assert str(cache / "c3d.pickle") in shown.stdout


def test_the_authors_file_that_was_changed_is_not_passed_over(files: Files, cache: Path) -> None:
    files.serve("c3d.pickle", "DavideA")
    files.add("second", "c3d.pickle", "pytorch-davidea")
    cache.mkdir(parents=True)
    (cache / "conv3d").write_bytes(CAFFE[:-1])
    with pytest.raises(WeightsError, match="not the file it should be"):
        load_checkpoint("sports1m")


def test_what_stands_in_for_sports1m_is_described_alike() -> None:
    known = load_registry().checkpoints
    first = known["sports1m"]
    assert set(first.same_tensors) == {name for name in known if name.startswith("sports1m-")}
    for name in first.same_tensors:
        other = known[name]
        assert (other.pool5, other.colour, other.mean) == (first.pool5, first.colour, first.mean)
        assert other.n_classes in {first.n_classes, None}
        open_order = other.layout in {"keras-tensorflow", "tensorflow-npy"} and other.fc6_order is None
        assert ("fc6_order" in other.undecided) == open_order
        assert ("colour" in other.undecided) == any("R,G,B" in fact for fact in other.unknown)
