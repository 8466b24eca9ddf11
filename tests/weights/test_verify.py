"""``verify`` finds how a checkpoint must be run, against outputs of OpenCV and plain torch."""

from __future__ import annotations

import functools
import hashlib
import http.server
import io
import json
import tarfile
import threading
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from checkpoint_writers import DAVIDEA, random_state, write_keras, write_torch
from click.testing import CliRunner
from known_outputs import CLIPS, plain_outputs, write_frames

from c3d_extract.cli import weights as cli
from c3d_extract.decode import read_frame_folder
from c3d_extract.errors import FetchError, WeightsError
from c3d_extract.models.c3d import ARCHITECTURES
from c3d_extract.weights import goldens as goldens_module
from c3d_extract.weights import load as load_module
from c3d_extract.weights import load_checkpoint, load_registry, measure, verify
from c3d_extract.weights import locate as locate_module
from c3d_extract.weights import registry as registry_module
from c3d_extract.weights.goldens import KnownClip, known_clips, read_goldens, sample_frames
from c3d_extract.weights.registry import RegistryEntry, RemoteFile, listed_entries

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    Goldens = Callable[[str, str], Path]

NARROW = replace(ARCHITECTURES["c3d"].scaled(1 / 64), n_classes=7)
STATE = random_state(NARROW.state_shapes(), seed=1)
MEAN = (100.0, 108.0, 107.0)
MEAN_TEXT = "100,108,107"


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two folders of numbered JPEGs of moving, coloured noise."""
    return write_frames(tmp_path_factory.mktemp("frames"))


def read(folder: Path) -> dict[str, Iterator[NDArray[np.uint8]]]:
    """The videos in a folder, as `verify` takes them."""
    return {path.name: read_frame_folder(path) for path in folder.iterdir() if path.is_dir()}


@pytest.fixture(scope="module")
def goldens(frames: Path, tmp_path_factory: pytest.TempPathFactory) -> Goldens:
    """A file of the outputs of STATE by colour and pool5, each computed once."""
    folder = tmp_path_factory.mktemp("goldens")

    @functools.cache
    def write(colour: str, pool5: str) -> Path:
        path = folder / f"{colour}-{pool5}.npz"
        fc6, prob = plain_outputs(STATE, frames, colour, pool5, MEAN)
        np.savez(path, names=np.array([f"{video}/{start:06d}" for video, start in CLIPS]), fc6=fc6, prob=prob)
        return path

    return write


@pytest.mark.parametrize("colour", ["bgr", "rgb"])
@pytest.mark.parametrize("pool5", ["ceil", "symmetric"])
def test_the_combination_behind_known_outputs_is_found(
    colour: str, pool5: str, frames: Path, goldens: Goldens, tmp_path: Path
) -> None:
    write_torch(tmp_path / "x.pth", STATE, DAVIDEA)
    known = read_goldens(goldens(colour, pool5))
    verdict = verify.verify(tmp_path / "x.pth", read(frames), known, mean=MEAN_TEXT)
    assert verdict.match is not None
    assert (verdict.match.colour, verdict.match.pool5) == (colour, pool5)
    # The same arithmetic by other routines; JPEG decoders may differ by a grey level here and there.
    assert verdict.match.vector_error is not None
    assert verdict.match.vector_error < 5e-3
    assert [one.matches for one in verdict.combinations] == [True, False, False, False]
    assert verdict.match.n_top == len(CLIPS)


def test_row_facts_alone_find_it_too(frames: Path, goldens: Goldens, tmp_path: Path) -> None:
    write_torch(tmp_path / "x.pth", STATE, DAVIDEA)
    known = read_goldens(goldens("bgr", "ceil"))
    verdict = verify.verify(
        tmp_path / "x.pth", read(frames), [replace(clip, fc6=None) for clip in known], mean=MEAN_TEXT
    )
    assert verdict.match is not None
    assert (verdict.match.colour, verdict.match.pool5, verdict.match.vector_error) == ("bgr", "ceil", None)


def test_another_checkpoint_matches_as_none(frames: Path, goldens: Goldens, tmp_path: Path) -> None:
    known = read_goldens(goldens("bgr", "ceil"))
    write_torch(tmp_path / "y.pth", random_state(NARROW.state_shapes(), seed=2), DAVIDEA)
    assert verify.verify(tmp_path / "y.pth", read(frames), known, mean=MEAN_TEXT).match is None
    facts = [replace(clip, fc6=None) for clip in known]
    assert verify.verify(tmp_path / "y.pth", read(frames), facts, mean=MEAN_TEXT).match is None


def test_the_order_of_fc6_is_measured(frames: Path, goldens: Goldens, tmp_path: Path) -> None:
    write_keras(tmp_path / "x.h5", STATE, order="hwc")
    known = read_goldens(goldens("bgr", "ceil"))
    verdict = verify.verify(tmp_path / "x.h5", read(frames), known, mean=MEAN_TEXT)
    assert len(verdict.combinations) == 8
    assert verdict.match is not None
    assert (verdict.match.fc6_order, verdict.match.colour, verdict.match.pool5) == ("hwc", "bgr", "ceil")


def test_videos_without_frames_are_left_out_and_named(frames: Path, goldens: Goldens, tmp_path: Path) -> None:
    write_torch(tmp_path / "x.pth", STATE, DAVIDEA)
    known = read_goldens(goldens("bgr", "ceil"))
    extra = [*known, replace(known[0], video="elsewhere")]
    verdict = verify.verify(tmp_path / "x.pth", read(frames), extra, mean=MEAN_TEXT)
    assert verdict.match is not None
    assert any("elsewhere" in remark for remark in verdict.notes)
    with pytest.raises(WeightsError, match="no frames of a known clip"):
        verify.verify(tmp_path / "x.pth", {}, known, mean=MEAN_TEXT)


def test_the_facts_of_this_package_are_those_of_the_original_tools_output(shared_data: Path) -> None:
    computed = read_goldens(shared_data / "golden/golden_frm_16clips.npz")
    for fact, clip in zip(known_clips(), computed, strict=True):
        assert (fact.video, fact.start, fact.top_class) == (clip.video, clip.start, clip.top_class)
        # The facts are rounded to four, three and three decimals.
        np.testing.assert_allclose(fact.norm, clip.norm, atol=6e-5)
        np.testing.assert_allclose(fact.maximum, clip.maximum, atol=6e-4)
        np.testing.assert_allclose(fact.non_zero, clip.non_zero, atol=6e-4)


def test_the_known_clips_exist_in_the_sample_frames(shared_data: Path) -> None:
    folder = shared_data / "samples/facebook_C3D/frm"
    compared = measure.cut_clips(read(folder), known_clips(), ARCHITECTURES["c3d"])
    assert len(compared.known) == 16
    assert compared.crops.shape == (16, 16, 112, 112, 3)


# The sample frames are fetched -----------------------------------------------------------------------


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder, and the address under which it is served."""
    folder = tmp_path / "served"
    folder.mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...

    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    yield folder, f"http://127.0.0.1:{httpd.server_address[1]}"
    httpd.shutdown()
    httpd.server_close()


@pytest.fixture
def online(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("C3D_OFFLINE", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path / "torch/hub/checkpoints"


def archive(path: Path, files: dict[str, bytes]) -> None:
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def test_sample_frames_are_fetched_checked_and_unpacked_without_leaving_the_cache(
    served: tuple[Path, str], online: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, address = served
    content = {
        "v/000002.jpg": b"two",
        "../../v/000001.jpg": b"one",
        "/etc/evil": b"no",
        "v/readme.txt": b"no",
    }
    archive(folder / "v.tar.gz", content)
    frames = {"v": {"sha256": hashlib.sha256(b"onetwo").hexdigest(), "mirrors": [f"{address}/v.tar.gz"]}}
    monkeypatch.setattr(goldens_module, "_facts", lambda: {"frames": frames, "clips": []})
    where = sample_frames()
    assert {
        str(file.relative_to(online)): file.read_bytes() for file in online.rglob("*") if file.is_file()
    } == {
        "c3d_sample_frames/v/000001.jpg": b"one",
        "c3d_sample_frames/v/000002.jpg": b"two",
    }
    (folder / "v.tar.gz").unlink()
    assert sample_frames() == where  # and are fetched once


def test_other_frames_are_not_taken_and_the_manual_way_is_named(
    served: tuple[Path, str], online: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, address = served
    archive(folder / "v.tar.gz", {"v/000001.jpg": b"something else"})
    monkeypatch.setattr(
        goldens_module,
        "_facts",
        lambda: {"frames": {"v": {"sha256": "0" * 64, "mirrors": [f"{address}/v.tar.gz"]}}, "clips": []},
    )
    with pytest.raises(FetchError, match=r"its frames have sha256.*--frames"):
        sample_frames()
    assert not (online / "c3d_sample_frames/v").exists()


# Fetched on first use --------------------------------------------------------------------------------


def register(monkeypatch: pytest.MonkeyPatch, file: RemoteFile) -> RegistryEntry:
    record = RegistryEntry(
        name="served",
        title="served by a test",
        file=file,
        layout="pytorch-davidea",
        trained_on="noise",
        licence="CC0",
        n_classes=7,
        pool5="ceil",
        colour="bgr",
        mean="1,2,3",
    )
    changed = replace(load_registry(), checkpoints=load_registry().checkpoints | {"served": record})
    for module in (registry_module, locate_module, load_module, cli):
        monkeypatch.setattr(module, "load_registry", lambda: changed)
    monkeypatch.setattr(locate_module, "NETWORK", NARROW)
    return record


def test_a_registered_checkpoint_is_fetched_on_first_use_with_its_licence_named_once(
    served: tuple[Path, str], online: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, address = served
    write_torch(folder / "net", STATE, DAVIDEA)
    register(monkeypatch, RemoteFile("net.pth", (f"{address}/net",)))
    notes = load_checkpoint("served").notes
    assert any("CC0" in remark and str(online) in remark for remark in notes)
    assert not any("CC0" in remark for remark in load_checkpoint("served", offline=True).notes)


def test_a_file_of_no_known_hash_that_is_no_network_is_not_kept(
    served: tuple[Path, str], online: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, address = served
    torch.save({"conv1.weight": torch.zeros(3)}, folder / "net")
    register(monkeypatch, RemoteFile("net.pth", (f"{address}/net",)))
    with pytest.raises(FetchError, match="no tensors of a known C3D layout"):
        load_checkpoint("served")
    assert list(online.iterdir()) == []


# The command line ------------------------------------------------------------------------------------


def run(*words: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(cli.command, [str(word) for word in words])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout, result.stderr


@pytest.mark.usefixtures("terminal")
def test_list_fits_80_columns_and_names_every_record() -> None:
    code, out, _ = run("list")
    assert code == 0
    assert all(name in out for name in listed_entries())
    assert all(len(line) <= 80 for line in out.splitlines())
    assert "…" not in out


def test_list_and_show_as_json() -> None:
    listed = json.loads(run("list", "--json")[1])
    names = [record["name"] for record in listed]
    assert names == list(listed_entries())
    assert names[: len(load_registry().checkpoints)] == list(load_registry().checkpoints)
    shown = json.loads(run("show", "sports1m", "--json")[1])
    assert shown["file"]["sha256"].startswith("de192a0b")
    assert shown["pool5"] == "ceil"


def test_show_says_what_is_known_and_what_is_not() -> None:
    code, out, _ = run("show", "ucf101-mmaction2")
    assert code == 0
    assert all(fact in out for fact in ("symmetric", "128,117,104", "31723200", "unknown", "CC BY-NC"))
    code, _, err = run("show", "sports2m")
    assert code == 1
    assert err.startswith("Error: sports2m: neither a file nor a registered checkpoint; close names:")


def test_show_describes_a_file_and_does_without_its_mean(tmp_path: Path) -> None:
    like_sports1m = replace(NARROW, n_classes=487)
    write_torch(tmp_path / "x.pth", random_state(like_sports1m.state_shapes(), seed=1), DAVIDEA)
    code, out, _ = run("show", tmp_path / "x.pth", "--json")
    assert code == 0
    shown = json.loads(out)
    assert shown["weights_sha256"] == hashlib.sha256((tmp_path / "x.pth").read_bytes()).hexdigest()
    assert shown["layout"] == "pytorch-davidea"
    assert shown["layers"]["fc6"] == NARROW.hidden[0]
    assert "not on this machine" in shown["mean"]
    assert "not a registered file" in shown["notes"][0]
    (tmp_path / "text.pth").write_text("hello")
    code, out, err = run("show", tmp_path / "text.pth")
    assert (code, out) == (1, "")
    assert err.startswith(f"Error: {tmp_path / 'text.pth'}: of no layout we read")


def test_show_reads_what_an_embedded_file_says_of_itself() -> None:
    if "state                here" not in run("show", "motion-mini")[1]:
        pytest.skip("the embedded checkpoint is not in this checkout")
    shown = json.loads(run("show", "motion-mini", "--json")[1])
    assert len(shown["labels"]) == shown["n_classes"]
    assert shown["pool5"] in {"ceil", "symmetric"}


def test_fetch_prints_where_the_file_is(
    served: tuple[Path, str], online: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, address = served
    write_torch(folder / "net", STATE, DAVIDEA)
    register(monkeypatch, RemoteFile("net.pth", (f"{address}/net",)))
    code, out, err = run("fetch", "served")
    assert (code, out) == (0, f"{online / 'net.pth'}\n")
    assert "Licence: CC0" in err
    assert "sha256" in err  # none is published, so it is shown
    (online / "net.pth").unlink()
    code, _, err = run("fetch", "served", "--offline")
    assert code == 1
    assert "offline" in err


def test_convert_writes_what_it_read(tmp_path: Path) -> None:
    write_torch(tmp_path / "x.pth", STATE, DAVIDEA)
    code, out, err = run("convert", tmp_path / "x.pth", tmp_path / "x.safetensors", "--mean", MEAN_TEXT)
    assert code == 0
    assert "the same to the bit" in out
    assert "symmetric" in err  # what was assumed
    written = load_checkpoint(tmp_path / "x.safetensors")
    assert all(np.array_equal(written.state[name].numpy(), STATE[name]) for name in STATE)
    assert written.architecture.pool5 == "symmetric"
    assert written.mean.ravel().tolist() == list(MEAN)
    assert run("convert", tmp_path / "x.pth", tmp_path / "x.safetensors", "--mean", MEAN_TEXT)[0] == 2
    assert run("convert", tmp_path / "x.safetensors", tmp_path / "x.safetensors", "--overwrite")[0] == 2
    assert load_checkpoint(tmp_path / "x.safetensors").sha256 == written.sha256


def test_convert_to_half_states_its_error(tmp_path: Path) -> None:
    write_torch(tmp_path / "x.pth", STATE, DAVIDEA)
    code, out, _ = run(
        "convert", tmp_path / "x.pth", tmp_path / "h.safetensors", "--mean", MEAN_TEXT, "--dtype", "fp16"
    )
    assert code == 0
    # Half precision keeps 11 bits: at most 2^-11 = 4.9e-4 a weight, about half of it on average.
    whole = float(out.split("weights differ by ")[1].split()[0])
    assert 1e-4 < whole < 4.9e-4
    assert (tmp_path / "h.safetensors").stat().st_size < 0.6 * (tmp_path / "x.pth").stat().st_size


def test_verify_says_what_matches_and_exits_with_1_for_none(
    frames: Path, goldens: Goldens, tmp_path: Path
) -> None:
    write_torch(tmp_path / "x.pth", STATE, DAVIDEA)
    known = goldens("rgb", "symmetric")
    words = ["--frames", frames, "--goldens", known, "--mean", MEAN_TEXT]
    code, out, _ = run("verify", tmp_path / "x.pth", *words)
    assert code == 0
    assert "It matches as rgb symmetric" in out
    assert (
        json.loads(run("verify", tmp_path / "x.pth", *words, "--json", "-q")[1])["match"]["pool5"]
        == "symmetric"
    )
    write_torch(tmp_path / "y.pth", random_state(NARROW.state_shapes(), seed=3), DAVIDEA)
    code, out, _ = run("verify", tmp_path / "y.pth", *words)
    assert code == 1
    assert "None matches" in out


def test_goldens_that_are_not_are_refused_in_one_line(frames: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.npz").write_bytes(b"PK\x03\x04 but no zip")
    code, _, err = run("verify", "x", "--frames", frames, "--goldens", tmp_path / "bad.npz")
    assert code == 1
    assert "not a file of known outputs" in err
    assert KnownClip("v", 1, 1.0, 1.0, 1.0).fc6 is None
