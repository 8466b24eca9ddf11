"""Weights of torchvision's video networks: fetched by name, recognised by content, checked by their hash."""

from __future__ import annotations

import functools
import http.server
import json
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file

from c3d_extract.cli import weights as weights_command
from c3d_extract.errors import FetchError, UsageError, WeightsError
from c3d_extract.models.torchvision import NETWORKS, Published, VideoNetwork, published
from c3d_extract.weights import find_entry, load_checkpoint, registry
from c3d_extract.weights.convert import convert
from c3d_extract.weights.fetch import sha256_of
from c3d_extract.weights.verify import verify

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from torch import Tensor


def random_state(name: str = "r3d_18", n_classes: int = 400) -> dict[str, Tensor]:
    """A state dict of random numbers as torchvision's files hold it, with counters and tables."""
    generator = torch.Generator().manual_seed(0)
    with torch.device("meta"):
        state = VideoNetwork(name, n_classes).build_torchvision().state_dict()
    empty = {key: torch.zeros_like(value, device="cpu") for key, value in state.items()}
    return {
        key: value.uniform_(generator=generator) if value.is_floating_point() else value
        for key, value in empty.items()
    }


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    return random_state()


@pytest.fixture(scope="module")
def saved(state: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("saved") / "any name"
    torch.save(state, path)
    return path


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    return tmp_path / "hub" / "checkpoints"


class Server(http.server.ThreadingHTTPServer):
    paths: list[str]


class Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None: ...

    def do_GET(self) -> None:
        assert isinstance(self.server, Server)
        self.server.paths.append(self.path)
        super().do_GET()


@pytest.fixture
def server(saved: Path) -> Iterator[Server]:
    """Serves the file's folder."""
    found = Server(("127.0.0.1", 0), functools.partial(Handler, directory=str(saved.parent)))
    found.paths = []
    thread = threading.Thread(target=found.serve_forever)
    thread.start()
    yield found
    found.shutdown()
    thread.join()
    found.server_close()


@pytest.fixture
def record(saved: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> Published:
    """torchvision's record of r3d_18, as it would be if the random file were the published one."""
    monkeypatch.delenv("C3D_OFFLINE")
    sha256 = sha256_of(saved)[:8]
    file = f"r3d_18-{sha256}.pth"
    address = f"http://127.0.0.1:{server.server_port}/{file}"
    changed = published()["r3d_18"]._replace(url=address, file=file, sha256=sha256)
    (saved.parent / file).write_bytes(saved.read_bytes())
    entries = registry.published_entries()  # of the real records: it is kept
    monkeypatch.setitem(entries, "r3d_18", registry._published_entry(changed))
    monkeypatch.setitem(published(), "r3d_18", changed)
    return changed


def test_a_name_is_fetched_once_checked_and_described_by_torchvisions_record(
    record: Published, server: Server, cache: Path, state: dict[str, Tensor]
) -> None:
    for _ in range(2):
        checkpoint = load_checkpoint("r3d_18")
    assert server.paths == [f"/{record.file}"]
    assert checkpoint.path == cache / record.file
    assert checkpoint.name == "r3d_18"
    assert checkpoint.backbone == VideoNetwork("r3d_18", 400)
    assert checkpoint.labels == record.labels
    assert checkpoint.labels is not None
    assert len(checkpoint.labels) == 400
    assert checkpoint.preprocessing == record.preprocessing
    np.testing.assert_allclose(checkpoint.mean.ravel(), record.mean, rtol=1e-6)
    assert "Kinetics-400" in str(checkpoint.licence)
    assert checkpoint.record["facts"]["accuracy"]["acc@1"] == 63.2
    assert set(checkpoint.state) == {key for key, value in state.items() if value.is_floating_point()}
    for key, tensor in checkpoint.state.items():
        assert torch.equal(tensor, state[key])


def test_the_same_file_by_its_path_is_the_same_checkpoint(record: Published, saved: Path) -> None:
    checkpoint = load_checkpoint(saved)
    assert checkpoint.notes == []
    assert checkpoint.name == record.name
    assert checkpoint.labels == record.labels
    assert checkpoint.identity()["weights_sha256"].startswith(record.sha256)


def test_bytes_of_another_hash_are_refused(record: Published, saved: Path, cache: Path) -> None:
    wrong = bytearray(saved.read_bytes())
    wrong[-1000] ^= 1
    (saved.parent / record.file).write_bytes(wrong)
    with pytest.raises(FetchError, match="gave another file: sha256") as caught:
        load_checkpoint("r3d_18")
    assert record.url in str(caught.value)
    assert not (cache / record.file).exists()


def test_a_cached_file_that_changed_is_refused(record: Published, cache: Path) -> None:
    cache.mkdir(parents=True)
    (cache / record.file).write_bytes(b"something else")
    with pytest.raises(WeightsError, match="not the file it should be"):
        load_checkpoint("r3d_18")


@pytest.mark.parametrize("name", list(published()))
def test_offline_it_says_where_the_file_is_and_where_to_put_it(name: str, cache: Path) -> None:
    with pytest.raises(FetchError, match="offline") as caught:
        load_checkpoint(name)
    weights = published()[name]
    assert f"https://download.pytorch.org/models/{weights.file}" in str(caught.value)
    assert str(cache) in str(caught.value)
    entry = find_entry(name)
    assert entry.file.sha256 is not None
    assert len(entry.file.sha256) == 8
    assert entry.facts["clip"] == list(weights.network.clip)


def test_a_folder_of_the_networks_name_does_not_hide_it(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "r3d_18").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FetchError, match="r3d_18-"):
        load_checkpoint("r3d_18")


def test_a_name_that_is_nearly_one_leads_to_it() -> None:
    with pytest.raises(WeightsError, match=r"close names: .*r2plus1d_18"):
        load_checkpoint("r2plus1d-18")


@pytest.mark.parametrize("form", ["plain", "module.", "model", "safetensors"])
def test_files_are_recognised_by_what_is_in_them(form: str, tmp_path: Path) -> None:
    state, path = random_state(n_classes=5), tmp_path / "weights"
    if form == "safetensors":
        save_file(state, path)
    elif form == "model":  # as torchvision's training script writes
        torch.save({"model": state, "optimizer": {"state": {}}, "epoch": 3}, path)
    else:
        prefix = "" if form == "plain" else form
        torch.save({prefix + key: value for key, value in state.items()}, path)
    checkpoint = load_checkpoint(path)
    assert checkpoint.backbone == VideoNetwork("r3d_18", 5)
    assert checkpoint.name == "weights"
    assert checkpoint.labels is None
    assert "taken for a r3d_18" in checkpoint.notes[-1]
    for key, tensor in checkpoint.state.items():
        assert torch.equal(tensor, state[key])


def test_the_tensors_of_the_requested_layers_are_loaded_alone(saved: Path) -> None:
    assert set(load_checkpoint(saved).state) - set(load_checkpoint(saved, layers=()).state) == {
        "fc.weight", "fc.bias",
    }  # fmt: skip
    with pytest.raises(UsageError, match="unknown layer of r3d_18; known: layer4, avgpool, logits, prob"):
        load_checkpoint(saved, layers=["fc6"])


def test_tables_of_positions_are_never_read_from_a_file(tmp_path: Path) -> None:
    state = random_state("swin3d_t", 2)
    tables = {key: torch.full_like(value, 1 << 60) for key, value in state.items() if "index" in key}
    assert tables
    torch.save(state | tables, tmp_path / "hostile")
    checkpoint = load_checkpoint(tmp_path / "hostile")
    assert checkpoint.backbone == VideoNetwork("swin3d_t", 2)
    assert not set(checkpoint.state) & set(tables)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"layer4.1.conv2.1.running_var": None}, "not a whole r3d_18: lacks layer4.1.conv2.1"),
        ({"fc.bias": torch.zeros(3)}, "fc.bias has shape 3, but the network needs 400"),
        ({"stem.1.weight": torch.full((64,), float("nan"))}, "stem.1.weight has values that are not finite"),
        ({"extra": torch.zeros(2)}, None),
    ],
)
def test_damaged_files_are_refused_in_one_line(
    change: dict[str, Any], said: str | None, state: dict[str, Tensor], tmp_path: Path
) -> None:
    changed = {key: value for key, value in (state | change).items() if value is not None}
    torch.save(changed, tmp_path / "damaged")
    if said is None:
        assert "ignored 1 tensors" in load_checkpoint(tmp_path / "damaged").notes[0]
        return
    with pytest.raises(WeightsError, match=said) as caught:
        load_checkpoint(tmp_path / "damaged")
    assert "\n" not in str(caught.value)


def test_what_is_for_c3d_alone_says_so(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is for C3D, and this is a r3d_18"):
        load_checkpoint(saved, pool5="ceil")
    with pytest.raises(WeightsError, match="is a r3d_18, and this is for C3D and its family alone"):
        verify(saved, {}, [], mean="1,2,3")
    done = CliRunner().invoke(weights_command.command, ["verify", str(saved), "--frames", str(tmp_path)])
    assert done.exit_code == 2
    assert "--frames: is for C3D, and this is a r3d_18" in done.stderr


def test_verify_says_whether_a_file_is_the_published_one(
    record: Published, saved: Path, tmp_path: Path
) -> None:
    done = CliRunner().invoke(weights_command.command, ["verify", str(saved)])
    assert done.exit_code == 0, done.output
    assert "r3d_18: 33,371,472 parameters, 400 classes; all 102 tensors are there and finite" in done.output
    assert f"sha256 {record.sha256}… is that of the published r3d_18." in done.output
    other = tmp_path / "converted.safetensors"
    convert(saved, other)
    done = CliRunner().invoke(weights_command.command, ["verify", str(other), "--json"])
    assert done.exit_code == 1
    found = json.loads(done.stdout)
    assert found["published"] is None
    assert found["network"]["name"] == "r3d_18"


@pytest.mark.parametrize("name", ["r3d_18", "res3d_18"])
def test_a_converted_file_holds_the_same_network_and_all_that_its_features_depend_on(
    name: str, tmp_path: Path
) -> None:
    source, output = tmp_path / "any name", tmp_path / "out.safetensors"
    torch.save(random_state(name, n_classes=5), source)
    before, rounding = convert(source, output)
    after = load_checkpoint(output)
    assert rounding.weights == 0
    assert after.backbone == before.backbone == VideoNetwork(name, 5)
    assert after.preprocessing == before.preprocessing
    np.testing.assert_array_equal(after.mean, before.mean)
    assert after.tensors_sha256 == before.tensors_sha256
    assert set(after.state) == set(before.state)
    assert all(torch.equal(after.state[key], tensor) for key, tensor in before.state.items())
    assert after.notes == []
    with pytest.raises(UsageError, match=f"is for C3D, and this is a {name}"):
        load_checkpoint(output, pool5="ceil")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"n_classes": 0}, "a mc3_18 has 1 to 65536 classes, not 0"),
        ({"n_classes": "400"}, "its classes are '400'"),
        ({"n_classes": 6}, "fc.weight has shape 5x512, but the network needs 6x512"),
        ({"clip": [32, 112, 112]}, r"a mc3_18 takes clips of \(16, 112, 112\), not of \[32, 112, 112\]"),
        ({"name": "mc3_19"}, "not a description of an architecture"),
        ({"name": "r2plus1d_18"}, "not a whole r2plus1d_18: lacks"),
        ({"name": ["mc3_18"]}, "not a description of an architecture"),
    ],
)
def test_a_description_that_does_not_fit_is_refused_in_one_line(
    change: dict[str, Any], said: str, tmp_path: Path
) -> None:
    network, path = VideoNetwork("mc3_18", 5), tmp_path / "x"
    header = {
        "format": 1,
        "name": "x",
        "architecture": network.to_json() | change,
        "preprocessing": network.preprocessing.to_json(),
        "mean_name": "m",
    }
    tensors = {key: value for key, value in random_state("mc3_18", 5).items() if value.is_floating_point()}
    save_file(tensors | {"mean": torch.zeros(3, 1, 1, 1)}, path, {"c3d_extract": json.dumps(header)})
    with pytest.raises(WeightsError, match=said) as caught:
        load_checkpoint(path)
    assert "\n" not in str(caught.value)


def test_the_mean_and_the_channel_order_can_be_overridden(saved: Path) -> None:
    checkpoint = load_checkpoint(saved, mean="1,2,3", colour="bgr")
    assert checkpoint.mean.ravel().tolist() == [1, 2, 3]
    assert checkpoint.preprocessing.colour == "bgr"
    assert checkpoint.identity()["colour"] == "bgr"


def test_they_are_listed_and_shown() -> None:
    listed = CliRunner().invoke(weights_command.command, ["list"])
    assert listed.exit_code == 0, listed.output
    shown = CliRunner().invoke(weights_command.command, ["show", "swin3d_b_22k"])
    assert shown.exit_code == 0, shown.output
    for name in (*NETWORKS, "swin3d_b_22k"):
        assert name in listed.output
    for fact in ("81.643", "32 x 224 x 224", "swin3d_b_22k-7c6ae6fa.pth", "shorter side 256"):
        assert fact in shown.output


def test_a_torchvision_that_does_not_import_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "torchvision.models", None)
    with pytest.raises(WeightsError, match="torchvision: cannot be imported"):
        published.__wrapped__()
